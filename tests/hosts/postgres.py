"""The database host's PostgreSQL: the one of the wheel, durable, on the host's address and a local socket."""

import subprocess
import time
from pathlib import Path

import psycopg2

from config.embedded_postgres import folder
from config.embedded_postgres.account import account_for
from config.embedded_postgres.programs import binaries
from tests.hosts.network import MASK, NETWORK, Network, tail

PORT = 5432
SUPERUSER = folder.SUPERUSER
START_SECONDS = 60


class Postgres:
    """A server of a folder; we ask it by its socket, the hosts by its address."""

    def __init__(self, place: Path, network: Network, host: str, **settings: str) -> None:
        self.data_dir, self.log = place / "postgres", place / "postgres.log"
        self.socket_dir = place / "socket"
        self._account = account_for(data_dir=self.data_dir)
        self._account.open_way_to(path=binaries() / "postgres")
        folder.initialise(data_dir=self.data_dir, account=self._account, fsync=False)
        with (self.data_dir / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {NETWORK}0{MASK} trust\n")
        self.socket_dir.mkdir()
        self._account.take_over(path=self.socket_dir)
        chosen = {
            "listen_addresses": network.addresses[host],
            "port": str(PORT),
            "unix_socket_directories": str(self.socket_dir),
            "max_connections": "200",
            "shared_buffers": "128MB",
            # On purpose not ours: every session has to be told.
            "timezone": "Europe/Budapest",
            **settings,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *network.inside(host),
                    *self.as_its_account(str(binaries() / "postgres"), "-D", str(self.data_dir)),
                    *(f"--{name}={value}" for name, value in chosen.items()),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("SELECT 1")
            except psycopg2.OperationalError:
                assert self.process.poll() is None, tail(self.log)
                assert time.monotonic() < deadline, tail(self.log)
                time.sleep(0.1)
            else:
                return

    def ask(self, query: str, *parameters: object, database: str = "postgres") -> list[tuple]:
        """The rows of the answer, asked as the server's own administrator would."""
        connection = psycopg2.connect(
            host=str(self.socket_dir), port=PORT, user=SUPERUSER, dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def as_its_account(self, *command: str) -> list[str]:
        """The words that run a command as whoever owns the data, since root may not."""
        account = [f"--reuid={self._account.uid}", f"--regid={self._account.gid}"]
        return ["setpriv", *account, "--clear-groups", *command]

    def url(self, address: str, database: str, *, port: int = PORT) -> str:
        return f"postgres://{SUPERUSER}@{address}:{port}/{database}"
