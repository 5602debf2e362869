-- A line bills a usage summary that its own invoice has taken, of the same account.
-- One account pays for another's usage, or pays on an invoice that does not show it. Credit the line.
SELECT l.id AS line_id, l.invoice_id, s.id AS summary_id, s.invoice_id AS taken_by_invoice_id,
       i.account_id, s.account_id AS used_by_account_id
  FROM billing_lineitem l
  JOIN billing_invoice i ON i.id = l.invoice_id
  JOIN billing_usagesummary s ON s.id = l.summary_id
 WHERE s.invoice_id IS DISTINCT FROM l.invoice_id OR s.account_id <> i.account_id
