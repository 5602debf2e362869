-- Every use of credit has its ledger entry of its amount, and every such entry its allocation.
-- The invoice counts as paid and the debt stands in the ledger, or the other way round. Book the
-- missing half.
SELECT x.id AS allocation_id, x.grant_id, x.amount_minor, e.entry_id, e.source, e.customer_credit_minor
  FROM (SELECT * FROM billing_allocation WHERE grant_id IS NOT NULL AND reverses_id IS NULL) x
  FULL JOIN (SELECT * FROM books_entry WHERE kind = 'CREDIT_APPLIED') e ON e.source = 'allocation:' || x.id
 WHERE (x.amount_minor, -x.amount_minor) IS DISTINCT FROM (e.customer_credit_minor, e.receivable_minor)
