-- Every object in a provider's book was made by an attempt of ours.
-- Another installation uses the same provider account or book, or ours has lost data: compare
-- INSTALLATION_ID and, for the sandbox, SANDBOX_BOOK.
SELECT r.gateway, r.provider_ref, r.own_reference, r.status, r.currency, r.amount_minor
  FROM billing_providerrecord r
  LEFT JOIN billing_paymentattempt a ON a.id::text = r.own_reference AND a.gateway = r.gateway
 WHERE a.id IS NULL
