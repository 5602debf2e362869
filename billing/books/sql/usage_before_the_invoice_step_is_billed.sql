-- What an account had used when its invoice step ended is billed, unless that step is blocked, dead or cancelled.
-- The close has left usage behind. The next close takes it; if it must not wait, find out why this one
-- did not. Usage that arrived later is not meant: it is for the next invoice.
SELECT s.id AS summary_id, s.account_id, p.month, t.run_id, t.state AS invoice_step, s.quantity, s.unit, s.created_at
  FROM billing_usagesummary s
  JOIN billing_billingperiod p ON p.id = s.period_id
  JOIN billing_step t ON t.account_id = s.account_id AND t.kind = 'INVOICE' AND t.state IN ('DONE', 'SKIPPED')
  JOIN billing_closerun r ON r.id = t.run_id AND r.month >= p.month
 WHERE s.invoice_id IS NULL
   -- What came in after an account was closed is for a person to invoice.
   AND NOT EXISTS (SELECT 1 FROM billing_accountclosure c
                    WHERE c.account_id = s.account_id AND c.locked_at <= s.created_at
                      AND (c.reopened_at IS NULL OR c.reopened_at > s.created_at))
   -- Both are said under the account's lock and by the database's clock, so they are in order.
   AND EXISTS (SELECT 1 FROM billing_decision d
                WHERE d.account_id = s.account_id AND d.run_id = t.run_id AND d.act = 'INVOICE'
                  AND d.did = t.state AND d.decided_at > s.created_at)
