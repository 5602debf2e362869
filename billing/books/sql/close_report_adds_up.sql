-- In a finished run's report, what is invoiced is collected, credited or outstanding, less what is kept as credit.
-- Finance was told numbers that contradict each other. Run close_report for the numbers as of now.
SELECT run.id AS run_id, said ->> 'currency' AS currency, said ->> 'invoiced' AS invoiced, said ->> 'collected' AS collected,
       said ->> 'credited' AS credited, said ->> 'outstanding' AS outstanding, said ->> 'kept_as_credit' AS kept_as_credit
  FROM billing_closerun run
 CROSS JOIN jsonb_array_elements(run.report -> 'currencies') AS said
 WHERE run.state = 'FINISHED'
   AND (said ->> 'invoiced')::numeric
       <> (said ->> 'collected')::numeric + (said ->> 'credited')::numeric
          + (said ->> 'outstanding')::numeric - (said ->> 'kept_as_credit')::numeric
