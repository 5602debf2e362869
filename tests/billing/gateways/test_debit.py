"""A direct debit: what only money that takes days does."""

import json
import subprocess
import sys
from datetime import date

import pytest

from billing import gateways
from billing.gateways import About, AttemptSpec, Misconfigured, NotAuthentic
from billing.gateways.standins.fakedebit import DirectDebit, signature


@pytest.fixture
def gateway(debit):
    return gateways.get("debit")


def spec(token: str = "debit_pays.acme", **facts) -> AttemptSpec:
    return AttemptSpec(
        **{
            "own_reference": "attempt 1",
            "account_ref": "acme",
            "token": token,
            "amount_minor": 1234,
            "currency": "EUR",
            "charge_date": date(2018, 11, 4),
            **facts,
        }
    )


def submitted(gateway, behaviour: str = "debit_pays") -> str:
    ref = gateway.prepare(spec(f"{behaviour}.acme"), key="1").ref
    gateway.submit(ref, key="2")
    return ref


def by_the_day(debit, gateway, ref: str, days: int) -> str:
    """A letter for where it stands on each day, beginning today."""
    letters = [gateway.read(ref).status.value[0]]
    for _ in range(days):
        debit.advance(1)
        letters.append(gateway.read(ref).status.value[0])
    return "".join(letters)


class TestDays:
    @pytest.mark.parametrize(
        ("behaviour", "days"),
        [
            ("debit_pays", "PPSSSS"),
            ("debit_insufficient", "PPPDDD"),
            ("debit_charged_back", "PPSSSSSSSSSSRR"),
            ("debit_withdrawn", "PDDD"),
        ],
    )
    def test_pass_at_the_bank(self, debit, gateway, behaviour, days):
        assert by_the_day(debit, gateway, submitted(gateway, behaviour), len(days) - 1) == days

    def test_are_let_pass_from_a_prompt_too(self, debit, gateway, settings):
        ref = submitted(gateway)

        told = subprocess.run(
            [
                sys.executable,
                "-m",
                "billing.gateways.standins.fakedebit",
                str(settings.DEBIT_BOOK),
                "2",
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=settings.BASE_DIR,
        ).stdout

        assert json.loads(told.splitlines()[-1])["action"] == "confirmed"
        assert gateway.read(ref).status == "SUCCEEDED"

    def test_a_reversal_names_the_whole_amount(self, debit, gateway):
        ref = submitted(gateway, "debit_charged_back")
        debit.advance(12)

        seen = gateway.read(ref)
        assert (seen.status, seen.amount_minor) == ("REVERSED", 1234)
        assert seen in list(gateway.book())


class TestCancel:
    def test_comes_too_late_once_the_bank_has_it(self, debit, gateway):
        ref = submitted(gateway)

        assert gateway.cancel(ref, key="3").status == "PROCESSING"
        debit.advance(2)
        assert gateway.read(ref).status == "SUCCEEDED"

    def test_of_the_mandate_cancels_what_waits_and_not_what_the_bank_has(self, debit, gateway):
        waits = gateway.prepare(spec(), key="a").ref
        at_the_bank = gateway.prepare(spec(), key="b").ref
        gateway.submit(at_the_bank, key="c")

        assert gateway.detach("debit_pays.acme").mandate_status == "CANCELLED"

        assert gateway.read(waits).status == "CANCELED"
        assert gateway.read(at_the_bank).status == "PROCESSING"


class TestMandates:
    def test_become_active_in_a_day(self, debit, gateway):
        assert gateway.read_method("debit_pays.acme").mandate_status == "PENDING"
        debit.advance(1)
        assert gateway.read_method("debit_pays.acme").mandate_status == "ACTIVE"

    def test_that_have_ended_pay_nothing(self, debit, gateway):
        debit.end_mandate("debit_pays.acme", status="expired")

        ref = submitted(gateway)

        assert gateway.read_method("debit_pays.acme").mandate_status == "EXPIRED"
        assert gateway.read(ref).decline_code == "mandate_expired"

    def test_withdrawn_at_the_bank_end_with_the_payment_that_finds_out(self, debit, gateway):
        submitted(gateway, "debit_withdrawn")
        debit.advance(1)

        assert gateway.read_method("debit_withdrawn.acme").mandate_status == "CANCELLED"


class TestKeys:
    def test_answer_with_what_they_have_made_for_thirty_days(self, debit, gateway):
        made = gateway.prepare(spec(), key="1")
        debit.advance(30)
        assert gateway.prepare(spec(), key="1") == made

        debit.advance(1)
        assert gateway.prepare(spec(), key="1") != made

    @pytest.mark.parametrize(
        "other", [{"own_reference": "attempt 2"}, {"amount_minor": 1}, {"currency": "HUF"}]
    )
    def test_never_pass_off_another_payment_as_ours(self, debit, gateway, other):
        gateway.prepare(spec(), key="1")

        with pytest.raises(Misconfigured, match="another payment"):
            gateway.prepare(spec(**other), key="1")


class TestEvents:
    def deliver(self, gateway, delivery):
        headers, body = delivery
        return gateway.parse_webhook(headers, body)

    def test_come_many_in_a_delivery_and_say_what_to_ask_about(self, debit, gateway):
        ref = submitted(gateway)
        debit.advance(2)

        [delivery] = debit.deliveries(secret="whsec_debit")
        hints = self.deliver(gateway, delivery)

        assert [hint.type for hint in hints] == [
            "payments.created",
            "payments.submitted",
            "mandates.active",
            "payments.confirmed",
        ]
        assert {hint.object_ref for hint in hints if hint.about is About.CHARGE} == {ref}
        assert [h.object_ref for h in hints if h.about is About.METHOD] == ["debit_pays.acme"]
        assert debit.deliveries(secret="whsec_debit") == []

    def test_of_two_books_never_share_an_id(self, debit, gateway, tmp_path):
        debit.mandate("debit_pays.acme")
        other = DirectDebit(tmp_path / "other.sqlite3")
        other.mandate("debit_pays.acme")

        assert debit.advance(1)[0]["id"] != other.advance(1)[0]["id"]

    def test_signed_by_somebody_else_are_refused(self, debit, gateway):
        submitted(gateway)
        [(headers, body)] = debit.deliveries(secret="another")

        for sent in (headers, {}, {"Webhook-Signature": "ø"}):
            with pytest.raises(NotAuthentic, match="DEBIT_WEBHOOK_SECRETS"):
                gateway.parse_webhook(sent, body)

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b'{"events": 1}', b'{"events": [{"id": "EV1"}]}',
                 b'{"events": [{"id": "1", "resource_type": "payments", "action": "x", "links": {}}]}']
    )  # fmt: skip
    def test_signed_nonsense_is_refused(self, gateway, body):
        headers = {"Webhook-Signature": signature(body, "whsec_debit")}

        with pytest.raises(NotAuthentic, match="not a list of events"):
            gateway.parse_webhook(headers, body)
