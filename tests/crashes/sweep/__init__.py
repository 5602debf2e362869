"""
The crash sweep: a small close, killed at every boundary it has, in every way there is.

A boundary is a place where something becomes true for others: a COMMIT, a ROLLBACK, a write outside
any transaction, a call to the payment provider, a mail handed to the server, a doorbell rung. At each,
three ways: killed before it; killed after it; and carried out, but the reply is lost, so that the
code hears of a broken connection or an unknown outcome and goes on from there as it is written to.

What is proven: after each of these, the restarted processes come to rest by themselves; every promise
of the books holds; the provider has taken exactly what we have booked; each message was sent; and the
database says, row for row, what it says after a run without any fault (`dump`).

A run ends as soon as the database says what it says without faults at the same place of the script, and
the same queues are rung: from there on both would do the same. `--to-the-end` does not take that for
granted, and takes four times as long.

What is not: kill -9 is not a power cut, and the database here may run with fsync off; the kill storm
(tests/storm) has real processes and fsync on. One process works here, so two workers at once are left to
tests/concurrency. A kill inside a transaction is the kill before its COMMIT.

`make crash-sweep` runs all of it. boundaries.txt lists the boundaries: a new one must be added to it,
by `make crash-sweep UPDATE=1`, so that a change of the protocol is seen by whoever reviews it.
"""
