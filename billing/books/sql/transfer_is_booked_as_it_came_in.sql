-- Every booked bank transfer is a payment of its amount, and every payment by bank transfer a booked transfer.
-- Money is booked that no statement shows, or not as it came in. Compare with the bank's statement of that day.
--
-- A payment names the bank's id and which transfer of ours it is; those of before only the bank's id.
SELECT t.id AS transfer_id, coalesce(t.bank_ref, p.provider_ref) AS bank_ref, t.state, t.currency,
       t.amount_minor AS came_in_minor, p.id AS payment_id, p.account_id, p.amount_minor AS paid_minor
  FROM (SELECT * FROM billing_incomingtransfer WHERE payment_id IS NOT NULL) t
  FULL JOIN (SELECT * FROM billing_payment WHERE gateway = 'transfer') p ON p.id = t.payment_id
 WHERE t.id IS NULL OR p.id IS NULL OR t.state <> 'BOOKED'
    OR (t.currency, t.amount_minor) <> (p.currency, p.amount_minor)
    OR p.provider_ref NOT IN (t.bank_ref, t.bank_ref || '#' || t.id)
