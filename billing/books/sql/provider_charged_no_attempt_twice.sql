-- No attempt has two successes in its provider's book.
-- A customer was charged twice. Refund one at the provider today.
SELECT gateway, own_reference AS attempt_id, count(*) AS successes, sum(amount_minor)::bigint AS taken_minor,
       min(provider_ref) AS first_ref, max(provider_ref) AS last_ref
  FROM billing_providerrecord
 WHERE status = 'SUCCEEDED'
 GROUP BY gateway, own_reference
HAVING count(*) > 1
