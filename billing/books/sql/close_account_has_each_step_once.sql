-- Every account of a run has each kind of step, once.
-- A customer would not be invoiced, charged, written to or held as the others are; or twice. Do by
-- hand what is missing.
SELECT s.run_id, s.account_id, count(*) AS steps, count(DISTINCT s.kind) AS kinds, k.kinds AS kinds_of_the_run
  FROM billing_step s
  JOIN (SELECT run_id, count(DISTINCT kind) AS kinds
          FROM billing_step WHERE account_id IS NOT NULL GROUP BY run_id) k ON k.run_id = s.run_id
 WHERE s.account_id IS NOT NULL
 GROUP BY s.run_id, s.account_id, k.kinds
HAVING count(*) <> k.kinds OR count(DISTINCT s.kind) <> k.kinds
