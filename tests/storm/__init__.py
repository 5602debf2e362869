"""
The kill storm: the product as it is installed, real processes, and a monkey that kills them by seed.

Two supervised clusters, the site under gunicorn and the embedded PostgreSQL with fsync on do what they
always do; a writer plays customers and operators: months are imported and closed, usage comes late,
customers pay by bank, on the site and now, get credit, remove their card. Both providers, the sandbox
and a process that speaks Stripe's API, drop requests, lose replies, are slow. Meanwhile the monkey
kills, stops and cuts off everything there is, PostgreSQL, the provider and the writer too, while a
reader holds the books against every promise.

Then the faults end. In three minutes at the most, with nobody's help, nothing may be left undone, and:
the providers took exactly what is booked, nobody was charged more than invoiced, every payment, credit
and usage event that was acknowledged to the writer is there once, and every promise of the books holds.

Pauses and leases are shortened (faults.py), so that minutes see what hours would. What this proves is
that a kill -9 of anything, at these moments, does no harm: 0 of N kills. It is no proof of "anywhere"
(that is the crash sweep's), and no power cut: what the kernel has, it writes.
"""
