-- An account whose closing stands is closed.
-- Closes and charges go by the closing, people by what the account says. Open the account again, or close it, in the admin.
SELECT c.id AS closure_id, c.account_id, a.state, c.closed_at
  FROM billing_accountclosure c
  JOIN accounts_account a ON a.id = c.account_id
 WHERE c.reopened_at IS NULL AND a.state <> 'CLOSED'
