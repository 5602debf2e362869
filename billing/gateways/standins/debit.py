"""
A direct debit: a mandate instead of a card, and money that takes days.

`submit` hands the payment to the bank and is answered with "on its way"; days later it has succeeded
or failed, and weeks after a success the payer's bank may take it back. It can be cancelled as long as
it was not submitted. The provider is our own sandbox (billing/gateways/standins/fakedebit.py), which moves no money.
"""

import hmac
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billing.charge_protocol import Status
from billing.gateways.base import (
    About,
    AttemptSpec,
    Capabilities,
    CardSetup,
    DisputeSeen,
    EventHint,
    FinishedSetup,
    Foreign,
    Method,
    Misconfigured,
    NotAuthentic,
    Observation,
    OutcomeUnknown,
    RefundRefused,
    RefundSeen,
    RefundSpec,
    SettlementLine,
)
from billing.gateways.standins import fakedebit

STATUSES = {
    "pending_submission": Status.UNSUBMITTED,
    "submitted": Status.PROCESSING,
    "confirmed": Status.SUCCEEDED,
    "failed": Status.DECLINED,
    "cancelled": Status.CANCELED,
    "charged_back": Status.REVERSED,
}
MANDATE_STATUSES = {
    "pending_submission": "PENDING",
    "active": "ACTIVE",
    "cancelled": "CANCELLED",
    "expired": "EXPIRED",
}
TYPICAL_DAYS = 2
# SEPA core: eight weeks from the day it was collected, without a reason.
RETURNED_WITHIN_DAYS = 56
# What `newest` shows at once.
PAGE = 100
ABOUT = {"payments": About.CHARGE, "mandates": About.METHOD}


