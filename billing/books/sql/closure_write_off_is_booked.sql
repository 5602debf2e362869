-- What a closing wrote off was granted as such, and is used.
-- The account still owes what it was told it does not, or has credit that nobody gave. Look at its ledger.
SELECT c.id AS closure_id, c.account_id, c.written_off_minor, g.written_off, g.unused
  FROM (SELECT account_id, sum(written_off_minor)::bigint AS written_off_minor, min(id) AS id
          FROM billing_accountclosure GROUP BY account_id) c
  FULL JOIN (SELECT account_id, sum(amount_minor)::bigint AS written_off, sum(remaining_minor)::bigint AS unused
               FROM billing_creditgrant WHERE kind = 'WRITE_OFF' GROUP BY account_id) g USING (account_id)
 WHERE coalesce(c.written_off_minor, 0) <> coalesce(g.written_off, 0) OR coalesce(g.unused, 0) <> 0
