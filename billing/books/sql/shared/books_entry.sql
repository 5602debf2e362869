-- Every ledger entry on one row: what it moved on each kind of ledger account.
SELECT e.id AS entry_id, e.kind, e.source, e.account_id, e.currency,
       coalesce(sum(p.amount_minor) FILTER (WHERE l.kind = 'RECEIVABLE'), 0)::bigint AS receivable_minor,
       coalesce(sum(p.amount_minor) FILTER (WHERE l.kind = 'CUSTOMER_CREDIT'), 0)::bigint AS customer_credit_minor,
       coalesce(sum(p.amount_minor) FILTER (WHERE l.kind = 'REVENUE'), 0)::bigint AS revenue_minor,
       coalesce(sum(p.amount_minor) FILTER (WHERE l.kind = 'PROMOTIONS'), 0)::bigint AS promotions_minor,
       coalesce(sum(p.amount_minor) FILTER (WHERE l.kind = 'BAD_DEBT'), 0)::bigint AS bad_debt_minor
  FROM billing_ledgerentry e
  JOIN billing_posting p ON p.entry_id = e.id
  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
 GROUP BY e.id, e.kind, e.source, e.account_id, e.currency
