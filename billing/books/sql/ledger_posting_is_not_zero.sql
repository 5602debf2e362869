-- No posting is of zero.
-- It says nothing, but hides an entry that has one side only. Look at what wrote it.
SELECT id AS posting_id, entry_id, ledger_account_id FROM billing_posting WHERE amount_minor = 0
