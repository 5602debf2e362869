-- Every business event has at most one ledger entry of its kind.
-- It counts twice in every balance and report. Reverse one of them by another entry.
SELECT kind, source, count(*) AS entries, min(id) AS first_entry_id, max(id) AS last_entry_id
  FROM billing_ledgerentry
 GROUP BY kind, source
HAVING count(*) > 1
