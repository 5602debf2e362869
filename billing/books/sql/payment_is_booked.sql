-- Every payment has its ledger entry, and every such entry its payment.
-- Money was received and not booked, or booked and never received. Book it, or reverse the entry.
SELECT p.id AS payment_id, p.gateway, p.provider_ref, p.amount_minor, e.id AS entry_id, e.source
  FROM billing_payment p
  FULL JOIN (SELECT id, source FROM billing_ledgerentry WHERE kind = 'PAYMENT_RECEIVED') e
       ON e.source = 'payment:' || p.id
 WHERE p.id IS NULL OR e.id IS NULL
