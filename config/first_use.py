"""Make a fresh embedded database ready, and what the demo left behind, so that a command just works."""

from collections.abc import Sequence

import django
from django.conf import settings
from django.core.management import call_command, get_commands
from django.db import connection
from django.db.migrations.loader import MigrationLoader

# Ours that need no tables, or make a database of their own.
WITHOUT_TABLES = {"bench_close", "bench_usage", "compile_catalogs", "fakestripe"}
# Sets up a provider of its own.
STARTS_ANEW = {"demo"}
# Any number, the same for all processes: one of them migrates, the others wait.
MIGRATING = 20181001


def prepare(argv: Sequence[str]) -> None:
    """
    Migrate the embedded database, if it lacks a migration and the command is one of ours.
    Where a demo has left its payment provider, the command gets that, too.

    It is empty at first; and a first use that was killed has left it half done.

    A database given by DATABASE_URL is its operator's: they migrate it when they choose.
    """
    if settings.DATABASES["default"]["ENGINE"] != "config.embedded_postgres":
        return
    django.setup()
    if not _needs_tables(argv):
        return
    if not _is_migrated():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATING])
        if not _is_migrated():
            call_command("migrate", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATING])
    if settings.SHARES_PROVIDER and argv[1] not in STARTS_ANEW:
        # Knows models, so that Django must be set up first.
        from billing.demo import charging

        charging.use_provider()


def _needs_tables(argv: Sequence[str]) -> bool:
    command = argv[1] if len(argv) > 1 else ""
    return get_commands().get(command) in {"billing", "config"} and command not in WITHOUT_TABLES


def _is_migrated() -> bool:
    loader = MigrationLoader(connection)
    return loader.applied_migrations.keys() >= set(loader.graph.leaf_nodes())
