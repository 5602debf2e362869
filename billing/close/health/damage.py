"""
What a restore that went wrong leaves behind, though everything seems to work.

`pg_restore` into tables that are in use goes on after its errors: rows stand twice, and the keys that would have
refused them are gone. Each schedule then fires twice. `manage.py sync_schedules` mends the schedules; of the other
tables a restore that ended well is the only cure (`manage.py restore`).
"""

from django.db import connection

# Ordinary tables of ours without a primary key. Of partitioned usage the parent has a unique key instead.
WITHOUT_KEY = """
SELECT c.relname FROM pg_class c
 WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
   AND NOT c.relispartition AND c.relpersistence = 'p'
   AND (c.relname LIKE ANY (ARRAY['accounts%', 'billing%', 'notifications%', 'django%', 'auth%']))
   AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
 ORDER BY c.relname
"""
DOUBLED = "SELECT name FROM django_q_schedule GROUP BY name HAVING count(*) > 1 ORDER BY name"


def found() -> list[str]:
    """What is damaged, in words that say what mends it."""
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_KEY)
        keyless = [table for (table,) in cursor.fetchall()]
        cursor.execute("SELECT to_regclass('django_q_schedule') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(DOUBLED)
        doubled = [name for (name,) in cursor.fetchall()]
    words = [f"schedule {name!r} is there twice: manage.py sync_schedules" for name in doubled]
    if "django_q_schedule" in keyless:
        words.append("the table of schedules has no key: manage.py sync_schedules")
        keyless.remove("django_q_schedule")
    if keyless:
        words.append(
            f"{', '.join(keyless)}: no primary key, as after a restore that failed: restore once more"
        )
    return words
