"""The older code: out of git, into a folder."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.hosts.network import CannotRun

# The commit of the release before this one. Each release names its parent here.
RELEASED = "60ca7270d20d2fa12941d6216feed345f2ca09de"


def commit_of(revision: str, *, root: Path) -> str:
    """
    The commit that a revision names, in full.

    :raises CannotRun: where this clone does not have it; says how to get it.
    """
    if shutil.which("git") is None:
        raise CannotRun("git is missing, and with it the older code")
    # Not `git -C`: that would find the repository of a folder above.
    if not (root / ".git").exists():
        raise CannotRun(f"{root} is no clone: the older code comes from git")
    found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", root=root)
    if found.returncode:
        raise CannotRun(f"this clone has no commit {revision!r}{_how_to_get_it(root)}")
    return found.stdout.decode().strip()


def check_out(commit: str, folder: Path, *, root: Path) -> None:
    """
    Put the files of a commit into a folder, without a trace in the clone.

    :raises CannotRun: where git cannot give them all.
    """
    packed = _git("archive", "--format=tar", commit, root=root)
    if packed.returncode:
        raise CannotRun(f"git cannot give the files of {commit}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")


def _how_to_get_it(root: Path) -> str:
    shallow = _git("rev-parse", "--is-shallow-repository", root=root).stdout.strip() == b"true"
    if shallow:
        return ", since it is a shallow one: `git fetch --unshallow`, or with actions/checkout `fetch-depth: 0`"
    return ": `git fetch`, or name another with --old"


def _git(*words: str, root: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=root, capture_output=True)
