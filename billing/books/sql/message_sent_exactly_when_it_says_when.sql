-- A message is sent exactly when it says when.
-- Nobody can tell whether the customer has it. Look for its Message-ID in the mail server's log.
SELECT id AS message_id, account_id, kind, fact, state, sent_at
  FROM notifications_message
 WHERE (state = 'SENT') <> (sent_at IS NOT NULL)
