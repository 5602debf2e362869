"""The Django backend: PostgreSQL's own, which starts its server when it finds none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.backends.postgresql import base, client
from psycopg2 import OperationalError

from config.embedded_postgres.folder import SUPERUSER
from config.embedded_postgres.programs import binaries
from config.embedded_postgres.server import PORT, Server


class DatabaseClient(client.DatabaseClient):
    """`manage.py dbshell` with the psql that came along."""

    executable_name = str(binaries() / "psql")

    def runshell(self, parameters: Iterable[str]) -> None:
        """Open psql, starting the server first where need be."""
        self.connection.ensure_connection()
        super().runshell(parameters)


class DatabaseWrapper(base.DatabaseWrapper):
    """
    A connection to the server of `OPTIONS["data_dir"]`.

    `OPTIONS["fsync"]` False makes a server for tests, which loses data in a power cut.
    """

    client_class = DatabaseClient

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        """Say where the server is; start nothing."""
        super().__init__(settings_dict, alias)
        options = settings_dict["OPTIONS"]
        data_dir = Path(options["data_dir"]).resolve()
        self.server = Server(data_dir=data_dir, fsync=options.get("fsync", True))
        where = {"HOST": str(self.server.socket_dir), "PORT": PORT, "USER": SUPERUSER}
        settings_dict.update(where)

    def get_connection_params(self) -> dict[str, Any]:
        """Return what psycopg2 needs, without what is meant for the server."""
        parameters: dict[str, Any] = super().get_connection_params()
        return {k: v for k, v in parameters.items() if k not in {"data_dir", "fsync"}}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect; where that fails, start or recover the server and connect once more."""
        self.server.join()
        try:
            return super().get_new_connection(conn_params)
        except OperationalError:
            self.server.ensure_running(database=conn_params["dbname"])
            return super().get_new_connection(conn_params)
