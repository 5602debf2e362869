-- A refund has the ledger entries of its state, and every such entry its refund.
-- Money has left and the books have it not, or the other way round. Book the missing half.
SELECT r.id AS refund_id, r.state, r.kind AS expected, e.id AS entry_id, e.kind, e.source
  FROM (SELECT id, state, unnest(CASE state
                 WHEN 'SUCCEEDED' THEN ARRAY['REFUND_RESERVED', 'REFUND_SENT']
                 WHEN 'FAILED' THEN ARRAY['REFUND_RESERVED', 'REFUND_UNDONE']
                 WHEN 'RETURNED' THEN ARRAY['REFUND_RESERVED', 'REFUND_SENT', 'REFUND_RETURNED']
                 ELSE ARRAY['REFUND_RESERVED'] END) AS kind
          FROM billing_refund) r
  FULL JOIN (SELECT id, kind, source FROM billing_ledgerentry
              WHERE kind IN ('REFUND_RESERVED', 'REFUND_SENT', 'REFUND_UNDONE', 'REFUND_RETURNED')) e
       ON e.source = 'refund:' || r.id AND e.kind = r.kind
 WHERE r.id IS NULL OR e.id IS NULL
