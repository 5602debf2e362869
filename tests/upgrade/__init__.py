"""
An installation of an older commit, upgraded in the middle of a close: `make upgrade OLD=rev`.

The older code is taken out of git into a temporary folder and run by this virtual environment. It builds
a database, customers and their cards, starts the close of a month and works on it with two clusters. When
a part of the charging is done, the code of this checkout migrates the same database and is started beside
it, as docs/operations.md says it. One old cluster is killed with charges in hand, the other goes on beside
the new ones until most is charged; the new code ends the run. Customers pay on the old site and on the new
one meanwhile, banks confirm on the new one what was begun on the old one. Then, with no cluster running, a
second small run is worked on through nothing but doorbells that the old code has rung.

Held against each other and against what the seed says: every payment, every step, each provider's own
book, in which nobody may be charged twice; every promise of the books; and no process may log an error, but
that PostgreSQL has rolled back a worker's transaction which was in the way of the migration, or the other way
round: then `migrate` is run again.

Both sides are reached by manage.py, HTTP and SQL alone, so that any two commits that have these can meet.

What it does not show: an older PostgreSQL or older packages, since both sides run in one environment; and
the way back, which needs new rows that the old code meets for longer than a part of a close.
"""
