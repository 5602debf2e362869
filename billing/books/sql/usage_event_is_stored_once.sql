-- A usage event of an account and source is stored once.
-- It is billed twice. Correct it by an ADJUSTMENT event of the opposite quantity.
SELECT account_id, source, event_id, count(*) AS events, min(effective_at) AS first_at, max(effective_at) AS last_at
  FROM billing_usageevent
 GROUP BY account_id, source, event_id
HAVING count(*) > 1
