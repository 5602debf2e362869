-- Every payment that went back has its ledger entry, and every such entry its reversal.
-- The money is gone and the books have it, or the other way round. Book the missing half.
SELECT r.id AS reversal_id, r.payment_id, r.amount_minor, e.id AS entry_id, e.source
  FROM billing_paymentreversal r
  FULL JOIN (SELECT id, source FROM billing_ledgerentry WHERE kind = 'PAYMENT_REVERSED') e
       ON e.source = 'reversal:' || r.id
 WHERE r.id IS NULL OR e.id IS NULL
