"""Hold every promise of the books: exit 0 if all hold, 1 if one is broken, 2 if it cannot be told."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from accounts import clock
from billing import books
from billing.books import Finding
from billing.management import progress_bar, tables

ROWS_SHOWN = 10


class Command(BaseCommand):
    """`manage.py check_books --json`"""

    help = (
        "Checks every invariant of the books and lists what breaks it. docs/books.md explains each."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument(
            "--only", action="append", default=[], metavar="NAME", help="this check; repeatable"
        )

    def handle(self, **options: Any) -> None:
        as_of = clock.now()
        try:
            chosen = books.promises(options["only"])
            with progress_bar.bar("check_books", total=len(chosen), unit="checks") as bar:
                findings = books.check(
                    as_of=as_of, only=options["only"], on_progress=lambda _: bar.advance()
                )
        except (books.BookUnreadable, books.UnknownPromise, books.ViewsMissing) as error:
            raise CommandError(str(error), returncode=2) from error
        if options["json"]:
            self.stdout.write(document(findings, checks=len(chosen), as_of=as_of))
        else:
            for finding in findings:
                self.stdout.write(paragraph(finding))
            self.stdout.write(f"check_books: {verdict(findings, checks=len(chosen))}")
        if findings:
            sys.exit(1)


def document(findings: Sequence[Finding], *, checks: int, as_of: datetime) -> str:
    """The answer for programs."""
    return json.dumps(
        {
            "checks": checks,
            "violated": len(findings),
            "as_of": as_of.isoformat(),
            "violations": [
                {
                    "check": finding.promise.name,
                    "promise": finding.promise.sentence,
                    "advice": finding.promise.advice,
                    "count": finding.count,
                    "rows": finding.rows,
                }
                for finding in findings
            ],
        },
        indent=2,
        cls=DjangoJSONEncoder,
    )


def paragraph(finding: Finding) -> str:
    """One broken promise for people: what was promised, what to do, and the first rows that break it."""
    promise, shown = finding.promise, finding.rows[:ROWS_SHOWN]
    lines = [
        f"{promise.name}: {finding.count} broken",
        f"  Promised: {promise.sentence}",
        f"  Broken: {promise.advice}",
        *(f"    {line}" for line in tables.text(shown, none="").splitlines()),
    ]
    if more := finding.count - len(shown):
        lines.append(f"    … and {more} more")
    return "\n".join(lines) + "\n"


def verdict(findings: Sequence[Finding], *, checks: int) -> str:
    """The last line."""
    if findings:
        return f"{len(findings)} of {checks} checks are violated"
    return f"all {checks} checks hold"
