-- Every dispute that was won has its ledger entry, and every such entry its won dispute.
-- The money is back and the books do not have it, or the other way round. Book the missing half.
SELECT d.id AS dispute_id, d.payment_id, d.amount_minor, e.id AS entry_id, e.source
  FROM (SELECT * FROM billing_dispute WHERE state = 'WON') d
  FULL JOIN (SELECT id, source FROM billing_ledgerentry WHERE kind = 'DISPUTE_WON') e
       ON e.source = 'dispute:' || d.id
 WHERE d.id IS NULL OR e.id IS NULL
