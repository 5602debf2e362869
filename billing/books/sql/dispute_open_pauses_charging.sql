-- An account with an open dispute is not charged by itself.
-- It would be charged again for what it disputes. Pause charging it.
SELECT d.id AS dispute_id, d.account_id, d.payment_id, d.opened_at
  FROM billing_dispute d
 WHERE d.state = 'NEEDS_RESPONSE'
   AND NOT EXISTS (SELECT FROM accounts_chargingpause p
                    WHERE p.account_id = d.account_id AND p.reason = 'DISPUTE' AND p.resumed_at IS NULL)
