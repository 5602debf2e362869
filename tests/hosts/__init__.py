"""
Hosts of our own: `make hosts` as root, on any Linux with iproute2.

Each host is a network namespace on a bridge that lies in a namespace itself: the machine's own network is
not touched, and nothing is reached but these addresses. A database host runs PostgreSQL, a provider host
the payment provider and a mail server, three others `manage.py cluster`. A month is closed undisturbed on
one host; then the same month on three of them, while one is killed, one is cut off and brought back, and
one is added. Held against each other and against what the seed says: every total, every step, every mail,
and the provider's own book, in which nobody may be charged twice; and every promise of our books.

The host that is cut off is silent, as if its power had gone: no connection is closed. It holds the row lock
of an account in that moment; the report says after how many seconds PostgreSQL had ended its sessions.

`python -m tests.hosts.behind_pgbouncer` does a close with a worker killed behind pgbouncer in transaction
mode, with every statement logged, and looks for those that need a session of their own.

`python -m tests.hosts.scaling` closes the same month on one host, on two and on three.

What it does not show: hosts with clocks or processors of their own, since all of them are this machine.
"""
