-- A payment is booked on its account with its amount, as cash of its gateway.
-- Cash in the ledger is not what the gateway pays out. Correct it by another entry.
SELECT p.id AS payment_id, p.gateway, p.amount_minor, e.id AS entry_id, coalesce(c.cash_minor, 0) AS cash_minor
  FROM billing_payment p
  JOIN billing_ledgerentry e ON e.kind = 'PAYMENT_RECEIVED' AND e.source = 'payment:' || p.id
  LEFT JOIN (SELECT t.entry_id, l.gateway, sum(t.amount_minor)::bigint AS cash_minor
               FROM billing_posting t
               JOIN billing_ledgeraccount l ON l.id = t.ledger_account_id AND l.kind = 'CASH'
              GROUP BY t.entry_id, l.gateway) c ON c.entry_id = e.id AND c.gateway = p.gateway
 WHERE coalesce(c.cash_minor, 0) <> p.amount_minor
    OR (e.account_id, e.currency) <> (p.account_id, p.currency)
