-- A step of an account that was done, skipped or given up by the close has the decision that says why; one done, no second.
-- Nobody can tell what happened to this customer's money, or it happened twice. Compare with the
-- account's timeline.
SELECT s.id AS step_id, s.run_id, s.account_id, s.kind, s.state,
       count(d.id) FILTER (WHERE d.did = s.state) AS decisions, count(d.id) FILTER (WHERE d.did = 'DONE') AS times_done
  FROM billing_step s
  -- A person's decision cancels a step. What was given up may be retried, and given up again.
  LEFT JOIN billing_decision d ON d.run_id = s.run_id AND d.account_id = s.account_id AND d.act = s.kind AND d.actor = 'system'
 WHERE s.account_id IS NOT NULL
 GROUP BY s.id, s.run_id, s.account_id, s.kind, s.state
HAVING count(d.id) FILTER (WHERE d.did = 'DONE') <> CASE s.state WHEN 'DONE' THEN 1 ELSE 0 END
    OR (s.state = 'SKIPPED' AND count(d.id) FILTER (WHERE d.did = 'SKIPPED') <> 1)
    OR (s.state = 'DEAD' AND count(d.id) FILTER (WHERE d.did = 'DEAD') = 0)
