-- An invoice is booked on its account with its total: above zero as owed, below zero as credit.
-- The ledger and the document disagree. The document is what the customer has: correct the ledger.
SELECT i.id AS invoice_id, i.number, i.total_minor, e.entry_id, e.receivable_minor,
       e.customer_credit_minor, e.revenue_minor
  FROM billing_invoice i
  JOIN books_entry e ON e.kind = 'INVOICE_ISSUED' AND e.source = 'invoice:' || i.id
 WHERE e.revenue_minor <> -i.total_minor
    OR e.receivable_minor <> greatest(i.total_minor, 0)
    OR e.customer_credit_minor <> least(i.total_minor, 0)
    OR (e.account_id, e.currency) <> (i.account_id, i.currency)
