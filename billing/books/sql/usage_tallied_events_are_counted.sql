-- What the summaries of an account add up to is what its tallied events add up to.
-- Usage was lost or counted twice on its way to the invoice. Compare the batches, then bill or credit
-- the difference.
SELECT account_id, product_id, kind, coalesce(e.events, 0) AS events, coalesce(s.events, 0) AS events_summarised,
       coalesce(e.quantity, 0) AS quantity, coalesce(s.quantity, 0) AS quantity_summarised,
       coalesce(e.amount, 0) AS amount, coalesce(s.amount, 0) AS amount_summarised
  FROM (SELECT event.account_id, event.product_id, event.kind, count(*) AS events,
               sum(event.quantity) AS quantity, sum(event.amount) AS amount
          FROM billing_usageevent event
          JOIN billing_usagebatch batch ON batch.id = event.batch_id
         WHERE batch.tallied_at IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM billing_untalliedusage u
                            WHERE u.batch_id = event.batch_id AND u.account_id = event.account_id)
         GROUP BY event.account_id, event.product_id, event.kind) e
  FULL JOIN (SELECT account_id, product_id, kind, sum(events)::bigint AS events,
                    sum(quantity) AS quantity, sum(amount) AS amount
               FROM billing_usagesummary GROUP BY account_id, product_id, kind) s
       USING (account_id, product_id, kind)
 WHERE coalesce(e.events, 0) <> coalesce(s.events, 0)
    OR coalesce(e.quantity, 0) <> coalesce(s.quantity, 0)
    OR coalesce(e.amount, 0) <> coalesce(s.amount, 0)
