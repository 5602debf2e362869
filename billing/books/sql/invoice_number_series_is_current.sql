-- The next number of an entity is the one after its last invoice.
-- The next invoice would leave a gap, or be refused: set the series to the right number.
SELECT entity_id, s.next_number, coalesce(i.last_sequence, 0) AS last_sequence
  FROM billing_numberseries s
  FULL JOIN (SELECT entity_id, max(sequence) AS last_sequence
               FROM billing_invoice WHERE sequence IS NOT NULL GROUP BY entity_id) i USING (entity_id)
 WHERE s.next_number IS DISTINCT FROM coalesce(i.last_sequence, 0) + 1
