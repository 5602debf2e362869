-- Every ledger entry has at least two postings, and they sum to zero.
-- Money appeared or vanished. The database refuses such an entry at commit, so its trigger was off or
-- a restore was partial: find out when, then correct it by another entry.
SELECT e.id AS entry_id, e.kind, e.source, e.account_id,
       count(p.id) AS postings, coalesce(sum(p.amount_minor), 0)::bigint AS sum_minor
  FROM billing_ledgerentry e
  LEFT JOIN billing_posting p ON p.entry_id = e.id
 GROUP BY e.id, e.kind, e.source, e.account_id
HAVING count(p.id) < 2 OR sum(p.amount_minor) <> 0
