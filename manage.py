#!/usr/bin/env python
"""Django's command-line door to the month close."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    from django.core.management import execute_from_command_line

    from config import first_use

    first_use.prepare(sys.argv)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
