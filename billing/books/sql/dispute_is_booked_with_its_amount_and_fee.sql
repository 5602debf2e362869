-- A dispute that withdrew money is booked once, on its payment's account: its amount and its fee have left cash.
-- Cash in the ledger is not what the gateway pays out. Book the missing entry, or correct it by another one.
SELECT d.id AS dispute_id, d.state, d.amount_minor, d.fee_minor, e.id AS entry_id, e.source, t.disputed_minor,
       t.fees_minor, t.cash_minor
  FROM billing_dispute d
  JOIN billing_payment p ON p.id = d.payment_id
  FULL JOIN (SELECT * FROM billing_ledgerentry WHERE kind = 'DISPUTE_OPENED') e ON e.source = 'dispute:' || d.id
  LEFT JOIN LATERAL (
        SELECT coalesce(sum(x.amount_minor) FILTER (WHERE l.kind = 'DISPUTED' AND l.gateway = d.gateway), 0) AS disputed_minor,
               coalesce(sum(x.amount_minor) FILTER (WHERE l.kind = 'DISPUTE_FEES'), 0) AS fees_minor,
               coalesce(sum(x.amount_minor) FILTER (WHERE l.kind = 'CASH' AND l.gateway = d.gateway), 0) AS cash_minor
          FROM billing_posting x
          JOIN billing_ledgeraccount l ON l.id = x.ledger_account_id
         WHERE x.entry_id = e.id) t ON true
 WHERE (e.id IS NOT NULL) IS DISTINCT FROM (d.state <> 'INQUIRY')
    OR e.id IS NOT NULL
   AND (p.account_id, p.gateway, p.currency, d.account_id, d.currency, d.amount_minor, d.fee_minor, -d.amount_minor - d.fee_minor)
       IS DISTINCT FROM (d.account_id, d.gateway, d.currency, e.account_id, e.currency, t.disputed_minor, t.fees_minor, t.cash_minor)