class DebitGateway:
    """Speaks the Gateway protocol; see the module."""

    name = "debit"

    def __init__(self, book: Path, *, notice_days: int, webhook_secrets: Sequence[str]) -> None:
        self._provider = fakedebit.DirectDebit(book)
        self._webhook_secrets = webhook_secrets
        self.capabilities = Capabilities(
            notice_days=notice_days,
            typical_days=TYPICAL_DAYS,
            reversible_days=notice_days + TYPICAL_DAYS + RETURNED_WITHIN_DAYS,
        )

    def chargeable_minor(self, amount_minor: int, currency: str) -> int:
        """All of it, in any currency."""
        return amount_minor

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """
        Make a payment that waits; one that this key has made already is taken over.

        :raises Misconfigured: if there is no such mandate, or the key has made another payment.
        """
        assert spec.charge_date is not None, f"{spec.own_reference}: a debit is told of beforehand"
        with _in_our_words():
            try:
                made = self._provider.create_payment(
                    key=key,
                    mandate=spec.token,
                    reference=spec.own_reference,
                    account=spec.account_ref,
                    currency=spec.currency,
                    amount=spec.amount_minor,
                    charge_date=spec.charge_date.isoformat(),
                )
            except fakedebit.Conflict as conflict:
                made = self._provider.payment(conflict.existing_id)
        seen = _observation(made)
        said = (seen.own_reference, seen.amount_minor, seen.currency)
        if said != (spec.own_reference, spec.amount_minor, spec.currency):
            raise Misconfigured(
                f"the key of {spec.own_reference} has made {seen.ref}, another payment"
            )
        return seen

    def submit(self, ref: str, *, key: str) -> Observation:
        """
        Hand the payment to the bank, which decides in days. A second submit changes nothing.

        :raises OutcomeUnknown: after it was handed over, where the mandate loses replies.
        """
        with _in_our_words():
            return _observation(self._provider.submit_payment(ref))

    def read(self, ref: str) -> Observation:
        """What the provider says of a payment."""
        with _in_our_words():
            return _observation(self._provider.payment(ref))

    def find(self, spec: AttemptSpec, *, since: datetime) -> list[Observation]:
        """The payments that carry our reference; the provider's list of them is short and consistent."""
        return [
            _observation(each) for each in self._provider.payments(reference=spec.own_reference)
        ]

    def cancel(self, ref: str, *, key: str) -> Observation:
        """Cancel a payment that the bank does not have yet; else say where it stands."""
        with _in_our_words(), suppress(fakedebit.NotCancellable):
            return _observation(self._provider.cancel_payment(ref))
        return self.read(ref)

    def refund(self, spec: RefundSpec, *, key: str) -> RefundSeen:
        """
        Refuse: a debit is paid back by bank transfer, by hand.

        :raises RefundRefused: always.
        """
        raise RefundRefused("a debit is paid back by bank transfer")

    def read_refund(self, ref: str) -> RefundSeen:
        """
        There is none.

        :raises Misconfigured: always.
        """
        raise Misconfigured(f"there is no refund {ref!r}: debits are paid back by bank transfer")

    def find_refunds(self, payment_ref: str) -> list[RefundSeen]:
        """None: debits are paid back by bank transfer."""
        return []

    def book(self) -> Iterator[Observation]:
        """Every payment, in the order they were made."""
        return map(_observation, self._provider.payments())

    def objects(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Observation | Foreign]:
        """The payments made in a time, newest first, each as it stands now: a lost REVERSED is seen here."""
        begins = since.timestamp() if since else 0
        ends = until.timestamp() if until else float("inf")
        made = self._provider.payments()
        return (_observation(p) for p in reversed(made) if begins <= p["created_at"] <= ends)

    def newest(self) -> list[Observation]:
        """The payments made last."""
        return [_observation(each) for each in reversed(self._provider.payments()[-PAGE:])]

    def settlements(
        self, *, since: datetime | None = None, but: Container[str] = ()
    ) -> Iterator[SettlementLine]:
        """Pretended money is never paid out."""
        return iter(())

    def read_dispute(self, ref: str) -> DisputeSeen:
        """
        A debit is not disputed, it is taken back by the payer's bank: see `read`.

        :raises Misconfigured: always.
        """
        raise Misconfigured(f"the direct debit provider knows no dispute {ref!r}")

    def refunds(self, *, since: datetime | None = None) -> Iterator[RefundSeen]:
        """There are none."""
        return iter(())

    def disputes(self, *, since: datetime | None = None) -> Iterator[DisputeSeen]:
        """There are none."""
        return iter(())

    def ensure_customer(self, *, account_ref: str, email: str, name: str) -> str:
        """Mandates of the sandbox are kept under the account itself."""
        return account_ref

    def begin_authentication(self, ref: str, *, return_url: str) -> str:
        """No bank asks anybody here."""
        return return_url

    def begin_setup(
        self, *, account_ref: str, customer_ref: str, currency: str, return_url: str
    ) -> CardSetup:
        """There is nothing to sign: sandbox mandates are chosen from a list on our own page."""
        return CardSetup(ref=account_ref, url="")

    def read_setup(self, ref: str) -> FinishedSetup:
        """Nothing comes of a setup in which nothing is signed."""
        return FinishedSetup(account_ref=ref, method=None)

    def test_methods(self, account_ref: str) -> Mapping[str, str]:
        """Return a mandate of this account for each way that one can behave."""
        return {
            f"{name}.{account_ref}": f"Direct debit ···· {behaviour.last_four}: {behaviour.title}"
            for name, behaviour in fakedebit.BEHAVIOURS.items()
        }

    def read_method(self, token: str) -> Method:
        """
        A mandate as it stands.

        :raises Misconfigured: if there is none of this token.
        """
        with _in_our_words():
            return _method(self._provider.mandate(token))

    def detach(self, token: str) -> Method:
        """Cancel the mandate, and what waits for it."""
        with _in_our_words():
            return _method(self._provider.end_mandate(token))

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> list[EventHint]:
        """
        Read one delivery, which tells of many events.

        :raises NotAuthentic: if none of our secrets signed it.
        """
        signed = headers.get("Webhook-Signature", "").encode()
        signatures = [fakedebit.signature(body, secret) for secret in self._webhook_secrets]
        if not any(hmac.compare_digest(signed, each.encode()) for each in signatures):
            raise NotAuthentic("not signed with one of DEBIT_WEBHOOK_SECRETS")
        try:
            return [_hint(event) for event in json.loads(body)["events"]]
        except (ValueError, KeyError, TypeError) as error:
            raise NotAuthentic(f"signed, but not a list of events: {error!r}") from error


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except fakedebit.NotFound as missing:
        raise Misconfigured(str(missing)) from missing
    except fakedebit.ReplyLost as lost:
        raise OutcomeUnknown("the reply was lost on its way") from lost


def _observation(payment: dict[str, Any]) -> Observation:
    return Observation(
        ref=payment["id"],
        own_reference=payment["reference"],
        status=STATUSES[payment["status"]],
        amount_minor=payment["amount"],
        currency=payment["currency"],
        decline_code=payment["cause"] if payment["status"] == "failed" else "",
        account_ref=payment["account"],
        token=payment["mandate"],
        made_at=datetime.fromtimestamp(payment["created_at"], UTC),
    )


def _method(mandate: dict[str, Any]) -> Method:
    return Method(
        token=mandate["id"],
        customer_ref="debit",
        brand="Direct debit",
        last_four=mandate["last_four"],
        mandate_status=MANDATE_STATUSES[mandate["status"]],
    )


def _hint(event: dict[str, Any]) -> EventHint:
    about = ABOUT.get(event["resource_type"], About.OTHER)
    [link] = event["links"].values()
    return EventHint(
        event_id=str(event["id"]),
        type=f"{event['resource_type']}.{event['action']}",
        about=about,
        object_ref=str(link),
        is_live=False,
    )
