"""Empty the database after a test with real commits: only the tables that hold something, so quickly."""

from django.db import connection

# What migrations and post_migrate wrote, and Django expects to find.
KEPT = (
    "django_migrations",
    "django_content_type",
    "auth_permission",
    "auth_group",
    "auth_group_permissions",
    "billing_leastamount",
)

TABLES = """
SELECT relname FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
   AND relname <> ALL (%s)
"""


def may_empty() -> bool:
    """Whether we are allowed to pass by the triggers that keep the books."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        return bool(cursor.fetchone()[0])


def empty_tables() -> None:
    """Delete every row, whatever foreign keys and append-only triggers say."""
    with connection.cursor() as cursor:
        cursor.execute(TABLES, [list(KEPT)])
        tables = [name for (name,) in cursor.fetchall()]
        cursor.execute(
            " UNION ALL ".join(
                f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in tables
            )
        )
        filled = [name for (name,) in cursor.fetchall()]
        cursor.execute("SET session_replication_role = replica")
        for table in filled:
            cursor.execute(f"DELETE FROM {table}")
        # Those of the migrations are of no entity; a test's own would outlive theirs.
        cursor.execute("DELETE FROM billing_leastamount WHERE entity_id IS NOT NULL")
        cursor.execute("SET session_replication_role = DEFAULT")
