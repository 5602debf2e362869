-- An allocation is taken back by no more than it was, on its own invoice, of its own source.
-- An invoice is owed again that this money had not settled. Allocate the difference anew.
SELECT a.id AS allocation_id, a.invoice_id, a.amount_minor, -sum(x.amount_minor)::bigint AS taken_back_minor
  FROM billing_allocation x
  JOIN billing_allocation a ON a.id = x.reverses_id
 GROUP BY a.id, a.invoice_id, a.amount_minor, a.payment_id, a.grant_id, a.reverses_id
HAVING -sum(x.amount_minor) > a.amount_minor
    OR a.reverses_id IS NOT NULL
    OR bool_or((x.invoice_id, x.payment_id, x.grant_id) IS DISTINCT FROM (a.invoice_id, a.payment_id, a.grant_id))
