-- The credit an account has in the ledger is what remains of its credit grants.
-- Credit was used, granted or expired in one and not in the other. Find the grant before the next
-- invoice uses it.
SELECT account_id, currency, coalesce(-b.balance_minor, 0) AS ledger_minor, coalesce(g.remaining_minor, 0) AS remaining_minor
  FROM (SELECT account_id, currency, balance_minor FROM books_balance WHERE kind = 'CUSTOMER_CREDIT') b
  FULL JOIN (SELECT account_id, currency, sum(remaining_minor)::bigint AS remaining_minor
               FROM billing_creditgrant GROUP BY account_id, currency) g
       USING (account_id, currency)
 WHERE coalesce(-b.balance_minor, 0) <> coalesce(g.remaining_minor, 0)
