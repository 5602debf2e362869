-- Every ledger entry has at least two postings, and they sum to zero.
-- Money appeared or vanished. The database refuses such an entry at commit, so its trigger was off or
-- a restore was partial: find out when, then correct it by another entry.
SELECT e.id AS entry_id, e.kind, e.source, e.account_id,
       coalesce(p.postings, 0) AS postings, coalesce(p.sum_minor, 0) AS sum_minor
  FROM billing_ledgerentry e
  LEFT JOIN (SELECT entry_id, count(*) AS postings, sum(amount_minor)::bigint AS sum_minor
               FROM billing_posting GROUP BY entry_id) p ON p.entry_id = e.id
 WHERE coalesce(p.postings, 0) < 2 OR p.sum_minor <> 0
