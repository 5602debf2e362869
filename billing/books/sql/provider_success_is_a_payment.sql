-- Every success in a provider's book is a payment of ours of that amount, unless its attempt is still in flight.
-- A customer's money was taken and is not in our books. Apply the provider's state to the attempt: the
-- sweeper does, once the attempt is in flight again.
SELECT r.gateway, r.provider_ref, a.id AS attempt_id, a.state, r.currency, r.amount_minor AS provider_minor,
       p.id AS payment_id, p.amount_minor AS paid_minor
  FROM billing_providerrecord r
  JOIN billing_paymentattempt a ON a.id::text = r.own_reference
  LEFT JOIN billing_payment p ON p.gateway = r.gateway AND p.provider_ref = r.provider_ref
 WHERE r.status IN ('SUCCEEDED', 'REVERSED')
   AND (a.id, r.currency, r.amount_minor) IS DISTINCT FROM (p.attempt_id, p.currency, p.amount_minor)
   AND a.state NOT IN ('RESERVED', 'PREPARED', 'SUBMITTED', 'PROCESSING', 'REQUIRES_ACTION', 'CANCELING', 'REVIEW')
