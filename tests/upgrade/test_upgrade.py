"""The pieces of `make upgrade`; the whole needs two checkouts and minutes, and is run by itself."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from tests.hosts.network import CannotRun
from tests.upgrade import judge, people, revision
from tests.upgrade.__main__ import CANNOT_RUN
from tests.upgrade.installation import MET_THE_MIGRATION, Installation
from tests.upgrade.outside import Taken
from tests.upgrade.people import MEANS, Customer

ANN = Customer("ann", "EUR", 1200, next(means for means in MEANS if means.pays))
BOB = Customer("bob", "JPY", 900, next(means for means in MEANS if not means.gateway))


def git(*words: str, folder: Path) -> str:
    names = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    done = subprocess.run(
        ["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone of two commits: `old.txt`, then `new.txt`."""
    if shutil.which("git") is None:
        pytest.skip("git is missing")
    folder = tmp_path / "clone"
    folder.mkdir()
    git("init", "--quiet", folder=folder)
    for name in ("old.txt", "new.txt"):
        (folder / name).write_text(name)
        git("add", name, folder=folder)
        git("commit", "--quiet", "--message", name, folder=folder)
    return folder


class TestRevision:
    def test_is_put_into_a_folder_without_a_trace_in_the_clone(self, clone, tmp_path):
        commit = revision.commit_of("HEAD~1", root=clone)

        revision.check_out(commit, tmp_path / "old", root=clone)

        assert [path.name for path in (tmp_path / "old").iterdir()] == ["old.txt"]
        assert git("status", "--porcelain", folder=clone) == ""
        assert len(git("worktree", "list", folder=clone).splitlines()) == 1

    def test_that_a_shallow_clone_lacks_says_how_to_get_it(self, clone, tmp_path):
        old = git("rev-parse", "HEAD~1", folder=clone)
        git("clone", "--quiet", "--depth", "1", f"file://{clone}", "shallow", folder=tmp_path)

        with pytest.raises(CannotRun, match=rf"no commit '{old}'.*git fetch --unshallow"):
            revision.commit_of(old, root=tmp_path / "shallow")

    def test_that_is_none_says_so(self, clone):
        with pytest.raises(CannotRun, match=r"no commit 'v0'.*--old"):
            revision.commit_of("v0", root=clone)

    def test_is_not_looked_for_in_a_clone_around_the_folder(self, clone):
        (clone / "unpacked").mkdir()

        with pytest.raises(CannotRun, match="is no clone"):
            revision.commit_of("HEAD", root=clone / "unpacked")

    def test_that_is_missing_is_exit_code_2(self):
        done = subprocess.run(
            [sys.executable, "-m", "tests.upgrade", "--old", "no-such-revision"],
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
        )

        assert done.returncode == 2, done.stderr
        assert done.stdout.splitlines()[-1].startswith(CANNOT_RUN)


class TestPeople:
    def test_are_the_same_by_seed_and_of_every_kind(self):
        who = people.customers(1, 300)

        assert who == people.customers(1, 300)
        assert who != people.customers(2, 300)
        assert {each.means for each in who} == set(MEANS)
        assert any(each.signs_in for each in who)

    def test_have_used_what_they_are_invoiced(self):
        usage = people.usage_file([ANN, BOB], people.last_month()).splitlines()

        assert [line.split(",")[5] for line in usage] == ["unit_price", "12.00", "900"]


class TestJudge:
    """Each of these would be a promise broken by an upgrade."""

    taken = Taken("stripe", "pi_1", 1200, "attempt-1")
    booked = Taken("stripe", "pi_1", 1200, "ann")

    def books(self, *, taken: list[Taken], paid: list[Taken]) -> list[str]:
        whose = {"attempt-1": "ann", "attempt-2": "ann"}
        return list(judge.against_the_books(taken, paid, whose))

    def test_finds_nothing_where_books_agree(self):
        assert self.books(taken=[self.taken], paid=[self.booked]) == []

    def test_finds_who_was_charged_twice(self):
        again = dataclasses.replace(self.taken, ref="pi_2", own_reference="attempt-2")
        booked = dataclasses.replace(self.booked, ref="pi_2")

        found = self.books(taken=[self.taken, again], paid=[self.booked, booked])

        assert found == ["ann was charged 2 times"]

    def test_finds_a_charge_that_was_lost(self):
        assert self.books(taken=[self.taken], paid=[]) == [
            "taken and not booked: ('stripe', 'pi_1', 1200)"
        ]

    def test_finds_a_payment_that_nobody_made(self):
        assert self.books(taken=[], paid=[self.booked]) == [
            "booked and not taken: ('stripe', 'pi_1', 1200)"
        ]

    def test_finds_a_charge_of_which_we_know_nothing(self):
        stray = dataclasses.replace(self.taken, own_reference="")

        found = self.books(taken=[stray], paid=[self.booked])

        assert found == ["nobody () was charged 1 times"]

    def test_finds_who_has_not_paid_what_the_seed_says(self):
        invoiced = {"ann": [1200], "bob": [900]}
        by_bank = Taken("transfer", "T-1", 900, "bob")

        def found(*paid: Taken, by_transfer: set[str]) -> list[str]:
            return list(
                judge.against_the_seed([ANN, BOB], list(paid), invoiced, by_transfer=by_transfer)
            )

        assert found(self.booked, by_bank, by_transfer={"bob"}) == []
        assert len(found(self.booked, by_bank, by_transfer=set())) == 1
        assert len(found(self.booked, self.booked, by_transfer=set())) == 1
        assert len(found(by_transfer=set())) == 1

    def test_finds_who_was_invoiced_twice(self):
        found = judge.against_the_seed([BOB], [], {"bob": [900, 900]}, by_transfer=())

        assert list(found) == ["bob was invoiced [900, 900] and should be 900"]


class TestLogs:
    AT = "2026-11-28 22:12:09,495"

    def errors(self, folder: Path, **logs: str) -> list[str]:
        for name, said in logs.items():
            (folder / f"{name}.log").write_text(said)
        return list(Installation(folder, folder).errors())

    def test_an_error_is_found_with_what_belongs_to_it(self, tmp_path):
        found = self.errors(
            tmp_path,
            new=f"{self.AT} ERROR billing no\nTraceback\n  no such column\n{self.AT} WARNING more",
            old=f"{self.AT} WARNING billing the reply was lost",
            # Whatever a kill makes PostgreSQL say: what it refused to do for us, we have logged.
            postgres=f"{self.AT} UTC ERROR: cancelled",
        )

        assert found == [f"new has logged: {self.AT} ERROR billing no\nTraceback\n  no such column"]

    def test_a_process_that_ends_with_a_traceback_is_found(self, tmp_path):
        assert len(self.errors(tmp_path, new="Cluster: lanes\nTraceback (most recent\nBoom")) == 1

    def test_a_deadlock_with_the_migration_is_told_from_one_of_ours(self, tmp_path):
        detail = "psycopg2.errors.DeadlockDetected: deadlock detected\nProcess 2 waits for {}"

        [schema] = self.errors(
            tmp_path,
            old=f"{self.AT} ERROR {detail.format('AccessExclusiveLock on relation 16884')}",
        )
        [ours] = self.errors(
            tmp_path, old=f"{self.AT} ERROR {detail.format('ShareLock on transaction 1')}"
        )

        assert MET_THE_MIGRATION.search(schema)
        assert not MET_THE_MIGRATION.search(ours)
