-- The instant the books are held against: the check's, or now for a person at a prompt.
SELECT coalesce(nullif(current_setting('books.as_of', true), '')::timestamptz, now()) AS as_of
