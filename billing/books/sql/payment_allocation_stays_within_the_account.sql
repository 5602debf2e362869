-- Payments and credit settle invoices of their own account and currency.
-- One customer has paid for another. Book both back by entries, and allocate anew.
SELECT x.id AS allocation_id, x.amount_minor, x.invoice_id, i.account_id, i.currency,
       coalesce(p.account_id, g.account_id) AS paid_by_account_id, coalesce(p.currency, g.currency) AS paid_in
  FROM billing_allocation x
  JOIN billing_invoice i ON i.id = x.invoice_id
  LEFT JOIN billing_payment p ON p.id = x.payment_id
  LEFT JOIN billing_creditgrant g ON g.id = x.grant_id
 WHERE (i.account_id, i.currency)
       IS DISTINCT FROM (coalesce(p.account_id, g.account_id), coalesce(p.currency, g.currency))
