-- Every usage event has its batch, its account and its product.
-- The database does not guard these three on partitioned usage. Restore what was deleted: the usage
-- cannot be billed or explained without.
SELECT e.id AS usage_event_id, e.event_id, e.batch_id, e.account_id, e.product_id
  FROM billing_usageevent e
  LEFT JOIN billing_usagebatch b ON b.id = e.batch_id
  LEFT JOIN accounts_account a ON a.id = e.account_id
  LEFT JOIN billing_product p ON p.id = e.product_id
 WHERE b.id IS NULL OR a.id IS NULL OR p.id IS NULL
