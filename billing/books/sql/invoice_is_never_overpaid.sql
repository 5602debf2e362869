-- No invoice is allocated more than its total, and a draft nothing.
-- Money that is the customer's credit hides in an invoice. Book the surplus as credit.
SELECT invoice_id, account_id, state, total_minor, allocated_minor
  FROM books_invoice
 WHERE allocated_minor > CASE state WHEN 'ISSUED' THEN greatest(total_minor, 0) ELSE 0 END
