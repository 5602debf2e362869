-- Where the email step of an account is done, its invoice was sent.
-- The close says that the customer has the invoice, and they do not. Send it by hand.
SELECT s.id AS step_id, s.run_id, s.account_id, i.id AS invoice_id, i.number, m.state AS message_state
  FROM billing_step s
  JOIN billing_closerun r ON r.id = s.run_id
  LEFT JOIN billing_billingperiod p ON p.account_id = s.account_id AND p.month = r.month
  LEFT JOIN billing_invoice i ON i.period_id = p.id AND i.account_id = s.account_id AND i.state = 'ISSUED'
  LEFT JOIN notifications_message m ON m.kind = 'INVOICE' AND m.fact = 'invoice:' || i.id
 WHERE s.kind = 'EMAIL' AND s.state = 'DONE' AND m.state IS DISTINCT FROM 'SENT'
