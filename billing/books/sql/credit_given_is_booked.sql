-- Every credit given by us has its ledger entry of its amount, and every such entry its grant.
-- Credit is used that no report shows as a cost, or a cost is shown that nobody can use.
SELECT g.id AS grant_id, g.kind, g.amount_minor, e.entry_id, e.source, e.customer_credit_minor
  FROM (SELECT * FROM billing_creditgrant WHERE kind IN ('PROMOTIONAL', 'GOODWILL', 'WRITE_OFF')) g
  FULL JOIN (SELECT * FROM books_entry WHERE kind = 'CREDIT_GRANTED') e ON e.source = 'grant:' || g.id
 WHERE (g.account_id, g.currency, -g.amount_minor, g.amount_minor)
       IS DISTINCT FROM (e.account_id, e.currency, e.customer_credit_minor,
                         CASE g.kind WHEN 'WRITE_OFF' THEN e.bad_debt_minor ELSE e.promotions_minor END)
