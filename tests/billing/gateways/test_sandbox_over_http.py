"""What the line to the sandbox's own process adds; what it does as a gateway stands in test_contract.py."""

import socket
import threading
import time

import pytest

from billing.gateways import Misconfigured, NotSent, OutcomeUnknown, RateLimited, patience
from billing.gateways.standins.sandbox_remote import RemoteSandbox
from billing.gateways.standins.sandbox_server import Limit
from tests.served_sandbox import served_sandbox


def test_a_call_beyond_the_rate_is_asked_to_come_back(tmp_path):
    with served_sandbox(tmp_path / "book.sqlite3", rate=1) as url:
        gateway = RemoteSandbox(url)
        gateway.newest()

        with pytest.raises(RateLimited) as refusal:
            gateway.newest()

    assert refusal.value.retry_after_seconds == RateLimited.SOONEST_SECONDS


def test_a_rate_gives_back_what_it_took_as_time_passes():
    now = [0.0]
    limit = Limit(2, clock=lambda: now[0])
    assert [limit.wait_seconds() for _ in range(3)] == [0, 0, 0.5]

    now[0] = 0.5

    assert limit.wait_seconds() == 0


def test_nobody_listening_means_that_nothing_was_sent():
    with pytest.raises(NotSent, match="no sandbox listens at"):
        RemoteSandbox("http://127.0.0.1:1").newest()


def test_a_page_whose_time_is_over_sends_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        gateway = RemoteSandbox(f"http://127.0.0.1:{server.getsockname()[1]}")

        with (
            patience.until(time.monotonic()),
            pytest.raises(NotSent, match="the page's time is over"),
        ):
            gateway.newest()

        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_process_that_goes_away_in_the_middle_may_have_done_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        gateway = RemoteSandbox(f"http://127.0.0.1:{server.getsockname()[1]}")
        hanging_up = threading.Thread(target=hang_up, args=[server])
        hanging_up.start()

        with pytest.raises(OutcomeUnknown, match="did not answer newest"):
            gateway.newest()
        hanging_up.join()


def hang_up(server: socket.socket) -> None:
    server.settimeout(10)
    connection, _ = server.accept()
    connection.recv(1000)
    connection.close()


def test_a_call_it_does_not_know_is_a_fault_of_ours(tmp_path):
    with served_sandbox(tmp_path / "book.sqlite3") as url, pytest.raises(Misconfigured):
        RemoteSandbox(url)._ask("refuse")


def test_a_request_in_pieces_is_one_and_needs_no_body(tmp_path):
    with served_sandbox(tmp_path / "book.sqlite3") as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"POST /refuse HTTP/1.1\r\n")
            connection.sendall(b"Host: here\r\n\r\n")

            assert connection.recv(1000).startswith(b"HTTP/1.1 404")


def test_what_was_refunded_can_be_listed(tmp_path):
    with served_sandbox(tmp_path / "book.sqlite3") as url:
        assert list(RemoteSandbox(url).refunds()) == []
