-- Every account of a run has each kind of step, once.
-- A customer would not be invoiced, charged, written to or held as the others are; or twice. Do by
-- hand what is missing.
SELECT run_id, account_id, s.steps, s.kinds, k.kinds AS kinds_of_the_run
  FROM (SELECT run_id, account_id, sum(times)::bigint AS steps, count(*) AS kinds
          FROM (SELECT run_id, account_id, kind, count(*) AS times
                  FROM billing_step WHERE account_id IS NOT NULL GROUP BY run_id, account_id, kind) each_kind
         GROUP BY run_id, account_id) s
  JOIN (SELECT run_id, count(*) AS kinds
          FROM (SELECT DISTINCT run_id, kind FROM billing_step WHERE account_id IS NOT NULL) any_kind
         GROUP BY run_id) k USING (run_id)
 WHERE s.steps <> k.kinds OR s.kinds <> k.kinds
