-- What a payment left over is granted to its account as credit, and every such credit is of a payment.
-- A customer who paid too much cannot use the rest, or uses more than was left. Grant the difference.
SELECT coalesce(e.account_id, g.account_id) AS account_id, coalesce(e.source, g.source) AS payment,
       coalesce(e.left_minor, 0) AS left_minor, coalesce(g.granted_minor, 0) AS granted_minor
  FROM (SELECT source, account_id, currency, -customer_credit_minor AS left_minor
          FROM books_entry WHERE kind = 'PAYMENT_RECEIVED' AND customer_credit_minor <> 0) e
  FULL JOIN (SELECT 'payment:' || payment_id AS source, account_id, currency, sum(amount_minor)::bigint AS granted_minor
               FROM billing_creditgrant WHERE kind = 'SURPLUS' GROUP BY payment_id, account_id, currency) g
       ON g.source = e.source
 WHERE (e.account_id, e.currency, e.left_minor) IS DISTINCT FROM (g.account_id, g.currency, g.granted_minor)
