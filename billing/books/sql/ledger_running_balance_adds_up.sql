-- Every running balance is the one before it plus its own amount.
-- What an account is said to owe is wrong from this posting on. Hold back its charges until it is
-- corrected.
SELECT posting_id, ledger_account_id, version, balance_before_minor, amount_minor, balance_minor
  FROM (SELECT id AS posting_id, ledger_account_id, version, amount_minor, balance_minor,
               lag(balance_minor, 1, 0::bigint)
                   OVER (PARTITION BY ledger_account_id ORDER BY version) AS balance_before_minor
          FROM billing_posting WHERE version IS NOT NULL) chained
 WHERE balance_minor <> balance_before_minor + amount_minor
