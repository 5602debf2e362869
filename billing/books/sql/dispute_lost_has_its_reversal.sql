-- A payment goes back by as much as was lost in a dispute of it, exactly when it was lost.
-- The bank has the money, and here the debt counts as paid, or the other way round. Reverse the payment.
SELECT d.id AS dispute_id, d.state, d.payment_id, d.amount_minor, r.id AS reversal_id, r.amount_minor AS reversed_minor
  FROM billing_dispute d
  LEFT JOIN billing_paymentreversal r ON r.gateway = d.gateway AND r.provider_ref = d.provider_ref
 WHERE (r.id IS NOT NULL) <> (d.state = 'LOST')
    OR r.id IS NOT NULL AND (r.payment_id, r.amount_minor) IS DISTINCT FROM (d.payment_id, d.amount_minor)
