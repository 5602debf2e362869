-- An account has at most one attempt in flight in a currency.
-- The same debt may be taken twice. Put all but one in review before the next sweep.
SELECT account_id, currency, count(*) AS attempts, min(created_at) AS first_at, max(created_at) AS last_at
  FROM billing_paymentattempt
 WHERE state IN ('RESERVED', 'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
 GROUP BY account_id, currency
HAVING count(*) > 1
