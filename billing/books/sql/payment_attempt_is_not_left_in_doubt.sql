-- No attempt in flight waits longer than 15 minutes past the time it should have been looked at.
-- Nobody is asking the provider: is a cluster running, and its minute schedule? The customer cannot be
-- charged before.
SELECT a.id AS attempt_id, a.account_id, a.state, a.next_action_at, a.unknown_since, a.because
  FROM billing_paymentattempt a
  CROSS JOIN books_clock c
 WHERE a.state IN ('RESERVED', 'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
   AND (a.next_action_at < c.as_of - interval '15 minutes'
        -- A person looks at what is in review.
        OR (a.next_action_at IS NULL AND a.state <> 'REVIEW'))
