-- Every payment through a gateway is a success in that provider's book.
-- We booked money that never came: the customer's debt counts as paid. Is it the right provider, and
-- the right book? Then reverse the payment.
SELECT p.id AS payment_id, p.account_id, p.gateway, p.provider_ref, p.amount_minor, r.status AS provider_status
  FROM billing_payment p
  LEFT JOIN billing_providerrecord r ON r.gateway = p.gateway AND r.provider_ref = p.provider_ref
 WHERE p.gateway NOT IN ('manual', 'transfer')
   AND coalesce(r.status, '') NOT IN ('SUCCEEDED', 'REVERSED')
