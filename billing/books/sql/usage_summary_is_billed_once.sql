-- A usage summary is on at most one line.
-- The same usage is billed twice. Credit one of the lines.
SELECT summary_id, count(*) AS lines, min(invoice_id) AS first_invoice_id, max(invoice_id) AS last_invoice_id
  FROM billing_lineitem
 WHERE summary_id IS NOT NULL
 GROUP BY summary_id
HAVING count(*) > 1
