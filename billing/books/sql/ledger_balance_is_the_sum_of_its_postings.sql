-- The latest balance of a customer's ledger account is the sum of all its postings.
-- What an account is said to owe is not what was booked. Hold back its charges until it is corrected.
SELECT s.ledger_account_id, b.balance_minor, s.sum_minor
  FROM (SELECT p.ledger_account_id, sum(p.amount_minor)::bigint AS sum_minor
          FROM billing_posting p
          JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
         WHERE l.account_id IS NOT NULL
         GROUP BY p.ledger_account_id) s
  LEFT JOIN books_balance b ON b.ledger_account_id = s.ledger_account_id
 WHERE b.balance_minor IS DISTINCT FROM s.sum_minor
