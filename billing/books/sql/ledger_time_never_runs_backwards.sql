-- The postings of a customer's ledger account stand in the order of their time.
-- "Balance as of" may tell an old balance for the new one. The database's clock was set back: see its
-- time service.
SELECT posting_id, ledger_account_id, version, posted_at, posted_at_before
  FROM (SELECT id AS posting_id, ledger_account_id, version, posted_at,
               lag(posted_at) OVER (PARTITION BY ledger_account_id ORDER BY version) AS posted_at_before
          FROM billing_posting WHERE version IS NOT NULL) timed
 WHERE posted_at < posted_at_before
