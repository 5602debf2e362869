"""`python -m tests.pages`: in a scratch database, beside whatever the settings name; gone afterwards."""

import os
import subprocess
import sys
from argparse import ArgumentParser

import django


def main() -> int:
    """Set the place up, measure in a process of its own, and say what came of it."""
    parser = ArgumentParser(prog="python -m tests.pages", description=__doc__)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=90, help="how long people look")
    parser.add_argument("--viewers", type=int, default=4, help="how many look at once")
    asked = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    from config.bench import scratch

    with scratch.place(latency_ms=100, rate=None) as environment:
        command = [sys.executable, "-m", "tests.pages.measuring"]
        command += [str(asked.accounts), str(asked.seconds), str(asked.viewers)]
        return subprocess.run(command, env=environment).returncode


sys.exit(main())
