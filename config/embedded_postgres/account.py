"""
The system account a server runs under: our own, or a separate one where we are root.

PostgreSQL refuses to run as root, for a hole in it would be a hole in the machine.
"""

import logging
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SYSTEM_USER = "pgserver"
# Where no user can be added; owns nothing of value on any system.
SPARE_USER = "nobody"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user and a group, by number."""

    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        """Return what `subprocess` needs to run a program under this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take_over(self, *, path: Path) -> None:
        """Make this account the owner of a file, or of a folder with all it holds, where root owns it."""
        if os.geteuid() == 0 and path.lstat().st_uid == 0:
            for owned in [*path.rglob("*"), path]:
                os.chown(owned, self.uid, self.gid, follow_symlinks=False)

    def open_way_to(self, *, path: Path) -> None:
        """Let this account pass through the folders above `path`: the right to pass, not to look."""
        if os.geteuid() != 0:
            return
        above = dict.fromkeys([*path.parents, *path.resolve().parents])
        closed = [folder for folder in above if not self._may_pass(folder)]
        for folder in closed:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
        if closed:
            names = ", ".join(map(str, closed))
            logger.warning("Added o+x to %s, so that user %d reaches %s", names, self.uid, path)

    def _may_pass(self, folder: Path) -> bool:
        status = folder.stat()
        needed = stat.S_IXUSR if status.st_uid == self.uid else stat.S_IXOTH
        return bool(status.st_mode & needed)


def account_for(*, data_dir: Path) -> Account:
    """Return who runs the server of this folder: ourselves, or as root its owner, or `pgserver`."""
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid())
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    entry = _system_user()
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return _add_system_user()


def _add_system_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd")
    if useradd is None:
        return pwd.getpwnam(SPARE_USER)
    options = ["--system", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    # Whoever adds the same user at the same instant makes this fail: only its being there counts.
    subprocess.run([useradd, *options, SYSTEM_USER], check=False, capture_output=True)  # noqa: S603
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return pwd.getpwnam(SPARE_USER)
