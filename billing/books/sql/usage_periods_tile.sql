-- The periods of an account do not overlap, and from one month to the next there is no hole.
-- Usage in the hole cannot be billed; usage in the overlap could be billed twice. Move the later start
-- to the earlier end.
SELECT account_id, period_id, month, starts_at, ends_at_before
  FROM (SELECT account_id, id AS period_id, month, starts_at,
               lag(month) OVER (PARTITION BY account_id ORDER BY starts_at) AS month_before,
               lag(ends_at) OVER (PARTITION BY account_id ORDER BY starts_at) AS ends_at_before
          FROM billing_billingperiod) laid
 WHERE starts_at < ends_at_before
    OR (month = month_before + interval '1 month' AND starts_at <> ends_at_before)
