-- The invoices of an entity are numbered 1, 2, 3… without a gap.
-- An invoice was deleted or a number skipped, and an auditor will ask. Restore it, or record why.
SELECT entity_id, invoice_id, sequence, sequence_before
  FROM (SELECT entity_id, id AS invoice_id, sequence,
               lag(sequence, 1, 0::bigint) OVER (PARTITION BY entity_id ORDER BY sequence) AS sequence_before
          FROM billing_invoice WHERE sequence IS NOT NULL) numbered
 WHERE sequence <> sequence_before + 1
