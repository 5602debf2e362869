-- A step of an account that was done, skipped or given up by the close has the decision that says why; one done, no second.
-- Nobody can tell what happened to this customer's money, or it happened twice. Compare with the
-- account's timeline.
SELECT s.id AS step_id, s.run_id, s.account_id, s.kind, s.state,
       coalesce(d.done, 0) AS times_done, coalesce(d.skipped, 0) AS times_skipped, coalesce(d.dead, 0) AS times_dead
  FROM billing_step s
  -- A person's decision cancels a step. What was given up may be retried, and given up again.
  LEFT JOIN (SELECT run_id, account_id, act, count(*) FILTER (WHERE did = 'DONE') AS done,
                    count(*) FILTER (WHERE did = 'SKIPPED') AS skipped, count(*) FILTER (WHERE did = 'DEAD') AS dead
               FROM billing_decision WHERE actor = 'system' AND run_id IS NOT NULL
              GROUP BY run_id, account_id, act) d
         ON d.run_id = s.run_id AND d.account_id = s.account_id AND d.act = s.kind
 WHERE s.account_id IS NOT NULL
   AND (coalesce(d.done, 0) <> CASE s.state WHEN 'DONE' THEN 1 ELSE 0 END
        OR (s.state = 'SKIPPED' AND coalesce(d.skipped, 0) <> 1)
        OR (s.state = 'DEAD' AND coalesce(d.dead, 0) = 0))
