-- Every hold was placed by one decision, which says why.
-- Nobody can tell the customer why they are held. Find out who placed it, or lift it.
SELECT h.id AS hold_id, h.account_id, h.reason, h.placed_at, count(d.id) AS decisions
  FROM accounts_hold h
  LEFT JOIN billing_decision d ON d.hold_id = h.id AND d.act IN ('HOLD', 'PLACE_HOLD') AND d.did = 'DONE'
 GROUP BY h.id, h.account_id, h.reason, h.placed_at
HAVING count(d.id) <> 1
