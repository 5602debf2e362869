-- A step waits only for a step that has not ended.
-- Whoever ended that one did not wake it, and its run does not finish. The next sweep does: does anybody
-- sweep?
SELECT s.id AS step_id, s.run_id, s.account_id, s.kind, b.kind AS follows, b.state AS which_is
  FROM billing_step s
  JOIN books_follows f ON f.kind = s.kind
  JOIN billing_step b ON b.run_id = s.run_id AND b.account_id = s.account_id AND b.kind = f.follows
 WHERE s.state = 'WAITING' AND b.state IN ('DONE', 'SKIPPED', 'BLOCKED', 'DEAD', 'CANCELLED')
