-- Credit that has expired has its ledger entry of that amount, and every such entry its grant.
-- The ledger says we owe credit that is gone, or the other way round. Book the missing half.
SELECT g.id AS grant_id, g.account_id, g.expired_minor, e.entry_id, e.source, e.customer_credit_minor
  FROM (SELECT * FROM billing_creditgrant WHERE expired_minor <> 0) g
  FULL JOIN (SELECT * FROM books_entry WHERE kind = 'CREDIT_EXPIRED') e ON e.source = 'grant:' || g.id
 WHERE (g.expired_minor, -g.expired_minor) IS DISTINCT FROM (e.customer_credit_minor, e.promotions_minor)
