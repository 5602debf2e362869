-- A step starts only when the step it follows is done or skipped.
-- A customer may have been charged before being invoiced, or held before the charge had ended. Look at
-- the decisions of the account.
SELECT s.id AS step_id, s.run_id, s.account_id, s.kind, s.state, b.kind AS follows, b.state AS which_is
  FROM billing_step s
  JOIN books_follows f ON f.kind = s.kind
  JOIN billing_step b ON b.run_id = s.run_id AND b.account_id = s.account_id AND b.kind = f.follows
 WHERE s.state IN ('READY', 'RUNNING', 'UNKNOWN', 'DONE', 'SKIPPED', 'DEAD')
   AND b.state NOT IN ('DONE', 'SKIPPED')
