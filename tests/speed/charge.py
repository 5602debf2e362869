"""
`python -m tests.speed.charge`: how fast one worker charges, and what that costs each of the processes.

In a scratch database of its own, against the sandbox provider in another process; see docs/performance.md.
"""

import argparse
import cProfile
import os
import pstats
import resource
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import django


def main() -> None:
    parser = argparse.ArgumentParser(prog="speed of charging", description=__doc__)
    parser.add_argument("--accounts", type=int, default=2500)
    parser.add_argument("--latency-ms", type=float, default=200, help="of each call (200)")
    parser.add_argument("--rate", type=float, default=0, help="of the lane, charges a second (any)")
    parser.add_argument(
        "--poison", type=int, default=0, help="accounts that raise an error when they are charged"
    )
    parser.add_argument("--profile", action="store_true", help="with cProfile: twice as slow")
    parser.add_argument("--on-scratch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    if options.on_scratch:
        measure(options)
        return
    from config.bench import scratch

    with scratch.place(latency_ms=options.latency_ms, rate=None) as environment:
        environment["SANDBOX_RATE"] = str(options.rate)
        command = [sys.executable, "-m", "tests.speed.charge", *sys.argv[1:], "--on-scratch"]
        subprocess.run(command, env=environment, check=True)


def measure(options: argparse.Namespace) -> None:
    from django.utils import timezone

    from billing.close.engine import runner
    from billing.models import Step
    from config.bench import closing, watching

    build(options.accounts)
    poison(options.poison)
    profile = cProfile.Profile()
    with watching.Watch(closing.server_groups()) as watch:
        began, used = time.monotonic(), time.process_time()
        if options.profile:
            profile.enable()
        charged = runner.drain("charge", clock=timezone.now, until=bool)
        profile.disable()
        seconds, used = time.monotonic() - began, time.process_time() - used
    costs = {"worker": used} | {name: watch.cpu_seconds(name) for name in ("postgres", "provider")}
    print(f"{charged} in {seconds:.1f} s, {charged / seconds:.1f} a second")
    print({name: f"{1000 * cost / charged:.2f} ms each" for name, cost in costs.items()})
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB at the most")
    print(Counter(Step.objects.filter(kind="CHARGE").values_list("state", "because", "last_error")))
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


def poison(number: int) -> None:
    """From now on so many accounts raise an error when something is to be reserved for them."""
    from accounts.models import Account
    from billing.payments import charges

    ids = list(Account.objects.order_by("pk").values_list("pk", flat=True))
    poisoned = set(ids[:: max(1, len(ids) // number)][:number]) if number else set()
    real = charges.Collector.reserve

    def reserve(self: Any, requests: Any) -> Any:
        if any(request.account_id in poisoned for request in requests):
            raise ValueError("poison")
        return real(self, requests)

    charges.Collector.reserve = reserve  # type: ignore[method-assign]


def build(accounts: int) -> Any:
    """Accounts that are invoiced, and nothing else."""
    from django.core.management import call_command
    from django.utils import timezone

    from billing import periods
    from billing.close import pipeline, runs
    from billing.close.engine import runner
    from config.bench import building

    call_command("migrate", verbosity=0)
    as_of = timezone.now()
    month = periods.latest_month_over(as_of, building.ZONES)
    products = building.build_catalogue(since=periods.starts_at(month, "UTC").replace(year=2000))
    entity = building.build_entity(
        "charge", accounts=accounts, month=month, products=products, as_of=as_of, say=print
    )
    runs.start(entity=entity, month=month, started_by="speed", as_of=as_of)
    while runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=timezone.now()):
        pass


if __name__ == "__main__":
    main()
