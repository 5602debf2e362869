-- A bank transfer that was recorded before is one payment of its amount, and that payment no other transfer.
-- Money that came in is booked nowhere. Find the payment that was meant, or assign the transfer to its account.
SELECT t.id AS transfer_id, t.bank_ref, t.currency, t.amount_minor AS came_in_minor, t.decided_by,
       p.id AS payment_id, p.account_id, p.amount_minor AS paid_minor
  FROM billing_incomingtransfer t
  LEFT JOIN billing_payment p ON p.id = t.resembles_id
 WHERE t.state = 'RECORDED'
   AND (p.id IS NULL OR (p.currency, p.amount_minor) <> (t.currency, t.amount_minor)
        OR EXISTS (SELECT FROM billing_incomingtransfer other
                    WHERE other.resembles_id = p.id AND other.state = 'RECORDED' AND other.id <> t.id))
