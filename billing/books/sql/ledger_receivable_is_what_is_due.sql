-- What an account owes in the ledger is what is still due of its issued invoices.
-- The next charge would take the ledger's amount. Find the invoice, payment or credit that is in one
-- and not in the other before the next close.
SELECT account_id, currency, coalesce(b.balance_minor, 0) AS ledger_minor, coalesce(i.due_minor, 0) AS due_minor
  FROM (SELECT account_id, currency, balance_minor FROM books_balance WHERE kind = 'RECEIVABLE') b
  FULL JOIN (SELECT account_id, currency, sum(due_minor)::bigint AS due_minor
               FROM books_invoice WHERE state = 'ISSUED' GROUP BY account_id, currency) i
       USING (account_id, currency)
 WHERE coalesce(b.balance_minor, 0) <> coalesce(i.due_minor, 0)
