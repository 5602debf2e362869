-- Every usage summary is in a period of its own account.
-- The usage would be billed in a month that is not the account's. Look at what wrote it.
SELECT s.id AS summary_id, s.account_id, p.account_id AS period_of_account_id
  FROM billing_usagesummary s
  JOIN billing_billingperiod p ON p.id = s.period_id
 WHERE p.account_id <> s.account_id
