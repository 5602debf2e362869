-- Nobody is held for overdue invoices before one of them was past due.
-- A customer who was still in time was put on hold. Lift it, and say sorry.
SELECT h.id AS hold_id, h.account_id, h.placed_at, h.lifted_at
  FROM accounts_hold h
 WHERE h.reason = 'OVERDUE'
   AND NOT EXISTS (SELECT 1 FROM billing_invoice i
                    WHERE i.account_id = h.account_id AND i.state = 'ISSUED' AND i.total_minor > 0
                      AND i.due_at <= h.placed_at AND (h.lifted_at IS NOT NULL OR i.settled_at IS NULL))
