-- Every issued invoice has its ledger entry, unless its total is zero, and every such entry its invoice.
-- It is owed but not charged, or charged but not owed. Book the missing half, or reverse the entry.
SELECT i.id AS invoice_id, i.number, i.total_minor, e.id AS entry_id, e.source
  FROM (SELECT id, number, total_minor FROM billing_invoice WHERE state = 'ISSUED' AND total_minor <> 0) i
  FULL JOIN (SELECT id, source FROM billing_ledgerentry WHERE kind = 'INVOICE_ISSUED') e
       ON e.source = 'invoice:' || i.id
 WHERE i.id IS NULL OR e.id IS NULL
