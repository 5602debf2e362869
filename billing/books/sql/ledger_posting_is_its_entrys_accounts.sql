-- Every posting to a customer's ledger account belongs to an entry of that customer.
-- One customer's money was booked on another. Correct it by an entry for each of the two.
SELECT p.id AS posting_id, e.id AS entry_id, e.source, e.account_id, l.account_id AS posted_to_account_id
  FROM billing_posting p
  JOIN billing_ledgerentry e ON e.id = p.entry_id
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 WHERE l.account_id <> e.account_id
