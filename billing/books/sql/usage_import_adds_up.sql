-- Every row of an import is added, known already, or rejected.
-- Usage that was delivered is nowhere. Import the file again: what is known adds nothing.
SELECT id AS batch_id, name, rows_read, rows_added, rows_known, rows_rejected
  FROM billing_usagebatch
 WHERE rows_read <> rows_added + rows_known + rows_rejected
    OR least(rows_read, rows_added, rows_known, rows_rejected) < 0
