-- What a reversal takes back of its payment's allocations is what the customer owes again.
-- The invoices and the ledger disagree on what is owed. Take back, or allocate, the difference.
SELECT r.id AS reversal_id, r.payment_id, r.owed_minor, coalesce(x.taken_back_minor, 0) AS taken_back_minor
  FROM billing_paymentreversal r
  LEFT JOIN (SELECT a.reversal_id, -sum(a.amount_minor)::bigint AS taken_back_minor,
                    min(coalesce(a.payment_id, g.payment_id)) AS first_payment_id,
                    max(coalesce(a.payment_id, g.payment_id)) AS last_payment_id
               FROM billing_allocation a
               LEFT JOIN billing_creditgrant g ON g.id = a.grant_id
              WHERE a.reversal_id IS NOT NULL GROUP BY a.reversal_id) x ON x.reversal_id = r.id
 WHERE r.owed_minor <> coalesce(x.taken_back_minor, 0)
    OR x.first_payment_id <> r.payment_id OR x.last_payment_id <> r.payment_id
