-- Bank transfers of which the bank says the same are counted from one, with no hole.
-- A statement imported again would book one of them twice, or pass one by. Compare with the bank's statements of that day.
SELECT bank_account, bank_ref, received_on, currency, amount_minor, min(id) AS first_id, count(*) AS transfers,
       array_agg(ordinal ORDER BY ordinal) AS ordinals
  FROM billing_incomingtransfer
 GROUP BY bank_account, bank_ref, received_on, currency, amount_minor, reference, payer
HAVING min(ordinal) <> 1 OR max(ordinal) <> count(*) OR count(DISTINCT ordinal) <> count(*)
