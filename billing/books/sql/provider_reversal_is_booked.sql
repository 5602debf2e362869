-- What a provider's book shows as paid and taken back has gone back whole in ours.
-- The payer's bank has the money, and here the debt counts as paid. The event was lost, or is minutes old:
-- manage.py reconcile books it.
SELECT r.gateway, r.provider_ref, p.id AS payment_id, p.account_id, p.currency, p.amount_minor,
       coalesce(sum(v.amount_minor), 0)::bigint AS reversed_minor
  FROM billing_providerrecord r
  JOIN billing_payment p ON p.gateway = r.gateway AND p.provider_ref = r.provider_ref
  LEFT JOIN billing_paymentreversal v ON v.payment_id = p.id
 WHERE r.status = 'REVERSED'
 GROUP BY r.gateway, r.provider_ref, p.id, p.account_id, p.currency, p.amount_minor
HAVING coalesce(sum(v.amount_minor), 0) <> p.amount_minor
