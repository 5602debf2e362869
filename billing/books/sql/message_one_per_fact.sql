-- Nobody is told the same thing twice.
-- The customer has, or will have, two mails about one fact. Cancel the one that is not sent.
SELECT kind, fact, count(*) AS messages, min(created_at) AS first_at, max(created_at) AS last_at
  FROM notifications_message
 GROUP BY kind, fact
HAVING count(*) > 1
