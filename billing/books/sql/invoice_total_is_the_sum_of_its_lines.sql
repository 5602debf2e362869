-- The total of an invoice is the sum of its lines.
-- The customer reads one amount and pays another. Credit it and issue it anew.
SELECT i.id AS invoice_id, i.number, i.total_minor, coalesce(l.sum_minor, 0) AS lines_minor
  FROM billing_invoice i
  LEFT JOIN (SELECT invoice_id, sum(amount_minor)::bigint AS sum_minor
               FROM billing_lineitem GROUP BY invoice_id) l ON l.invoice_id = i.id
 WHERE i.total_minor <> coalesce(l.sum_minor, 0)
