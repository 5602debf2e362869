-- No message being sent has a lease that ran out more than 15 minutes ago.
-- Its worker died and nobody has taken it over: is a cluster running on the email lane?
--
-- Leases go by the database's clock, so this does too.
SELECT id AS message_id, account_id, kind, fact, attempts, lease_until
  FROM notifications_message
 WHERE state = 'SENDING' AND (lease_until IS NULL OR lease_until < now() - interval '15 minutes')
