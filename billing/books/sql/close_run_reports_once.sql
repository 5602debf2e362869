-- A run has one report step, and is finished exactly when that is done.
-- Finance was told too early, twice or never. Run close_report for the numbers as of now.
SELECT r.id AS run_id, r.month, r.state, count(s.id) AS report_steps, count(s.id) FILTER (WHERE s.state = 'DONE') AS reports_done
  FROM billing_closerun r
  LEFT JOIN billing_step s ON s.run_id = r.id AND s.account_id IS NULL
 GROUP BY r.id, r.month, r.state
HAVING count(s.id) <> 1 OR (r.state = 'FINISHED') <> (count(s.id) FILTER (WHERE s.state = 'DONE') = 1)
