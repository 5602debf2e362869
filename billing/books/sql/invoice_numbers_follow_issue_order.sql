-- An invoice is not issued earlier than one with a smaller number of its entity.
-- The order of numbers is not the order of dates: tell your accountant. A machine's clock is wrong, or
-- someone issued with a date of the past.
--
-- Workers read their clocks before they queue for a number: what they may wait there is no disorder.
SELECT entity_id, invoice_id, sequence, issued_at, issued_at_before
  FROM (SELECT entity_id, id AS invoice_id, sequence, issued_at,
               lag(issued_at) OVER (PARTITION BY entity_id ORDER BY sequence) AS issued_at_before
          FROM billing_invoice WHERE sequence IS NOT NULL) dated
 WHERE issued_at < issued_at_before - interval '10 minutes'
