"""
What a restore that went wrong leaves behind, though everything seems to work.

`pg_restore` into tables that are in use goes on after its errors: rows stand twice, and the keys that would have
refused them are gone. Each schedule then fires twice. `manage.py sync_schedules` mends the schedules; of the other
tables a restore that ended well is the only cure (`manage.py restore`).
"""

from django.db import connection

# Ordinary tables of ours without a primary key, and schedules that are there more than once: one question, asked
# every few seconds. Of partitioned usage the parent has a unique key instead.
DAMAGE = """
SELECT 'table', c.relname::text FROM pg_class c
 WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
   AND NOT c.relispartition AND c.relpersistence = 'p'
   AND (c.relname LIKE ANY (ARRAY['accounts%', 'billing%', 'notifications%', 'django%', 'auth%']))
   AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
 UNION ALL
SELECT 'schedule', name FROM django_q_schedule GROUP BY name HAVING count(*) > 1
 ORDER BY 1, 2
"""


def found() -> list[str]:
    """What is damaged, in words that say what mends it; of a database that has its tables."""
    with connection.cursor() as cursor:
        cursor.execute(DAMAGE)
        rows = cursor.fetchall()
    keyless = [name for kind, name in rows if kind == "table"]
    doubled = [name for kind, name in rows if kind == "schedule"]
    words = [f"schedule {name!r} is there twice: manage.py sync_schedules" for name in doubled]
    if "django_q_schedule" in keyless:
        words.append("the table of schedules has no key: manage.py sync_schedules")
        keyless.remove("django_q_schedule")
    if keyless:
        words.append(
            f"{', '.join(keyless)}: no primary key, as after a restore that failed: restore once more"
        )
    return words
