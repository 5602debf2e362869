-- What remains of a credit grant is its amount less what was used, expired, was paid back or went back.
-- The customer has more or less credit than was given. Find the use that is missing.
SELECT g.id AS grant_id, g.account_id, g.amount_minor, coalesce(x.used_minor, 0) AS used_minor,
       g.expired_minor, g.refunded_minor, g.reversed_minor, g.remaining_minor
  FROM billing_creditgrant g
  LEFT JOIN (SELECT grant_id, sum(amount_minor)::bigint AS used_minor
               FROM billing_allocation WHERE grant_id IS NOT NULL GROUP BY grant_id) x ON x.grant_id = g.id
 WHERE g.remaining_minor <> g.amount_minor - coalesce(x.used_minor, 0) - g.expired_minor
                             - g.refunded_minor - g.reversed_minor
