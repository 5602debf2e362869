-- A month of an entity is closed by one run.
-- Two runs would bill the same month. Cancel the steps of the later one.
SELECT entity_id, month, count(*) AS runs, min(id) AS first_run_id, max(id) AS last_run_id
  FROM billing_closerun
 GROUP BY entity_id, month
HAVING count(*) > 1
