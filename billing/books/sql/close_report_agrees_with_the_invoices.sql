-- A finished run's report says what the issued invoices of its month add up to, by currency.
-- Finance was told another number than the invoices say. Invoices never change: the report is wrong,
-- run close_report anew.
SELECT run_id, currency, r.invoices AS invoices_reported, i.invoices, r.invoiced AS invoiced_reported, i.total_minor
  FROM (SELECT run.id AS run_id, said ->> 'currency' AS currency, (said ->> 'invoices')::bigint AS invoices,
               (said ->> 'invoiced')::numeric AS invoiced
          FROM billing_closerun run
          CROSS JOIN jsonb_array_elements(run.report -> 'currencies') AS said
         WHERE run.state = 'FINISHED') r
  FULL JOIN (SELECT run.id AS run_id, inv.currency, count(*) AS invoices, sum(inv.total_minor)::bigint AS total_minor
               FROM billing_closerun run
               JOIN billing_billingperiod p ON p.month = run.month
               JOIN billing_invoice inv ON inv.period_id = p.id AND inv.entity_id = run.entity_id
              WHERE run.state = 'FINISHED' AND inv.state = 'ISSUED'
              GROUP BY run.id, inv.currency) i USING (run_id, currency)
  LEFT JOIN books_minor_units m USING (currency)
 WHERE r.invoices IS DISTINCT FROM i.invoices
    OR r.invoiced * coalesce(m.minor_per_major, 100) IS DISTINCT FROM i.total_minor
