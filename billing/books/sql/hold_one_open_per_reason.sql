-- An account has at most one open hold for a reason.
-- Lifting one would leave the customer held by the other. Lift the later one.
SELECT account_id, reason, count(*) AS holds, min(placed_at) AS first_at, max(placed_at) AS last_at
  FROM accounts_hold
 WHERE lifted_at IS NULL
 GROUP BY account_id, reason
HAVING count(*) > 1
