-- Where an entity warns before a hold, the hold rests on a warning that was delivered its days of grace before.
-- A customer was put on hold without the time that we had given them. Lift it, and warn them first.
--
-- Older releases, and entities that give no grace, place holds without: those say no days.
SELECT h.id AS hold_id, h.account_id, h.placed_at, h.grace_days, h.warned_at
  FROM accounts_hold h
 WHERE h.reason = 'OVERDUE' AND h.grace_days IS NOT NULL
   AND (h.warned_at IS NULL
        OR h.placed_at < h.warned_at + h.grace_days * interval '1 day'
        OR NOT EXISTS (SELECT 1 FROM notifications_message m
                        WHERE m.account_id = h.account_id AND m.kind = 'HOLD_WARNING' AND m.state = 'SENT'
                          AND m.sent_at = h.warned_at))
