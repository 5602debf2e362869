"""
How fast a close is on this machine, and what it is held against: `manage.py bench_close`.

    scratch.py    a database, a provider and a mail server that nobody else uses, and that are gone afterwards
    building.py   accounts with a month of usage
    closing.py    the whole close, on real clusters
    stepping.py   each step by itself, in worker processes that do nothing else; and the old way, one by one
    limits.py     what PostgreSQL needs for the same rows
    watching.py   seconds, processor time and memory of processes
"""
