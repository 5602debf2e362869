"""What a figure belongs to: the machine and the database's settings."""

import os
import sys
from typing import Any

from django.db import connection

SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "server_version",
)


def circumstances() -> dict[str, Any]:
    """Without these a figure says nothing. `load`: how many processes wanted a core as it was measured."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SETTINGS)]
        )
        database = dict(cursor.fetchall())
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        "database": database,
    }
