-- Nothing is charged by itself of an account while it is closed, but the one charge that its closing decided on.
-- A customer who was told that it is over has been charged. Pay it back, and find out what has charged.
SELECT t.id AS attempt_id, t.account_id, t.kind, t.run_id, t.amount_minor, t.created_at, c.closed_at
  FROM billing_accountclosure c
  JOIN billing_paymentattempt t ON t.account_id = c.account_id
 WHERE (t.run_id IS NOT NULL OR t.kind = 'RETRY')
   AND t.created_at > c.locked_at AND (c.reopened_at IS NULL OR t.created_at < c.reopened_at)
