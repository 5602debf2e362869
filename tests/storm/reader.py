"""Holds the books against every promise, again and again: `python -m tests.storm.reader`."""

import sys
import time

import django

PAUSE_SECONDS = 1.0


def main() -> None:
    django.setup()
    from django.conf import settings
    from django.db import Error, connection
    from django.utils import timezone

    from billing import books
    from tests.storm.notes import note

    found = settings.STORM_FOLDER / "violations"
    while True:
        try:
            findings = books.check(as_of=timezone.now())
        except (Error, books.BookUnreadable) as error:
            print(f"reader: {error!r}", file=sys.stderr)
            connection.close()
        else:
            note("looks at all promises")
            for finding in findings:
                with found.open("a") as file:
                    file.write(f"{timezone.now()} {finding.promise.name}: {finding.rows[:3]}\n")
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
