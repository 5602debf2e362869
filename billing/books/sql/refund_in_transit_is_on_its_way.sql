-- What the ledger has in transit of a gateway is what its refunds on their way add up to.
-- Money hangs between us and the customer. Find the refund that has ended in one and not in the other.
SELECT currency, gateway, coalesce(l.in_transit_minor, 0) AS in_transit_minor, coalesce(r.on_its_way_minor, 0) AS on_its_way_minor
  FROM (SELECT a.currency, a.gateway, -sum(p.amount_minor)::bigint AS in_transit_minor
          FROM billing_ledgeraccount a
          JOIN billing_posting p ON p.ledger_account_id = a.id
         WHERE a.kind = 'REFUNDS_IN_TRANSIT' GROUP BY a.currency, a.gateway) l
  FULL JOIN (SELECT currency, gateway, sum(amount_minor)::bigint AS on_its_way_minor
               FROM billing_refund WHERE state IN ('RESERVED', 'SUBMITTED', 'PENDING', 'REVIEW')
              GROUP BY currency, gateway) r USING (currency, gateway)
 WHERE coalesce(l.in_transit_minor, 0) <> coalesce(r.on_its_way_minor, 0)
