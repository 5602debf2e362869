-- No open case waits longer than 15 minutes past its next try, or past its end.
-- The customer is told a day on which nothing happens: is a cluster running, and its minute schedule?
SELECT d.id AS dunning_case_id, d.account_id, d.next_try_at, d.ends_at
  FROM billing_dunningcase d
  CROSS JOIN books_clock c
 WHERE d.closed_at IS NULL AND coalesce(d.next_try_at, d.ends_at) < c.as_of - interval '15 minutes'
