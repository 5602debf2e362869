-- All postings of a currency sum to zero.
-- There are postings without an entry, or entries that do not balance. Restore what was lost: no
-- report can be trusted before.
SELECT l.currency, sum(p.amount_minor)::bigint AS sum_minor
  FROM billing_posting p
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 GROUP BY l.currency
HAVING sum(p.amount_minor) <> 0
