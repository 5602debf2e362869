"""Which kinds of step there are in the rows: also such as are not installed here, or not any more."""

from typing import Any

from django.db import connection

from billing import step_kinds
from billing.models import CloseRun

# From one kind to the next by the index `steps_by_outcome`, never past the steps between them.
OF_EACH_RUN = """
SELECT DISTINCT k.kind
  FROM billing_closerun r
 CROSS JOIN LATERAL (
       WITH RECURSIVE each (kind) AS (
           SELECT min(kind) FROM billing_step WHERE run_id = r.id
           UNION ALL
           SELECT (SELECT min(s.kind) FROM billing_step s WHERE s.run_id = r.id AND s.kind > each.kind)
             FROM each WHERE each.kind IS NOT NULL)
       SELECT kind FROM each WHERE kind IS NOT NULL) k
"""
# Whether any is open is found by the same index, state by state.
NOT_INSTALLED = f"""
{OF_EACH_RUN}
 WHERE r.state = 'RUNNING' AND k.kind <> ALL (%(installed)s::text[])
   AND EXISTS (SELECT FROM billing_step o
                WHERE o.run_id = r.id AND o.kind = k.kind
                  AND o.state IN ('WAITING', 'READY', 'RUNNING', 'UNKNOWN'))
 ORDER BY k.kind
"""


def listed(run: CloseRun | None = None) -> list[str]:
    """Every installed kind, and those besides that a run has, or any run."""
    only = "" if run is None else " WHERE r.id = %(run)s"
    found = _asked(OF_EACH_RUN + only, {} if run is None else {"run": run.pk})
    return step_kinds.in_order(found)


def not_installed() -> list[str]:
    """The kinds of which steps wait in a run that goes on, and that nobody here can do."""
    return _asked(NOT_INSTALLED, {"installed": [each.kind for each in step_kinds.installed()]})


def _asked(query: str, parameters: dict[str, Any]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return [kind for (kind,) in cursor.fetchall()]
