-- Every succeeded attempt has its payment, and every payment through a gateway its succeeded attempt.
-- Money was taken and not recorded, or recorded without a try to take it. Ask the provider about the
-- attempt.
SELECT a.id AS attempt_id, p.id AS payment_id, coalesce(a.gateway, p.gateway) AS gateway,
       a.amount_minor AS attempted_minor, p.amount_minor AS paid_minor
  FROM (SELECT * FROM billing_paymentattempt WHERE state = 'SUCCEEDED') a
  FULL JOIN (SELECT * FROM billing_payment WHERE gateway NOT IN ('manual', 'transfer')) p ON p.attempt_id = a.id
 WHERE a.id IS NULL OR p.id IS NULL
    OR (a.account_id, a.currency, a.gateway) <> (p.account_id, p.currency, p.gateway)
