-- The latest running balance of every customer-side ledger account.
SELECT DISTINCT ON (p.ledger_account_id)
       p.ledger_account_id, l.kind, l.account_id, l.currency, p.balance_minor
  FROM billing_posting p
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 WHERE p.version IS NOT NULL
 ORDER BY p.ledger_account_id, p.version DESC
