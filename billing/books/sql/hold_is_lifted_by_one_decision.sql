-- Every lifted hold was lifted by one decision, and no open one was.
-- Either nobody can tell why it was lifted, or a customer who was told so is still held: lift it.
SELECT h.id AS hold_id, h.account_id, h.reason, h.placed_at, h.lifted_at, count(d.id) AS decisions
  FROM accounts_hold h
  LEFT JOIN billing_decision d ON d.hold_id = h.id AND d.act = 'LIFT_HOLD' AND d.did = 'DONE'
 GROUP BY h.id, h.account_id, h.reason, h.placed_at, h.lifted_at
HAVING count(d.id) <> CASE WHEN h.lifted_at IS NULL THEN 0 ELSE 1 END
