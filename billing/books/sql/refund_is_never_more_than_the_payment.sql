-- No more of a payment was paid back than it was, and nothing of what had gone back before.
-- The customer has more than they paid. Ask for it, or take it as a cost.
--
-- What is reserved is not sent yet: the provider may have paid back meanwhile, and will refuse it.
SELECT r.id AS refund_id, p.id AS payment_id, p.account_id, p.amount_minor, s.refunded_minor, coalesce(b.reversed_minor, 0) AS reversed_minor
  FROM billing_refund r
  JOIN billing_payment p ON p.id = r.payment_id
  JOIN (SELECT payment_id, sum(amount_minor)::bigint AS refunded_minor
          FROM billing_refund WHERE state IN ('PENDING', 'SUCCEEDED') GROUP BY payment_id) s ON s.payment_id = p.id
  LEFT JOIN LATERAL (SELECT sum(v.amount_minor)::bigint AS reversed_minor FROM billing_paymentreversal v
                      WHERE v.payment_id = p.id AND v.reversed_at < r.requested_at AND r.token IS NOT NULL) b ON true
 WHERE r.state IN ('PENDING', 'SUCCEEDED')
   AND (s.refunded_minor > p.amount_minor OR r.amount_minor + coalesce(b.reversed_minor, 0) > p.amount_minor)
