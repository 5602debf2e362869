-- Postings on customers' ledger accounts carry version and balance, and those on the company's do not.
-- A balance as of a moment cannot be read where it is missing. Something other than billing/ledger/posting.py
-- has written postings.
SELECT p.id AS posting_id, p.ledger_account_id, l.kind, p.version, p.balance_minor
  FROM billing_posting p
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 WHERE (l.kind IN ('RECEIVABLE', 'CUSTOMER_CREDIT')) <> (p.version IS NOT NULL)
    OR (p.version IS NULL) <> (p.balance_minor IS NULL)
