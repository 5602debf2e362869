-- Every invoice is for a period of its own account.
-- Someone else's month was billed. Credit it, and bill the right account.
SELECT i.id AS invoice_id, i.number, i.account_id, p.account_id AS period_of_account_id
  FROM billing_invoice i
  JOIN billing_billingperiod p ON p.id = i.period_id
 WHERE p.account_id <> i.account_id
