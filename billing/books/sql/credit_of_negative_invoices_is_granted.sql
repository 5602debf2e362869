-- What an account's invoices below zero give back is granted to it as credit.
-- A customer cannot use what their invoice says they have. Grant the difference.
SELECT account_id, currency, coalesce(i.given_back_minor, 0) AS given_back_minor, coalesce(g.granted_minor, 0) AS granted_minor
  FROM (SELECT account_id, currency, -sum(total_minor)::bigint AS given_back_minor
          FROM billing_invoice WHERE state = 'ISSUED' AND total_minor < 0 GROUP BY account_id, currency) i
  FULL JOIN (SELECT account_id, currency, sum(amount_minor)::bigint AS granted_minor
               FROM billing_creditgrant WHERE kind = 'INVOICE' GROUP BY account_id, currency) g
       USING (account_id, currency)
 WHERE coalesce(i.given_back_minor, 0) <> coalesce(g.granted_minor, 0)
