-- A step waits only for a step that has not ended.
-- Nothing will ever wake it, and its run will never finish. Cancel it, or make it ready, with the
-- buttons of the run.
SELECT s.id AS step_id, s.run_id, s.account_id, s.kind, b.kind AS follows, b.state AS which_is
  FROM billing_step s
  JOIN (VALUES ('CHARGE', 'INVOICE'), ('EMAIL', 'INVOICE'), ('HOLD', 'CHARGE')) AS f (kind, follows) ON f.kind = s.kind
  JOIN billing_step b ON b.run_id = s.run_id AND b.account_id = s.account_id AND b.kind = f.follows
 WHERE s.state = 'WAITING' AND b.state IN ('DONE', 'SKIPPED', 'BLOCKED', 'DEAD', 'CANCELLED')
