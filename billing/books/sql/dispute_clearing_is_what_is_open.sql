-- What stands as disputed in the ledger is what the open disputes of its gateway come to.
-- Money that was decided about still counts as neither ours nor gone, or the reverse. Book the missing end of a dispute.
SELECT entity_id, currency, gateway, sum(disputed_minor)::bigint AS disputed_minor, sum(open_minor)::bigint AS open_minor
  FROM (SELECT l.entity_id, l.currency, l.gateway, p.amount_minor AS disputed_minor, 0 AS open_minor
          FROM billing_posting p
          JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id AND l.kind = 'DISPUTED'
         UNION ALL
        SELECT a.entity_id, d.currency, d.gateway, 0, d.amount_minor
          FROM billing_dispute d
          JOIN accounts_account a ON a.id = d.account_id
         WHERE d.state = 'NEEDS_RESPONSE') both_sides
 GROUP BY entity_id, currency, gateway
HAVING sum(disputed_minor) <> sum(open_minor)
