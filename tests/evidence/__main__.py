"""`python -m tests.evidence`: see the package. Fails where a part does."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.evidence import page
from tests.evidence.parts import PARTS, Figures, NoFigures, Part


def main() -> int:
    parser = argparse.ArgumentParser(prog="evidence", description=__doc__)
    parser.add_argument("--only", choices=[part.name for part in PARTS])
    parser.add_argument("--short", action="store_true", help="in the size of the test suite")
    options = parser.parse_args()
    page.FOLDER.mkdir(exist_ok=True)
    size = "short" if options.short else "long"
    failed = []
    for part in PARTS:
        if options.only not in {None, part.name} or (not options.only and _is_done(part, size)):
            continue
        print(f"{part.name}, {size} …", flush=True)
        if not _run(part, size):
            failed.append(part.name)
        page.PAGE.write_text(page.made(page.read()))
    print(
        f"evidence: failed: {', '.join(failed)}" if failed else "evidence: nothing was found wrong"
    )
    return 1 if failed else 0


def _is_done(part: Part, size: str) -> bool:
    told = page.read().get(part.name, {})
    return (told.get("commit"), told.get("size")) == (_commit(), size)


def _run(part: Part, size: str) -> bool:
    """Run it and write its file. What gave no figures leaves the file there was."""
    command = part.short if size == "short" else part.long
    environment = {} if size == "short" else dict(part.long_environment)
    # As it is now: somebody may commit while it runs.
    commit, began = _commit(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        report = Path(folder) / "report"
        done = subprocess.run(
            [sys.executable, "-m", *_with_report(command, report)],
            cwd=page.ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
            check=False,
        )
        try:
            figures: Figures = part.figures(done.stdout, report)
        except NoFigures as error:
            print(f"{part.name}: no figures\n{error}")
            return False
    told = {
        "part": part.name,
        "size": size,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - began),
        "command": " ".join([*(f"{k}={v}" for k, v in environment.items()), *_shown(command)]),
        "figures": figures,
    }
    (page.FOLDER / f"{part.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    # All of it where something was found: it may not come again.
    said = done.stdout.strip()
    print(said if done.returncode else said.splitlines()[-1])
    return done.returncode == 0


def _with_report(command: tuple[str, ...], report: Path) -> list[str]:
    words = [word.format(report=report) for word in command]
    is_pytest = command[0] == "pytest"
    return words + ["-o", "junit_family=xunit1", f"--junitxml={report}"] * is_pytest


def _shown(command: tuple[str, ...]) -> list[str]:
    """As one would type it: without the file that the figures come by."""
    words = [f'"{word}"' if " " in word else word for word in command]
    if "{report}" in words:
        at = words.index("{report}")
        words = words[: at - 1] + words[at + 1 :]
    return words if command[0] == "pytest" else ["python", "-m", *words]


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    said = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"],
        cwd=page.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
