-- No more of a payment has gone back than it was.
-- A customer owes again what they never paid. Find the return that was booked twice.
SELECT p.id AS payment_id, p.account_id, p.amount_minor, sum(r.amount_minor)::bigint AS reversed_minor
  FROM billing_paymentreversal r
  JOIN billing_payment p ON p.id = r.payment_id
 GROUP BY p.id, p.account_id, p.amount_minor
HAVING sum(r.amount_minor) > p.amount_minor
