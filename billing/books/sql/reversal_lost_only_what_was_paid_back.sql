-- What the reversals of a payment have lost is credit that was paid back to its customer, and is with them.
-- A customer has credit of a payment that went back: the refund that had taken it came to nothing. Take it
-- away again, or let them have it and say so.
SELECT v.payment_id, v.lost_minor, coalesce(r.found_minor, 0) AS found_minor, coalesce(r.credit_minor, 0) AS paid_back_minor
  FROM (SELECT payment_id, sum(lost_minor)::bigint AS lost_minor FROM billing_paymentreversal GROUP BY payment_id) v
  LEFT JOIN (SELECT payment_id, sum(lost_minor)::bigint AS found_minor,
                    sum(credit_minor) FILTER (WHERE state NOT IN ('FAILED', 'RETURNED'))::bigint AS credit_minor
               FROM billing_refund GROUP BY payment_id) r USING (payment_id)
 WHERE v.lost_minor - coalesce(r.found_minor, 0) NOT BETWEEN 0 AND coalesce(r.credit_minor, 0)
