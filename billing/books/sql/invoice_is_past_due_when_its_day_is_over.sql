-- An invoice is past due from the first instant after its due date on, where its account was when it was issued.
-- The customer reads one day, and is reminded and held by another. What was told is what holds: ask a developer.
--
-- Due at once, at the instant of issue: no zone. Issued by an older release: no date. A zone that this server does
-- not know cannot be checked here.
WITH zones AS MATERIALIZED (
    SELECT n.name FROM pg_timezone_names n
     WHERE n.name IN (SELECT DISTINCT time_zone FROM billing_invoice))
SELECT i.id AS invoice_id, i.account_id, i.number, i.due_date, i.time_zone, i.issued_at, i.due_at
  FROM billing_invoice i
  LEFT JOIN zones z ON z.name = i.time_zone
 WHERE i.state = 'ISSUED' AND i.due_date IS NOT NULL
   AND CASE WHEN i.time_zone = '' THEN i.due_at <> i.issued_at
            WHEN z.name IS NULL THEN false
            ELSE ((i.due_at - interval '1 microsecond') AT TIME ZONE z.name)::date <> i.due_date
                 OR (i.due_at AT TIME ZONE z.name)::date <= i.due_date END
