-- Every invoice with what was allocated to it, and what is still due of it.
SELECT i.id AS invoice_id, i.account_id, i.state, i.currency, i.total_minor, i.due_at, i.settled_at,
       coalesce(x.allocated_minor, 0) AS allocated_minor,
       greatest(i.total_minor, 0) - coalesce(x.allocated_minor, 0) AS due_minor
  FROM billing_invoice i
  LEFT JOIN (SELECT invoice_id, sum(amount_minor)::bigint AS allocated_minor
               FROM billing_allocation GROUP BY invoice_id) x ON x.invoice_id = i.id
