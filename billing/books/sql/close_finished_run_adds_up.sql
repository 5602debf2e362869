-- In a finished run, done, skipped, blocked, dead and cancelled steps are all there are.
-- The run was reported as finished while something was open. Its report may lack it: compare with
-- close_report.
SELECT r.id AS run_id, r.month, count(*) AS steps,
       count(*) FILTER (WHERE s.state IN ('DONE', 'SKIPPED', 'BLOCKED', 'DEAD', 'CANCELLED')) AS ended
  FROM billing_closerun r
  JOIN billing_step s ON s.run_id = r.id
 WHERE r.state = 'FINISHED'
 GROUP BY r.id, r.month
HAVING count(*) <> count(*) FILTER (WHERE s.state IN ('DONE', 'SKIPPED', 'BLOCKED', 'DEAD', 'CANCELLED'))
