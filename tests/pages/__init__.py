"""
How long pages take while a close runs: `python -m tests.pages --accounts 100000`.

    world.py     a close in the middle, as rows: nine tenths of it behind us
    measuring.py a site and a cluster on that, and people who look
"""
