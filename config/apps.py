"""What the project does once when it starts."""

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class ConfigConfig(AppConfig):
    """The project itself."""

    name = "config"

    def ready(self) -> None:
        """Look at every database before the first query reaches it."""
        from config.checks import refuse_unsafe_database

        connection_created.connect(refuse_unsafe_database, dispatch_uid="config.checks")
