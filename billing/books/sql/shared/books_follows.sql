-- Which kind of step follows which, as the check says it, for CLOSE_STEPS may change without a migration; none
-- for a person at a prompt. Nobody here knows what a kind follows that is not installed.
SELECT kind, follows
  FROM json_to_recordset(coalesce(nullif(current_setting('books.steps', true), ''), '[]')::json)
       AS told (kind text, follows text)
 WHERE follows IS NOT NULL
