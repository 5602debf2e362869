-- A refund that the bank sent back is granted to its account as credit of its payment, and every such credit is of a refund.
-- We have money of a customer that they cannot use. Grant it.
--
-- But for what the payment's reversal had taken meanwhile: there may be nothing to grant.
SELECT r.id AS refund_id, r.account_id, r.amount_minor, r.lost_minor, g.id AS grant_id, g.amount_minor AS granted_minor
  FROM (SELECT * FROM billing_refund WHERE state = 'RETURNED' AND lost_minor < amount_minor) r
  FULL JOIN (SELECT * FROM billing_creditgrant WHERE kind = 'RETURNED') g ON g.token = r.id
 WHERE (r.account_id, r.payment_id, r.currency, r.amount_minor - r.lost_minor)
       IS DISTINCT FROM (g.account_id, g.payment_id, g.currency, g.amount_minor)
