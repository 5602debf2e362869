-- No running step's lease ran out more than two minutes ago.
-- Its worker died and nobody has freed it: is a cluster running, and its minute schedule?
--
-- Leases go by the database's clock, so this does too.
SELECT id AS step_id, run_id, account_id, kind, attempts, lease_until
  FROM billing_step
 WHERE state = 'RUNNING' AND lease_until < now() - interval '2 minutes'
