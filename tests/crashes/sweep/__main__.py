"""`python -m tests.crashes.sweep`: see the package. Its last line is `boundaries: N, violations: 0`."""

import argparse
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from pathlib import Path

import django

LIST = Path(__file__).with_name("boundaries.txt")
SHOWN = 20
DIFF_SHOWN = 30


def main() -> int:
    options = _options()
    _set_up()
    from tests.crashes.sweep import databases

    began = time.monotonic()
    with databases.family() as family, tempfile.TemporaryDirectory(prefix="crash-sweep-") as folder:
        code = _sweep(options, family, Path(folder))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crash-sweep", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--one-mode", action="store_true", help="each boundary once, the ways taken in turn"
    )
    parser.add_argument("--pairs", type=int, default=200, help="double crashes, sampled")
    parser.add_argument("--seed", type=int, default=None, help="of the sample")
    parser.add_argument("--only", default="", help="boundaries whose name contains this")
    parser.add_argument(
        "--to-the-end",
        action="store_true",
        help="also where the database says again what it says without faults",
    )
    parser.add_argument("--update", action="store_true", help="write boundaries.txt anew")
    return parser.parse_args()


def _set_up() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.crashes.sweep.settings"
    django.setup()
    from tests.crashes.sweep import boundaries, scenario

    scenario.let_the_bank_ask()
    boundaries.install()
    # Warnings of each kill, and a line for each doorbell: what counts is how it ends.
    logging.disable(logging.CRITICAL)


def _sweep(options: argparse.Namespace, family: str, folder: Path) -> int:
    from tests.crashes.sweep.life import Report, Snapshots, Stage

    snapshots = Snapshots(folder, family)
    Stage(f"{family}_warm", snapshots).warm_up()
    golden = Stage(f"{family}_golden", snapshots).golden()
    again = Stage(f"{family}_again", snapshots).run()
    if golden.violations or not _same(golden, again):
        _explain(golden, again)
        return 1
    with multiprocessing.get_context("fork").Pool(
        options.processes, initializer=_take_a_stage, initargs=(snapshots, not options.to_the_end)
    ) as pool:
        names = golden.boundaries[0]
        if options.update:
            LIST.write_text("\n".join(names) + "\n")
        elif not options.only and (news := _news(names)):
            print(news)
            return 1
        cases = list(_cases(names, options))
        print(f"golden run: {len(names)} boundaries, {len(golden.dump)} rows; {len(cases)} runs")
        reports: list[Report] = list(_watched(pool.imap_unordered(_run_case, cases), len(cases)))
        print(_kinds(names, cases))
        pairs = _pairs(reports, options)
        if pairs:
            print(f"{len(pairs)} double crashes, seed {options.seed}")
            reports += _watched(pool.imap_unordered(_run_case, pairs), len(pairs))
    slow = sorted(reports, key=lambda report: -report.seconds)[:3]
    print(f"slowest: {'; '.join(f'{report.seconds:.1f} s {report}' for report in slow)}")
    bad = [report for report in reports if _judge(report, golden, names)]
    for report in bad[:SHOWN]:
        print(f"\nVIOLATION {report} [{' '.join(map(str, report.strikes))}]")
        print("\n".join(report.violations[:DIFF_SHOWN]))
    print(f"boundaries: {len(reports)}, violations: {len(bad)}")
    return 1 if bad else 0


# --- in the processes of the pool


_stage = None


def _take_a_stage(snapshots, until_same: bool) -> None:
    from tests.crashes.sweep.life import Stage

    global _stage  # noqa: PLW0603 - one for each process of the pool
    [number] = multiprocessing.current_process()._identity
    _stage = Stage(f"{snapshots.family}_{number}", snapshots, until_same=until_same)


def _run_case(case):
    assert _stage is not None, "the pool gives each of its processes a stage"
    return _stage.run(*case)


# --- which runs


def _cases(names: Sequence[str], options: argparse.Namespace) -> Iterator[tuple]:
    from tests.crashes.sweep.boundaries import Mode
    from tests.crashes.sweep.life import Strike

    modes = list(Mode)
    for at, name in enumerate(names, 1):
        if options.only in name:
            for mode in [modes[at % 3]] if options.one_mode else modes:
                yield (Strike(at, mode),)


def _pairs(reports: Sequence, options: argparse.Namespace) -> list[tuple]:
    """The same first crashes, and a second one while they heal."""
    from tests.crashes.sweep.boundaries import Mode
    from tests.crashes.sweep.life import Strike

    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(options.seed)
    healed = sorted((r for r in reports if len(r.boundaries) > 1), key=lambda r: str(r.strikes))
    pairs = []
    for report in rng.choices(healed, k=options.pairs) if healed else []:
        # Soon after the restart: what comes later is the single crash at that place again.
        among = min(len(report.boundaries[1]), 60)
        pairs.append((*report.strikes, Strike(rng.randint(1, among), rng.choice(list(Mode)))))
    return pairs


# --- judging


def _same(golden, again) -> bool:
    return golden.boundaries == again.boundaries and golden.dump == again.dump


def _explain(golden, again) -> None:
    print("The run without faults is not as it must be, so nothing was swept.")
    print("\n".join(golden.violations))
    for first, second in zip(golden.boundaries, again.boundaries, strict=False):
        print(_diff(first, second))
    print(_diff(golden.dump, again.dump))
    print("boundaries: 0, violations: 1")


def _judge(report, golden, names: Sequence[str]) -> list[str]:
    """Adds to the report what is wrong with it in comparison, and returns all of it."""
    strike = report.strikes[0]
    met = report.boundaries[0][: strike.at]
    if met != list(names[: strike.at]):
        report.violations.append(f"met other boundaries:\n{_diff(names[: strike.at], met)}")
    if report.dump and report.dump != golden.dump:
        report.violations.append(_diff(golden.dump, report.dump))
    return report.violations


def _diff(expected: Sequence[str], found: Sequence[str]) -> str:
    lines = unified_diff(expected, found, "without faults", "here", n=0, lineterm="")
    return "\n".join(list(lines)[:DIFF_SHOWN])


def _news(names: Sequence[str]) -> str:
    known = LIST.read_text().splitlines() if LIST.exists() else []
    if known == list(names):
        return ""
    return (
        "The boundaries of a close are not those of tests/crashes/sweep/boundaries.txt:\n"
        + _diff(known, names)
        + "\nIs each new one meant, and healed from? Then list it: make crash-sweep UPDATE=1"
        + "\nboundaries: 0, violations: 1"
    )


def _kinds(names: Sequence[str], cases: Sequence[tuple]) -> str:
    kinds = Counter((names[strike.at - 1].split(":")[0], str(strike.mode)) for [strike] in cases)
    return "\n".join(f"  {kind:9} {mode:11} {n}" for (kind, mode), n in sorted(kinds.items()))


def _watched(reports: Iterator, total: int) -> Iterator:
    for done, report in enumerate(reports, 1):
        if done % 50 == 0:
            print(f"  {done} of {total}", file=sys.stderr, flush=True)
        yield report


if __name__ == "__main__":
    sys.exit(main())
