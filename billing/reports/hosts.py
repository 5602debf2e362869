"""How much of a run each machine did, and how fast: it shows whether one more machine helps."""

from typing import Any

from django.db import connection

from billing.models import CloseRun

# From the first step of a kind that a host ended to its last. The speed of a single chunk is not reliable,
# but there is no better figure.
WORKED = """
SELECT kind, host, count(*) AS processes, sum(steps)::bigint AS steps,
       round(extract(epoch FROM max(last_at) - min(first_at))::numeric, 1) AS seconds,
       round(sum(steps) / greatest(extract(epoch FROM max(last_at) - min(first_at)), 0.001)::numeric, 1)
           AS per_second,
       min(first_at) AS first_at, max(last_at) AS last_at
  FROM billing_contribution WHERE run_id = %s
 GROUP BY kind, host ORDER BY min(first_at), kind, host
"""
# The keys of a row, in their order.
COLUMNS = (
    "kind", "host", "processes", "steps", "seconds", "per_second", "first_at", "last_at",
)  # fmt: skip


def worked(run: CloseRun) -> list[dict[str, Any]]:
    """
    Add up the steps that each host has ended in a run, by kind; plain values.

    `seconds` are from a host's first step to its last, so a host that was idle for a while looks slower
    than it is. Steps that a person cancelled belong to no host; a retried step counts each time.
    """
    with connection.cursor() as cursor:
        cursor.execute(WORKED, [run.pk])
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return [
        row
        | {name: str(row[name]) for name in ("seconds", "per_second")}
        | {name: row[name].isoformat(timespec="seconds") for name in ("first_at", "last_at")}
        for row in rows
    ]
