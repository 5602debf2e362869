-- Of an import that keeps its rejected rows, as many are kept as it has rejected.
-- Usage that was delivered is neither billed nor shown to anybody. Look at the import's file of rejects.
SELECT b.id AS batch_id, b.name, b.rows_rejected, k.kept
  FROM (SELECT batch_id, count(*) AS kept FROM billing_rejectedrow GROUP BY batch_id) k
  JOIN billing_usagebatch b ON b.id = k.batch_id
 WHERE b.rows_rejected <> k.kept
