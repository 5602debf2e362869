-- Nobody is held for overdue invoices who has nothing overdue.
-- A customer who has paid is still held. Lift the hold now, and say sorry.
SELECT h.id AS hold_id, h.account_id, h.placed_at
  FROM accounts_hold h
  CROSS JOIN books_clock c
 WHERE h.reason = 'OVERDUE' AND h.lifted_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM billing_invoice i
                    WHERE i.account_id = h.account_id AND i.state = 'ISSUED' AND i.settled_at IS NULL
                      -- Whoever placed it may have a clock that is ahead of ours.
                      AND i.due_at <= greatest(c.as_of, h.placed_at))
