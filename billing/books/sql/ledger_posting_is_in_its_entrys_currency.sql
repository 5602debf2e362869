-- Every posting is on a ledger account of its entry's currency.
-- Two currencies were added as if they were one. Correct it by another entry in the right one.
SELECT p.id AS posting_id, e.id AS entry_id, e.currency, l.currency AS posted_in
  FROM billing_posting p
  JOIN billing_ledgerentry e ON e.id = p.entry_id
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 WHERE l.currency <> e.currency
