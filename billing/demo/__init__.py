"""
A made-up cloud provider and one month of its customers' usage, closed for real.

`provider` makes the customers and their usage file, `charging` their cards at a payment provider,
 `meddling` is the world that changes while the
close runs, `management/commands/demo.py` runs it all and checks the result.
"""
