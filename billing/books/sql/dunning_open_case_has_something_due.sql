-- Nobody is in dunning who owes nothing.
-- A customer who has paid is told that we will try again. Close the case; which act lowered what they owe?
SELECT d.id AS dunning_case_id, d.account_id, d.opened_at, d.next_try_at
  FROM billing_dunningcase d
 WHERE d.closed_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM billing_invoice i
                    WHERE i.account_id = d.account_id AND i.state = 'ISSUED' AND i.settled_at IS NULL)
