-- What was first allocated of a payment and what it left as credit are its amount.
-- Some of a customer's money is nowhere, or counted twice. Book the difference as credit.
SELECT p.id AS payment_id, p.account_id, p.amount_minor, coalesce(x.allocated_minor, 0) AS allocated_minor,
       -e.customer_credit_minor AS left_as_credit_minor
  FROM billing_payment p
  JOIN books_entry e ON e.kind = 'PAYMENT_RECEIVED' AND e.source = 'payment:' || p.id
  LEFT JOIN (SELECT payment_id, sum(amount_minor)::bigint AS allocated_minor
               FROM billing_allocation WHERE payment_id IS NOT NULL AND reverses_id IS NULL GROUP BY payment_id) x ON x.payment_id = p.id
 WHERE p.amount_minor <> coalesce(x.allocated_minor, 0) - e.customer_credit_minor
