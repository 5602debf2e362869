-- A refund is booked on its payment's account: each part where it belongs, as cash of the payment's gateway.
-- What the customer has as credit, or the cash we have, is wrong in the ledger. Correct it by another entry.
SELECT r.id AS refund_id, r.payment_id, r.amount_minor, r.credit_minor, e.entry_id, e.kind, e.customer_credit_minor,
       coalesce(g.cash_minor, 0) AS cash_minor, coalesce(g.in_transit_minor, 0) AS in_transit_minor
  FROM billing_refund r
  JOIN billing_payment p ON p.id = r.payment_id
  LEFT JOIN LATERAL (SELECT sum(f.customer_credit_minor)::bigint AS taken_minor FROM books_entry f
                      WHERE f.kind = 'REFUND_FROM_CREDIT' AND f.source = 'refund:' || r.id) f ON true
  JOIN books_entry e ON e.kind IN ('REFUND_RESERVED', 'REFUND_SENT', 'REFUND_UNDONE', 'REFUND_RETURNED') AND e.source = 'refund:' || r.id
  LEFT JOIN (SELECT t.entry_id, l.gateway,
                    sum(t.amount_minor) FILTER (WHERE l.kind = 'CASH')::bigint AS cash_minor,
                    sum(t.amount_minor) FILTER (WHERE l.kind = 'REFUNDS_IN_TRANSIT')::bigint AS in_transit_minor
               FROM billing_posting t
               JOIN billing_ledgeraccount l ON l.id = t.ledger_account_id AND l.gateway <> ''
              GROUP BY t.entry_id, l.gateway) g ON g.entry_id = e.entry_id AND g.gateway = r.gateway
 WHERE (r.account_id, r.gateway, r.currency, e.account_id, e.currency)
       IS DISTINCT FROM (p.account_id, p.gateway, p.currency, r.account_id, r.currency)
    OR (e.customer_credit_minor, coalesce(g.cash_minor, 0), coalesce(g.in_transit_minor, 0))
       IS DISTINCT FROM CASE e.kind
           WHEN 'REFUND_RESERVED' THEN (r.credit_minor - coalesce(f.taken_minor, 0), 0::bigint, -r.amount_minor)
           WHEN 'REFUND_UNDONE' THEN (r.lost_minor - r.credit_minor, 0::bigint, r.amount_minor)
           WHEN 'REFUND_SENT' THEN (0::bigint, -r.amount_minor, r.amount_minor)
           WHEN 'REFUND_RETURNED' THEN (r.lost_minor - r.amount_minor, r.amount_minor, 0::bigint) END
