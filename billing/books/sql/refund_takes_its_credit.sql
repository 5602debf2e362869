-- The credit that a payment's refunds have taken is what its credit grants were paid back.
-- A customer has credit that was paid out to them, or has lost some that was not. Correct the grant.
SELECT payment_id, coalesce(r.credit_minor, 0) AS taken_minor, coalesce(g.refunded_minor, 0) AS refunded_minor
  FROM (SELECT payment_id, sum(credit_minor)::bigint AS credit_minor
          FROM billing_refund WHERE state <> 'FAILED' GROUP BY payment_id) r
  FULL JOIN (SELECT payment_id, sum(refunded_minor)::bigint AS refunded_minor
               FROM billing_creditgrant WHERE payment_id IS NOT NULL OR refunded_minor <> 0 GROUP BY payment_id) g USING (payment_id)
 WHERE coalesce(r.credit_minor, 0) <> coalesce(g.refunded_minor, 0)
