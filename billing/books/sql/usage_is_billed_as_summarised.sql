-- A line bills the product, quantity and stated price of its summary.
-- The customer was billed for something else than what was measured. Credit the difference.
SELECT l.id AS line_id, l.invoice_id, s.id AS summary_id, s.quantity AS quantity_summarised, l.quantity AS quantity_billed,
       s.unit_price AS price_summarised, l.unit_price AS price_billed, s.amount AS amount_summarised, l.amount_unrounded AS amount_billed
  FROM billing_lineitem l
  JOIN billing_usagesummary s ON s.id = l.summary_id
 WHERE (l.product_id, l.kind, l.unit, l.quantity) <> (s.product_id, s.kind, s.unit, s.quantity)
    OR l.unit_price <> s.unit_price
    OR l.amount_unrounded <> s.amount
