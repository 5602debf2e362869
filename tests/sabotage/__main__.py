"""`python -m tests.sabotage`: see the package. Its last line is `patches: N, caught: N`."""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.sabotage.patches import PATCHES, DoesNotApply, Patch

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".data", "__pycache__", ".*_cache", ".coverage*", "staticfiles", "htmlcov"
)
PATIENCE_SECONDS = 600


class NotSound(Exception):
    """A test fails already without any patch, or is not there."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="sabotage", description=__doc__)
    parser.add_argument("--only", nargs="*", help="patches of these names")
    only = parser.parse_args().only
    patches = [patch for patch in PATCHES if not only or patch.name in only]
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        workshop = Workshop(Path(folder) / "tree")
        try:
            workshop.must_be_green(sorted({test for patch in patches for test in patch.caught_by}))
        except NotSound as error:
            print(f"nothing was sabotaged: {error}")
            print(f"patches: {len(patches)}, caught: 0")
            return 1
        caught = sum([_is_caught(patch, workshop) for patch in patches])
    print(f"patches: {len(patches)}, caught: {caught}")
    return 0 if caught == len(patches) else 1


def _is_caught(patch: Patch, workshop: "Workshop") -> bool:
    try:
        failed = workshop.failing_with(patch)
    except DoesNotApply as error:
        print(f"DOES NOT APPLY  {patch.name}: {error}", flush=True)
        return False
    missed = [test for test in patch.caught_by if test not in failed]
    for test in missed:
        print(f"NOT CAUGHT  {patch.name}: {test} does not fail", flush=True)
    if not missed:
        print(f"caught  {patch.name}: {', '.join(map(_short, patch.caught_by))}", flush=True)
    return not missed


class Workshop:
    """A copy of the tree, with the tests' own database."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        shutil.copytree(ROOT, tree, ignore=NOT_COPIED)

    def must_be_green(self, tests: Sequence[str]) -> None:
        """
        Run the tests as they are.

        :raises NotSound: if one fails, or is not there.
        """
        passed, failed = self._run(tests)
        if failed:
            raise NotSound(f"fails without a patch: {', '.join(sorted(failed))}")
        if lost := set(tests) - passed:
            raise NotSound(f"not there: {', '.join(sorted(lost))}")

    def failing_with(self, patch: Patch) -> set[str]:
        """
        The tests of the patch that fail with it.

        :raises DoesNotApply: if the code has changed.
        """
        originals = {
            change.file: (self._tree / change.file).read_text() for change in patch.changes
        }
        try:
            for change in patch.changes:
                (self._tree / change.file).write_text(change.made_to(self._tree))
            return self._run(patch.caught_by)[1]
        finally:
            for file, text in originals.items():
                (self._tree / file).write_text(text)

    def _run(self, tests: Sequence[str]) -> tuple[set[str], set[str]]:
        """Which passed, and of which any case failed. What cannot even begin is neither."""
        report = self._tree.parent / "report.xml"
        report.unlink(missing_ok=True)
        said = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"),
                *(
                    "-o",
                    "junit_family=xunit1",
                    f"--junitxml={report}",
                    "-x" if len(tests) == 1 else "-q",
                ),
                *(case for test in tests for case in cases(self._tree, test)),
            ],
            cwd=self._tree,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if not report.exists():
            raise NotSound(said.stdout[-2000:] + said.stderr[-2000:])
        passed: set[str] = set()
        failed: set[str] = set()
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('file')}::{case.get('name', '').partition('[')[0]}"
            error = case.find("error")
            # A fixture that looks at the books after the test is part of it.
            at_the_end = error is not None and "teardown" in error.get("message", "")
            if case.find("failure") is not None or at_the_end:
                failed.add(name)
            elif error is None and case.find("skipped") is None:
                passed.add(name)
        return passed - failed, failed

    def _environment(self) -> dict[str, str]:
        servers_folder = os.environ.get("TEST_DB_DIR", str(ROOT / ".data" / "test-postgres"))
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "DJANGO_SETTINGS_MODULE": "config.settings.test",
            "TEST_DB_DIR": servers_folder,
            "TEST_DATABASE_NAME": f"sabotage_{os.getpid()}",
            # A file is changed and changed back within a second: no compiled one may outlive it.
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def cases(tree: Path, test: str) -> list[str]:
    """As pytest wants to be asked: with the class, in every class that has it."""
    file, _, function = test.partition("::")
    found = []
    for node in _parsed(tree / file).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            found.append(test)
        if isinstance(node, ast.ClassDef):
            names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            found += [f"{file}::{node.name}::{function}"] * (function in names)
    return found


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _short(test: str) -> str:
    return test.partition("::")[2]


if __name__ == "__main__":
    sys.exit(main())
