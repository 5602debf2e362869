-- The amount of a line is rounded once, half up, to the minor unit of its currency.
-- The invoice is off by a minor unit or more. If many are, a currency's exponent is wrong: see
-- billing/money.py.
SELECT l.id AS line_id, l.invoice_id, i.currency, l.amount_unrounded, l.amount_minor, l.rounded_minor
  FROM (SELECT line.id, invoice_id, line.amount_unrounded, line.amount_minor,
               -- From the factors where there are any: their product may have more decimals than are stored.
               round(coalesce((quantity - free_quantity) * unit_price, amount_unrounded)
                     * coalesce(m.minor_per_major, 100)) AS rounded_minor
          FROM billing_lineitem line
          JOIN billing_invoice ON billing_invoice.id = line.invoice_id
          LEFT JOIN books_minor_units m ON m.currency = billing_invoice.currency) l
  JOIN billing_invoice i ON i.id = l.invoice_id
 WHERE l.amount_minor <> l.rounded_minor
