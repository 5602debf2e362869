-- The unrounded amount of a line that has a unit price is its quantity, less what is free, times it.
-- The line does not explain its amount. Compare with the catalogue's price, then credit the difference.
--
-- Half of the last stored decimal is what storing it may have rounded.
SELECT id AS line_id, invoice_id, quantity, free_quantity, unit_price, amount_unrounded
  FROM billing_lineitem
 WHERE abs(amount_unrounded - (quantity - free_quantity) * unit_price) > 0.0000000000000000005
