"""Signing in: tries are counted before a password is looked at, and few are looked at at once."""

import re
import threading

import pytest
from django.contrib.auth import hashers
from django.db import connection
from django.test import Client, RequestFactory

from accounts.models import SignInTries
from accounts.signing_in import hashing, tries
from accounts.signing_in.addresses import address_of
from tests.factories import UserFactory

PAGES = ["/sign-in/", "/admin/login/"]


def sign_in(page, password, *, email="ann@example.com", address="198.51.100.7"):
    return Client(REMOTE_ADDR=address).post(page, {"username": email, "password": password})


@pytest.fixture(autouse=True)
def _own_locks(monkeypatch, tmp_path):
    """Whoever signs in for another test is on another machine."""
    monkeypatch.setattr(hashing.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def looked_at(monkeypatch):
    """The passwords that were looked at."""
    passwords = []
    real = hashers.verify_password

    def verify_password(password, *args, **kwargs):
        passwords.append(password)
        return real(password, *args, **kwargs)

    monkeypatch.setattr(hashers, "verify_password", verify_password)
    return passwords


@pytest.fixture
def ann(db):
    return UserFactory(email="ann@example.com", is_staff=True)


@pytest.mark.parametrize("page", PAGES)
class TestTries:
    def test_one_too_many_is_refused_before_the_password_is_looked_at(self, page, ann, looked_at):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS):
            assert b"Too many tries" not in sign_in(page, "wrong").content
        looked_at.clear()

        refused = sign_in(page, "secret")

        assert b"Too many tries" in refused.content
        assert looked_at == []

    def test_the_account_is_the_same_however_it_is_written(self, page, ann):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS):
            sign_in(page, "wrong")

        assert b"Too many" in sign_in(page, "wrong", email=" Ann@Example.com ").content

    def test_its_owner_signs_in_from_elsewhere(self, page, ann):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS + 1):
            sign_in(page, "wrong")

        assert sign_in(page, "secret", address="203.0.113.9").status_code == 302

    def test_whoever_knows_the_password_begins_anew(self, page, ann):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS - 1):
            sign_in(page, "wrong")
        sign_in(page, "secret")

        assert sign_in(page, "wrong").status_code == 200
        assert sign_in(page, "secret").status_code == 302

    def test_one_without_a_password_counts_and_begins_nothing_anew(self, page, ann):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS - 1):
            sign_in(page, "wrong")

        sign_in(page, "")

        assert b"Too many tries" in sign_in(page, "wrong").content

    def test_the_window_ends(self, page, ann):
        for _ in range(tries.PER_ACCOUNT_AND_ADDRESS + 1):
            sign_in(page, "wrong")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE accounts_signintries SET since = now() - interval '16 minutes'")

        assert sign_in(page, "secret").status_code == 302

    @pytest.mark.parametrize(
        ("limit", "who"),
        [
            ("PER_ACCOUNT", lambda n: {"address": f"198.51.100.{n}"}),
            ("PER_ADDRESS", lambda n: {"email": f"somebody{n}@example.com"}),
        ],
    )
    def test_there_is_a_limit_by_account_and_one_by_address(
        self, page, limit, who, ann, monkeypatch
    ):
        monkeypatch.setattr(tries, limit, 3)
        for number in range(3):
            assert b"Too many" not in sign_in(page, "wrong", **who(number)).content

        assert b"Too many" in sign_in(page, "wrong", **who(3)).content


def test_old_rows_are_cleared_away(ann):
    sign_in("/sign-in/", "wrong", email="old@example.com")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_signintries SET since = now() - interval '16 minutes'")

    sign_in("/sign-in/", "secret")

    # That of the address alone.
    assert SignInTries.objects.count() == 1


def test_a_row_says_how_many_tries_there_were_and_nothing_of_who_tried(ann):
    sign_in("/sign-in/", "wrong")

    said = {str(row) for row in SignInTries.objects.all()}

    assert all(re.match(r"1 tries since \d{4}-", each) for each in said)
    assert not [each for each in said if "ann" in each or "198.51.100.7" in each]


