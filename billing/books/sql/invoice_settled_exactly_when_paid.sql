-- An issued invoice is settled exactly when what was allocated to it has reached its total.
-- A paid invoice is dunned, or an unpaid one is forgotten. Find the allocation that is missing or too much.
SELECT invoice_id, account_id, total_minor, allocated_minor, settled_at
  FROM books_invoice
 WHERE state = 'ISSUED' AND (settled_at IS NOT NULL) <> (due_minor <= 0)
