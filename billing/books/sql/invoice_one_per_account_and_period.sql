-- An account has at most one invoice for a period.
-- It was billed twice for a month. Credit one of them before it is charged.
SELECT account_id, period_id, count(*) AS invoices, min(id) AS first_invoice_id, max(id) AS last_invoice_id
  FROM billing_invoice
 GROUP BY account_id, period_id
HAVING count(*) > 1
