"""The minute schedules, every two seconds: `python -m tests.storm.clockwork`. A minute is long in a storm."""

import sys
import time

import django

EVERY_SECONDS = 2.0


def main() -> None:
    django.setup()
    from django.db import Error, connection
    from django.utils.module_loading import import_string

    from config.schedules import SCHEDULES

    while True:
        for entry in SCHEDULES:
            if entry.minutes == 1:
                try:
                    import_string(entry.func)()
                except Error as error:
                    print(f"clockwork: {entry.name}: {error!r}", file=sys.stderr)
                    connection.close()
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
