-- An invoice has number, sequence, issue date and due date exactly when it is issued.
-- A draft with a number may have been sent; an issued invoice without one is not a legal document.
SELECT id AS invoice_id, state, sequence, number, issued_at, due_at
  FROM billing_invoice
 WHERE (state = 'ISSUED') <> (sequence IS NOT NULL)
    OR (state = 'ISSUED') <> (number IS NOT NULL)
    OR (state = 'ISSUED') <> (issued_at IS NOT NULL)
    OR (state = 'ISSUED') <> (due_at IS NOT NULL)
