-- What an account's payments left over is granted to it as credit.
-- A customer who paid too much cannot use the rest, or uses more than was left. Grant the difference.
SELECT account_id, currency, coalesce(e.left_minor, 0) AS left_minor, coalesce(g.granted_minor, 0) AS granted_minor
  FROM (SELECT account_id, currency, -sum(customer_credit_minor)::bigint AS left_minor
          FROM books_entry WHERE kind = 'PAYMENT_RECEIVED' GROUP BY account_id, currency) e
  FULL JOIN (SELECT account_id, currency, sum(amount_minor)::bigint AS granted_minor
               FROM billing_creditgrant WHERE kind = 'SURPLUS' GROUP BY account_id, currency) g
       USING (account_id, currency)
 WHERE coalesce(e.left_minor, 0) <> coalesce(g.granted_minor, 0)
