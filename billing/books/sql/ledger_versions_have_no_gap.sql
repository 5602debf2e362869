-- The postings of a customer's ledger account are numbered 1, 2, 3… without a gap.
-- A posting was lost, or put in between: compare with the last backup.
SELECT posting_id, ledger_account_id, version, version_before
  FROM (SELECT id AS posting_id, ledger_account_id, version,
               lag(version, 1, 0::bigint) OVER (PARTITION BY ledger_account_id ORDER BY version) AS version_before
          FROM billing_posting WHERE version IS NOT NULL) numbered
 WHERE version <> version_before + 1
