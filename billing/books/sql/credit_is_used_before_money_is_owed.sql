-- No account owes on an invoice while it has credit that could pay it.
-- A customer is charged, or held, for what their credit covers. Grant or issue once more: either uses
-- what is there.
SELECT account_id, currency, i.due_minor, g.remaining_minor
  FROM (SELECT account_id, currency, sum(due_minor)::bigint AS due_minor
          FROM books_invoice WHERE state = 'ISSUED' AND due_minor > 0 GROUP BY account_id, currency) i
  JOIN (SELECT grants.account_id, grants.currency, sum(grants.remaining_minor)::bigint AS remaining_minor
          FROM billing_creditgrant grants
          CROSS JOIN books_clock c
         WHERE grants.remaining_minor > 0 AND (grants.expires_at IS NULL OR grants.expires_at > c.as_of)
         GROUP BY grants.account_id, grants.currency) g USING (account_id, currency)
