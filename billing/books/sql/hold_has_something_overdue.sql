-- Nobody is held for overdue invoices who has nothing overdue, or less than is asked for.
-- A customer who has paid is still held. Lift the hold now, and say sorry.
--
-- When a least amount is raised, the next sweep lifts the holds for less.
SELECT h.id AS hold_id, h.account_id, h.placed_at, coalesce(late.due_minor, 0) AS overdue_minor
  FROM accounts_hold h
  JOIN accounts_account a ON a.id = h.account_id
  CROSS JOIN books_clock c
  LEFT JOIN (SELECT i.account_id, sum(i.due_minor) AS due_minor
               FROM books_invoice i
               JOIN accounts_hold held ON held.account_id = i.account_id AND held.reason = 'OVERDUE'
                                      AND held.lifted_at IS NULL
               CROSS JOIN books_clock now
              WHERE i.state = 'ISSUED' AND i.settled_at IS NULL
                -- Whoever placed it may have a clock that is ahead of ours.
                AND i.due_at <= greatest(now.as_of, held.placed_at)
              GROUP BY i.account_id) late ON late.account_id = h.account_id
 WHERE h.reason = 'OVERDUE' AND h.lifted_at IS NULL
   AND coalesce(late.due_minor, 0) < coalesce(
           (SELECT l.amount_minor FROM billing_leastamount l
             WHERE l.currency = a.currency AND (l.entity_id = a.entity_id OR l.entity_id IS NULL)
               AND (l.changed_at < c.as_of - interval '15 minutes' OR late.due_minor IS NULL)
             ORDER BY l.entity_id NULLS LAST LIMIT 1), 1)