@pytest.mark.django_db(transaction=True)
def test_of_ten_wrong_passwords_at_once_few_are_looked_at_at_once(monkeypatch):
    UserFactory(email="ann@example.com")
    at_once, most, together = set(), [0], threading.Barrier(10)
    is_looking, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(hashing, "WAITING", 4)
    monkeypatch.setattr(hashing, "_waiting", threading.BoundedSemaphore(4))

    def verify_password(*_args, **_kwargs):
        at_once.add(threading.get_ident())
        most[0] = max(most[0], len(at_once))
        is_looking.set()
        go_on.wait(30)
        at_once.discard(threading.get_ident())
        return False, False

    monkeypatch.setattr(hashers, "verify_password", verify_password)
    answers = []

    def guess():
        together.wait()
        answers.append(sign_in("/sign-in/", "wrong").content)
        connection.close()

    threads = [threading.Thread(target=guess) for _ in range(10)]
    for thread in threads:
        thread.start()
    is_looking.wait(30)
    # All but those that wait are answered while a password is looked at.
    while len(answers) < 6:
        threading.Event().wait(0.01)
    busy = sum(b"Many people are signing in" in answer for answer in answers)
    go_on.set()
    for thread in threads:
        thread.join()

    assert busy == 6
    assert most[0] <= hashing.AT_ONCE
    assert len(answers) == 10


class TestHashing:
    def test_waits_for_other_processes(self, monkeypatch):
        monkeypatch.setattr(hashing, "AT_ONCE", 1)
        monkeypatch.setattr(hashing, "WAIT_SECONDS", 0)

        # Another's open file, as of another process.
        with (
            hashing._over_processes(0),
            pytest.raises(hashing.TooBusy),
            hashing._over_processes(0),
        ):
            pass
        with hashing.turn():
            pass

    def test_looks_again_until_the_other_is_done(self, monkeypatch):
        monkeypatch.setattr(hashing, "AT_ONCE", 1)
        other = hashing._over_processes(0)
        other.__enter__()
        # The other is done when we have looked once and waited.
        monkeypatch.setattr(hashing.time, "sleep", lambda _: other.__exit__(None, None, None))

        with hashing.turn():
            pass

    def test_counts_by_process_where_no_file_can_be_locked(self, monkeypatch, tmp_path):
        monkeypatch.setattr(hashing.tempfile, "gettempdir", lambda: str(tmp_path / "not there"))

        with hashing.turn():
            pass

    def test_does_not_wait_for_ever_in_its_own_process(self, monkeypatch):
        monkeypatch.setattr(hashing, "WAIT_SECONDS", 0.01)
        monkeypatch.setattr(hashing, "_own", threading.BoundedSemaphore(1))

        with hashing.turn(), pytest.raises(hashing.TooBusy), hashing.turn():
            pass


@pytest.mark.parametrize(
    ("proxies", "remote", "forwarded", "address"),
    [
        (0, "198.51.100.7", "203.0.113.9", "198.51.100.7"),
        # A proxy that nobody told us of: everybody would be one.
        (0, "127.0.0.1", "203.0.113.9", ""),
        (1, "127.0.0.1", "203.0.113.9", "203.0.113.9"),
        (1, "127.0.0.1", "8.8.8.8, 203.0.113.9", "203.0.113.9"),
        (2, "127.0.0.1", "8.8.8.8, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "127.0.0.1", "203.0.113.9", ""),
        (1, "127.0.0.1", "not an address", ""),
        (1, "127.0.0.1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_where_a_request_comes_from(settings, proxies, remote, forwarded, address):
    settings.WEB_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR=remote, headers={"X-Forwarded-For": forwarded})

    assert address_of(request) == address


def test_who_signs_in_without_a_request_comes_from_nowhere():
    assert address_of(None) == ""
