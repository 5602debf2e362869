-- A reversal is booked on its payment's account: as much leaves as went back, and each part where it belongs.
-- What the customer owes again, or the cash we have, is wrong in the ledger. Correct it by another entry.
SELECT r.id AS reversal_id, r.payment_id, r.amount_minor, e.entry_id, e.receivable_minor, e.customer_credit_minor,
       coalesce(c.left_minor, 0) AS left_minor
  FROM billing_paymentreversal r
  JOIN billing_payment p ON p.id = r.payment_id
  JOIN books_entry e ON e.kind = 'PAYMENT_REVERSED' AND e.source = 'reversal:' || r.id
  LEFT JOIN (SELECT t.entry_id, l.gateway, -sum(t.amount_minor)::bigint AS left_minor
               FROM billing_posting t
               JOIN billing_ledgeraccount l ON l.id = t.ledger_account_id AND l.gateway <> ''
              GROUP BY t.entry_id, l.gateway) c ON c.entry_id = e.entry_id AND c.gateway = r.gateway
 WHERE (r.account_id, r.gateway, r.account_id, p.currency, r.owed_minor, r.credit_minor, r.amount_minor)
       IS DISTINCT FROM (p.account_id, p.gateway, e.account_id, e.currency, e.receivable_minor, e.customer_credit_minor, c.left_minor)
