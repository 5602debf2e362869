-- No credit grant is used beyond its amount.
-- A customer settled invoices with credit they did not have. Book the difference back.
SELECT id AS grant_id, account_id, amount_minor, remaining_minor, expired_minor, refunded_minor, reversed_minor
  FROM billing_creditgrant
 WHERE least(remaining_minor, expired_minor, refunded_minor, reversed_minor) < 0
    OR remaining_minor + expired_minor + refunded_minor + reversed_minor > amount_minor
