-- A usage summary that an invoice has taken is a line of it.
-- The usage counts as billed, but nobody was billed for it. Add it to the next invoice as an ADJUSTMENT.
SELECT s.id AS summary_id, s.account_id, s.invoice_id, s.quantity, s.unit
  FROM billing_usagesummary s
  LEFT JOIN billing_lineitem l ON l.summary_id = s.id
 WHERE s.invoice_id IS NOT NULL AND l.id IS NULL
