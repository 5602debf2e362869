-- An attempt uses a card of its own account.
-- Someone else's card was charged. Refund it at the provider, and tell both customers.
SELECT a.id AS attempt_id, a.state, a.account_id, m.id AS payment_method_id, m.account_id AS card_of_account_id
  FROM billing_paymentattempt a
  JOIN accounts_paymentmethod m ON m.id = a.payment_method_id
 WHERE m.account_id <> a.account_id
