-- No attempt is sent with a card of its account after that card's bank has said never again.
-- Card networks fine such tries. Which process sent it, and did it look before?
SELECT a.id AS attempt_id, a.account_id, a.submitted_at, m.id AS payment_method_id, blocked.blocked_at
  FROM billing_paymentattempt a
  JOIN accounts_paymentmethod m ON m.id = a.payment_method_id
  JOIN accounts_paymentmethod blocked
    ON blocked.account_id = m.account_id AND blocked.gateway = m.gateway AND blocked.token = m.token
 WHERE a.submitted_at > blocked.blocked_at
