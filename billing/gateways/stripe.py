"""
Stripe, through its own SDK, which only this module imports.

The PaymentIntent is the fence: it succeeds at most once, and once canceled never. What we do not know
the meaning of, we do not interpret: it is OutcomeUnknown, and the intent is read. See docs/stripe.md.
"""

import json
import math
import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

import requests
import stripe
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError

from billing.charge_protocol import Status
from billing.gateways import declines, patience, stripe_currencies
from billing.gateways.base import (
    About,
    AttemptSpec,
    Capabilities,
    CardSetup,
    DisputeSeen,
    DisputeStatus,
    EventHint,
    FinishedSetup,
    Foreign,
    Method,
    Misconfigured,
    NotAuthentic,
    NotSent,
    Observation,
    OutcomeUnknown,
    RateLimited,
    RefundRefused,
    RefundSeen,
    RefundSpec,
    RefundStatus,
    SettlementLine,
    Unreadable,
)
from billing.gateways.stripe_currencies import (
    NotChargeable,
    from_provider,
    nearest_from_provider,
    to_provider,
)
from billing.money import UnknownCurrency

# The shapes below are this version's; the webhook endpoint at Stripe is set to the same one.
API_VERSION = "2026-10-28.endive"
CONNECT_SECONDS, READ_SECONDS = 5, 25
PAGE = 100
# How far Stripe's clock and ours may be apart when objects are listed by age.
CLOCKS_DIFFER_BY = timedelta(hours=1)
# How many objects of other installations are passed over to find the newest of ours.
LOOK_BACK = 10 * PAGE
# When it does not say when to come back.
RETRY_AFTER_SECONDS = 5.0
# However late it says: whatever is unknown is asked about each hour, and a header shuts the lane no longer.
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# How old a delivery may be; Stripe's own default.
TOLERANCE_SECONDS = 300

STATUSES = {
    "requires_confirmation": Status.UNSUBMITTED,
    "requires_payment_method": Status.DECLINED,
    "requires_action": Status.NEEDS_CUSTOMER,
    "processing": Status.PROCESSING,
    "succeeded": Status.SUCCEEDED,
    "canceled": Status.CANCELED,
}
DISPUTE_STATUSES = {
    "warning_needs_response": DisputeStatus.INQUIRY,
    "warning_under_review": DisputeStatus.INQUIRY,
    "warning_closed": DisputeStatus.INQUIRY,
    "prevented": DisputeStatus.INQUIRY,
    "needs_response": DisputeStatus.OPEN,
    "under_review": DisputeStatus.OPEN,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}
# Evidence may still be handed in.
DISPUTE_WAITS = {"needs_response", "warning_needs_response"}
DISPUTE_IS_OVER = {"won", "lost", "warning_closed", "prevented"}
REFUND_STATUSES = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.PENDING,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.RETURNED,
    "canceled": RefundStatus.REFUSED,
}
# Nothing is left of the charge, or its holder's bank is taking it back.
UNREFUNDABLE = frozenset(("charge_already_refunded", "charge_disputed"))
# Refused only until its holder confirms: the same intent is kept for that.
ASKS_CUSTOMER = "authentication_required"
# The intent has no card and was never refused: nothing can come of it.
NO_CARD = "payment_method_missing"
# Detached, used up, or somebody else's.
CARD_UNUSABLE = "payment_method_unusable"
# The intent is no longer where this request would have met it.
MOVED_ON = "payment_intent_unexpected_state"

ABOUT = {
    "payment_intent": About.CHARGE,
    "setup_intent": About.SETUP,
    "payment_method": About.METHOD,
    "charge": About.DISPUTE,  # of a charge, only its disputes are heeded
    "refund": About.REFUND,
}
# Types of event that say something we act on; the others are kept and left alone.
HEEDED = frozenset(
    (
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.processing",
        "payment_intent.requires_action",
        "setup_intent.succeeded",
        "payment_method.detached",
        "payment_method.updated",
        "payment_method.automatically_updated",
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
        "refund.created",
        "refund.updated",
        "refund.failed",
    )
)

# What a balance transaction is of, by the type of its source.
SETTLED: dict[str, Literal["CHARGE", "REFUND", "DISPUTE", "OTHER"]] = {
    "charge": "CHARGE",
    "refund": "REFUND",
    "dispute": "DISPUTE",
}

Object = dict[str, Any]
Seen = TypeVar("Seen", RefundSeen, DisputeSeen)

# It would write an id of this machine to disk, and send how long our calls take.
stripe.enable_telemetry = False


class StripeGateway:
    """Speaks the Gateway protocol; see the module."""

    name = "stripe"
    capabilities = Capabilities(minimum_minor=stripe_currencies.MINIMUM_MINOR, takes_refunds=True)

    def __init__(self) -> None:
        """
        Take its keys from the settings.

        :raises Misconfigured: if they do not fit together, or are live ones and STRIPE_LIVE is not set.
        """
        self._is_live = _agreed_mode()
        self._client = _connected(settings.STRIPE_SECRET_KEY, _safe_base(), os.getpid())

    def chargeable_minor(self, amount_minor: int, currency: str) -> int:
        """Three-decimal currencies are charged to the last but one."""
        return stripe_currencies.chargeable_minor(amount_minor, currency)

    # --- charges

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """
        Make an intent that is not confirmed.

        :raises Misconfigured: if Stripe cannot take this amount or this card.
        """
        try:
            amount = to_provider(spec.amount_minor, spec.currency)
        except NotChargeable as error:
            raise Misconfigured(str(error)) from error
        if not spec.customer_ref:
            raise Misconfigured(f"the card {spec.token} was stored without its customer at Stripe")
        with _in_our_words():
            intent = self._client.v1.payment_intents.create(
                {
                    "amount": amount,
                    "currency": spec.currency.lower(),
                    "customer": spec.customer_ref,
                    "payment_method": spec.token,
                    "allowed_payment_method_types": ["card"],
                    "metadata": {
                        "attempt_id": spec.own_reference,
                        **_whose(spec.account_ref),
                    },
                },
                {"idempotency_key": key},
            )
        return self._observe(intent.to_dict())

    def submit(self, ref: str, *, key: str) -> Observation:
        """Confirm the intent. Refused, it is what the intent then says of itself that counts."""
        with _in_our_words():
            try:
                intent = self._client.v1.payment_intents.confirm(
                    ref,
                    {"off_session": True, "error_on_requires_action": True},
                    {"idempotency_key": key},
                )
            except stripe.CardError as declined:
                said = _error(declined).get("payment_intent")
                return self._observe(said) if said else self.read(ref)
            except stripe.InvalidRequestError as refused:
                return self._after_refusal(ref, refused)
        return self._observe(intent.to_dict())

    def _after_refusal(self, ref: str, refused: stripe.InvalidRequestError) -> Observation:
        seen = self.read(ref)
        if refused.code == MOVED_ON or seen.status is not Status.UNSUBMITTED:
            return seen
        if refused.param == "payment_method":
            # Detached since it was prepared: as final as a bank's no, and the customer's to mend.
            return Observation(
                **{**vars(seen), "status": Status.DECLINED, "decline_code": CARD_UNUSABLE}
            )
        raise refused

    def begin_authentication(self, ref: str, *, return_url: str) -> str:
        """
        Confirm the same intent again, its holder present, and say where the bank asks them.

        Declined at once, or confirmed without a question, it is the caller's own page that says so.
        """
        with _in_our_words():
            intent = self._client.v1.payment_intents.retrieve(ref).to_dict()
            if self._observe(intent).status is not Status.NEEDS_CUSTOMER:
                return return_url
            if intent["status"] != "requires_action":
                try:
                    intent = self._client.v1.payment_intents.confirm(
                        ref, {"payment_method": _refused_card(intent), "return_url": return_url}
                    ).to_dict()
                except stripe.CardError:
                    return return_url
                except stripe.InvalidRequestError as refused:
                    if refused.code == MOVED_ON:
                        return return_url
                    raise
        to_bank = (intent.get("next_action") or {}).get("redirect_to_url") or {}
        return str(to_bank.get("url") or return_url)

    def read(self, ref: str) -> Observation:
        """
        The intent as it is now.

        :raises Misconfigured: if there is none: it was made with another account's key.
        """
        with _in_our_words():
            return self._observe(self._client.v1.payment_intents.retrieve(ref).to_dict())

    def find(self, spec: AttemptSpec, *, since: datetime) -> list[Observation]:
        """The customer's intents since then that carry our reference, newest first."""
        if not spec.customer_ref:
            return []
        begins = int((since - CLOCKS_DIFFER_BY).timestamp())
        with _in_our_words():
            intents = self._client.v1.payment_intents.list(
                {"customer": spec.customer_ref, "created": {"gte": begins}, "limit": PAGE}
            )
            return [
                self._observe(intent)
                for intent in map(_plain, intents.auto_paging_iter())
                if _own_reference(intent) == spec.own_reference
            ]

    def cancel(self, ref: str, *, key: str) -> Observation:
        """Cancel the intent; too late for that, it says how it ended."""
        with _in_our_words():
            try:
                intent = self._client.v1.payment_intents.cancel(
                    ref, {"cancellation_reason": "abandoned"}, {"idempotency_key": key}
                )
            except stripe.InvalidRequestError as refused:
                if refused.code != MOVED_ON:
                    raise
                return self.read(ref)
        return self._observe(intent.to_dict())

    def refund(self, spec: RefundSpec, *, key: str) -> RefundSeen:
        """
        Pay money of an intent's charge back.

        :raises RefundRefused: if less is left of it, or it is disputed.
        :raises Misconfigured: if Stripe cannot pay back this amount.
        """
        try:
            amount = to_provider(spec.amount_minor, spec.currency)
        except NotChargeable as error:
            raise Misconfigured(str(error)) from error
        with _in_our_words():
            try:
                refund = self._client.v1.refunds.create(
                    {
                        "payment_intent": spec.payment_ref,
                        "amount": amount,
                        "metadata": {
                            "refund_id": spec.own_reference,
                            **_whose(spec.account_ref),
                        },
                    },
                    {"idempotency_key": key},
                )
            except stripe.InvalidRequestError as refused:
                if refused.code in UNREFUNDABLE or refused.param == "amount":
                    raise RefundRefused(_said(refused)) from refused
                raise
        return _refund_seen(refund.to_dict())

    def read_refund(self, ref: str) -> RefundSeen:
        """The refund as it is now."""
        with _in_our_words():
            return _refund_seen(self._client.v1.refunds.retrieve(ref).to_dict())

    def find_refunds(self, payment_ref: str) -> list[RefundSeen]:
        """The refunds of an intent's charge, newest first."""
        with _in_our_words():
            refunds = self._client.v1.refunds.list({"payment_intent": payment_ref, "limit": PAGE})
            return [_refund_seen(refund) for refund in map(_plain, refunds.auto_paging_iter())]

    def refunds(self, *, since: datetime | None = None) -> Iterator[RefundSeen | Unreadable]:
        """Those of the whole Stripe account, newest first: which are of our payments, our rows know."""
        asked = {"limit": PAGE, **_between(since, None)}
        with _in_our_words():
            found = self._client.v1.refunds.list(cast("stripe.params.RefundListParams", asked))
            for refund in map(_plain, found.auto_paging_iter()):
                yield _read_or_not(refund, _refund_seen)

    def book(self) -> Iterator[Observation]:
        """Every intent of this installation. Those of others in the same Stripe account are not ours to judge."""
        return (seen for seen in self.objects() if isinstance(seen, Observation))

    def objects(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Observation | Foreign]:
        """The intents of a time, newest first; those without our mark are not looked into."""
        asked = {"limit": PAGE, **_between(since, until)}
        with _in_our_words():
            intents = self._client.v1.payment_intents.list(
                cast("stripe.params.PaymentIntentListParams", asked)
            )
            for intent in map(_plain, intents.auto_paging_iter()):
                if _own_reference(intent):
                    yield self._observe(intent)
                else:
                    yield Foreign(intent["id"], _instant(intent["created"]))

    def newest(self) -> list[Observation]:
        """Ours among the newest intents. Where others fill the account, it looks no further than `LOOK_BACK`."""
        objects = islice(self.objects(), LOOK_BACK)
        while page := list(islice(objects, PAGE)):
            if ours := [seen for seen in page if isinstance(seen, Observation)]:
                return ours
        return []

    def settlements(
        self, *, since: datetime | None = None, but: Container[str] = ()
    ) -> Iterator[SettlementLine]:
        """The balance transactions of each payout, oldest payout first."""
        asked = {"limit": PAGE, "status": "paid", **_between(since, None)}
        with _in_our_words():
            found = self._client.v1.payouts.list(cast("stripe.params.PayoutListParams", asked))
            payouts = [_plain(payout) for payout in found.auto_paging_iter()]
            for payout in (one for one in reversed(payouts) if one["id"] not in but):
                lines = self._client.v1.balance_transactions.list(
                    {"payout": payout["id"], "limit": PAGE, "expand": ["data.source"]}
                )
                for line in map(_plain, lines.auto_paging_iter()):
                    if line["type"] != "payout":
                        yield _settlement(line, payout)

    # --- disputes

    def read_dispute(self, ref: str) -> DisputeSeen:
        """
        A dispute as it is now.

        :raises Misconfigured: if there is none of this ref, or the key may not see disputes.
        """
        with _in_our_words():
            return self._dispute(self._client.v1.disputes.retrieve(ref).to_dict())

    def disputes(self, *, since: datetime | None = None) -> Iterator[DisputeSeen | Unreadable]:
        """Those of the whole Stripe account, newest first: which are of our payments, our rows know."""
        asked = {"limit": PAGE, **_between(since, None)}
        with _in_our_words():
            found = self._client.v1.disputes.list(cast("stripe.params.DisputeListParams", asked))
            for dispute in map(_plain, found.auto_paging_iter()):
                yield _read_or_not(dispute, self._dispute)

    # --- cards

    def ensure_customer(self, *, account_ref: str, email: str, name: str) -> str:
        """
        Return the account's Customer, made if there is none by this address.

        A second one does no harm: a card is charged under the one it was entered for.
        """
        with _in_our_words():
            if email:
                known = self._client.v1.customers.list({"email": email, "limit": PAGE})
                for customer in map(_plain, known.auto_paging_iter()):
                    if _ours(customer).get("account_id") == account_ref:
                        return str(customer["id"])
            made = self._client.v1.customers.create(
                {"name": name, "email": email, "metadata": _whose(account_ref)}
            )
        return made.id

    def begin_setup(
        self, *, account_ref: str, customer_ref: str, currency: str, return_url: str
    ) -> CardSetup:
        """Open a page of Stripe's where a card is entered: a Checkout Session in setup mode."""
        whose = _whose(account_ref)
        with _in_our_words():
            session = self._client.v1.checkout.sessions.create(
                {
                    "mode": "setup",
                    "customer": customer_ref,
                    "currency": currency.lower(),
                    "allowed_payment_method_types": ["card"],
                    "setup_intent_data": {"metadata": whose},
                    "metadata": whose,
                    "success_url": f"{return_url}?setup={{CHECKOUT_SESSION_ID}}",
                    "cancel_url": return_url,
                }
            )
        assert session.url, f"{session.id} is new, yet has no page"
        return CardSetup(session.id, session.url)

    def read_setup(self, ref: str) -> FinishedSetup:
        """The card that came of a session or of its SetupIntent; none as long as that has not succeeded."""
        with _in_our_words():
            if ref.startswith("cs_"):
                setup = self._client.v1.checkout.sessions.retrieve(
                    ref, {"expand": ["setup_intent.payment_method"]}
                ).to_dict()
                intent = setup["setup_intent"] or {}
            else:
                setup = intent = self._client.v1.setup_intents.retrieve(
                    ref, {"expand": ["payment_method"]}
                ).to_dict()
        has_card = intent.get("status") == "succeeded"
        return FinishedSetup(
            account_ref=_ours(setup).get("account_id", ""),
            method=_method(intent["payment_method"]) if has_card else None,
        )

    def test_methods(self, account_ref: str) -> Mapping[str, str]:
        """None: cards are entered on Stripe's own page, test cards as well."""
        return {}

    def read_method(self, token: str) -> Method:
        """A card as Stripe knows it now; detached, it has no customer."""
        with _in_our_words():
            return _method(self._client.v1.payment_methods.retrieve(token).to_dict())

    def detach(self, token: str) -> Method:
        """Detach the card. One that is detached already stays it."""
        with _in_our_words():
            try:
                return _method(self._client.v1.payment_methods.detach(token).to_dict())
            except stripe.InvalidRequestError:
                method = self.read_method(token)
                if method.customer_ref:
                    raise
                return method

    # --- events

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> list[EventHint]:
        """
        Read one delivery: signed by one of our secrets, not old, of our mode.

        :raises NotAuthentic: if it is anything else.
        """
        _verify(headers.get("Stripe-Signature", ""), body)
        try:
            event = json.loads(body)
            hint = EventHint(
                event_id=str(event["id"]),
                type=str(event["type"]),
                about=_about(event["type"]),
                object_ref=str(event["data"]["object"].get("id", "")),
                is_live=bool(event["livemode"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotAuthentic(f"signed, but not an event: {error!r}") from error
        if hint.is_live != self._is_live:
            raise NotAuthentic(
                f"{hint.event_id} is of {_mode(is_live=hint.is_live)} mode,"
                f" our key of {_mode(is_live=self._is_live)}"
            )
        return [hint]

    # --- what Stripe's objects say

    def _observe(self, intent: Object) -> Observation:
        if intent["livemode"] is not self._is_live:
            raise Misconfigured(f"{intent['id']} is not of {_mode(is_live=self._is_live)} mode")
        status = STATUSES.get(intent["status"])
        if status is None:
            raise OutcomeUnknown(f"{intent['id']} is {intent['status']}, which we have no word for")
        error = intent.get("last_payment_error") or {}
        code = error.get("decline_code") or error.get("code") or ""
        if status is Status.DECLINED:
            asks = ASKS_CUSTOMER in {error.get("code"), code}
            status = Status.NEEDS_CUSTOMER if asks else Status.DECLINED
            code = code or NO_CARD
        amount = intent["amount_received" if status is Status.SUCCEEDED else "amount"]
        return Observation(
            ref=intent["id"],
            own_reference=_own_reference(intent),
            status=status,
            amount_minor=from_provider(amount, intent["currency"]),
            currency=intent["currency"].upper(),
            decline_code=code,
            advice_code=_advice(error),
            account_ref=_ours(intent).get("account_id", ""),
            token=_token(intent, error),
            customer_ref=intent.get("customer") or "",
            made_at=_instant(intent["created"]),
        )

    def _dispute(self, dispute: Object) -> DisputeSeen:
        if dispute["livemode"] is not self._is_live:
            raise Misconfigured(f"{dispute['id']} is not of {_mode(is_live=self._is_live)} mode")
        status = DISPUTE_STATUSES.get(dispute["status"])
        if status is None:
            raise OutcomeUnknown(
                f"{dispute['id']} is {dispute['status']}, which we have no word for"
            )
        currency = dispute["currency"]
        moved = dispute["balance_transactions"]
        due_by = dispute["evidence_details"]["due_by"]
        waits = dispute["status"] in DISPUTE_WAITS and due_by is not None
        return DisputeSeen(
            ref=dispute["id"],
            charge_ref=dispute.get("payment_intent") or "",
            amount_minor=from_provider(dispute["amount"], currency),
            currency=currency.upper(),
            fee_minor=sum(
                nearest_from_provider(line["fee"], currency)
                for line in moved
                if line["currency"] == currency
            ),
            status=status,
            is_withdrawn=any(line["amount"] < 0 for line in moved),
            is_over=dispute["status"] in DISPUTE_IS_OVER,
            reason=dispute["reason"],
            evidence_due_at=_instant(due_by) if waits else None,
            made_at=_instant(dispute["created"]),
        )


# --- settings


def _agreed_mode() -> bool:
    """Whether we are live: the key, and the setting, must say the same."""
    is_live = _is_live_key(settings.STRIPE_SECRET_KEY)
    if is_live and not settings.STRIPE_LIVE:
        raise Misconfigured(
            "STRIPE_SECRET_KEY is a live key: set STRIPE_LIVE=1 to charge real money"
        )
    if settings.STRIPE_LIVE and not is_live:
        raise Misconfigured("STRIPE_LIVE is set, but STRIPE_SECRET_KEY is a test key")
    return is_live


def _is_live_key(key: str) -> bool:
    _, mode, *rest = [*key.split("_"), "", ""]
    if mode not in {"live", "test"} or not rest[0]:
        raise Misconfigured("STRIPE_SECRET_KEY is not a key of Stripe's: those look like sk_test_…")
    return mode == "live"


def _mode(*, is_live: bool) -> str:
    return "live" if is_live else "test"


def _safe_base() -> str:
    """The key goes with every request, so it leaves this machine only encrypted."""
    base = urlsplit(settings.STRIPE_API_BASE)
    if base.scheme != "https" and base.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise Misconfigured(f"STRIPE_API_BASE is {settings.STRIPE_API_BASE}: use https")
    return str(settings.STRIPE_API_BASE)


@lru_cache(maxsize=8)
def _connected(secret_key: str, base: str, process_id: int) -> stripe.StripeClient:
    """One client with its connections; never a parent process's, whose sockets we would share."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        # One kept for each call at once: greeting anew costs as much as the call.
        adapter = _PatientAdapter(pool_maxsize=settings.CALLS_AT_ONCE, max_retries=0)
        session.mount(scheme, adapter)
    return stripe.StripeClient(
        secret_key,
        stripe_version=API_VERSION,
        base_addresses={"api": base.rstrip("/")},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=(CONNECT_SECONDS, READ_SECONDS), session=session),
    )


class _PatientAdapter(HTTPAdapter):
    """Waits no longer than whoever calls: a page has a few seconds."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests'
        timeout: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> requests.Response:
        connect, read = timeout
        try:
            with patience.turn():
                patient = (patience.left(connect), patience.left(read))
                return super().send(request, stream, patient, *args, **kwargs)
        except patience.NobodyWaits as nobody:
            # As a server that is not reached: nothing was sent.
            raise requests.ConnectTimeout(str(nobody)) from nobody


# --- errors


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Raise what the SDK raises as one of the protocol's four; what we cannot place is OutcomeUnknown."""
    try:
        yield
    except stripe.StripeError as error:
        raise _translated(error) from error


def _translated(error: stripe.StripeError) -> Exception:
    code = _error(error).get("code")
    said = _said(error)
    if isinstance(error, stripe.RateLimitError) or code == "lock_timeout":
        return RateLimited(_retry_after_seconds(error))
    if isinstance(error, stripe.APIConnectionError) and _never_left(error):
        return NotSent(said)
    if isinstance(
        error, stripe.AuthenticationError | stripe.PermissionError | stripe.InvalidRequestError
    ):
        return Misconfigured(said)
    return OutcomeUnknown(said)


def _said(error: stripe.StripeError) -> str:
    return " ".join(str(error.user_message or type(error).__name__).split())


def _error(error: stripe.StripeError) -> Object:
    """The error as Stripe sent it; empty where what came was no answer of Stripe's."""
    body = error.json_body
    said = body.get("error") if isinstance(body, dict) else None
    return said if isinstance(said, dict) else {}


def _never_left(error: stripe.APIConnectionError) -> bool:
    """Whether there was no connection to send anything over: refused, no such host, no answer to a SYN."""
    cause = error.__cause__
    if isinstance(cause, requests.ConnectTimeout):
        return True
    failed = cause.args[0] if isinstance(cause, requests.ConnectionError) and cause.args else None
    return isinstance(failed, MaxRetryError) and isinstance(failed.reason, NewConnectionError)


def _retry_after_seconds(error: stripe.StripeError) -> float:
    try:
        said = float((error.headers or {})["Retry-After"])
    except (KeyError, ValueError):
        return RETRY_AFTER_SECONDS
    if not math.isfinite(said):
        return RETRY_AFTER_SECONDS
    return min(max(said, 0), LONGEST_RETRY_AFTER_SECONDS)


# --- objects


def _plain(found: Any) -> Object:
    return dict(found.to_dict())


def _whose(account_ref: str) -> dict[str, str]:
    return {"account_id": account_ref, "installation": settings.INSTALLATION_ID}


def _ours(found: Object) -> dict[str, str]:
    """What we wrote on an object; nothing where another installation did, or nobody."""
    metadata = found.get("metadata") or {}
    return metadata if metadata.get("installation") == settings.INSTALLATION_ID else {}


def _own_reference(intent: Object) -> str:
    return _ours(intent).get("attempt_id", "")


def _token(intent: Object, error: Object) -> str:
    """The card; a refused intent has lost it, and names it in what was refused."""
    return str(intent.get("payment_method") or (error.get("payment_method") or {}).get("id", ""))


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _between(since: datetime | None, until: datetime | None) -> dict[str, Any]:
    """What restricts a list to a time; both ends included, and the clocks' difference."""
    bounds = {
        **({"gte": int((since - CLOCKS_DIFFER_BY).timestamp())} if since else {}),
        **({"lte": int(until.timestamp())} if until else {}),
    }
    return {"created": bounds} if bounds else {}


def _settlement(line: Object, payout: Object) -> SettlementLine:
    source: Object = line["source"] if isinstance(line.get("source"), dict) else {}
    is_charge = source.get("object") == "charge"
    own_reference = _own_reference(source) if is_charge else ""
    about = SETTLED.get(source.get("object", ""), "OTHER")
    currency = str(source.get("currency") or line["currency"])
    gross_minor = nearest_from_provider(line["amount"], line["currency"])
    net_minor = nearest_from_provider(line["net"], line["currency"])
    moved_minor = nearest_from_provider(source.get("amount", abs(line["amount"])), currency)
    return SettlementLine(
        payout_ref=payout["id"],
        paid_out_at=_instant(payout["created"]),
        about=about,
        source_ref=str(source.get("id") or line["id"]),
        charge_ref=source.get("payment_intent") or "",
        own_reference=own_reference,
        amount_minor=moved_minor if gross_minor >= 0 else -moved_minor,
        currency=currency.upper(),
        gross_minor=gross_minor,
        fee_minor=gross_minor - net_minor,
        net_minor=net_minor,
        settled_currency=line["currency"].upper(),
        exchange_rate=Decimal(str(line["exchange_rate"])) if line.get("exchange_rate") else None,
    )


def _refund_seen(refund: Object) -> RefundSeen:
    status = REFUND_STATUSES.get(refund["status"])
    if status is None:
        raise OutcomeUnknown(f"{refund['id']} is {refund['status']}, which we have no word for")
    return RefundSeen(
        ref=refund["id"],
        payment_ref=refund.get("payment_intent") or "",
        own_reference=_ours(refund).get("refund_id", ""),
        status=status,
        amount_minor=from_provider(refund["amount"], refund["currency"]),
        currency=refund["currency"].upper(),
        because=refund.get("failure_reason") or "",
    )


def _read_or_not(found: Object, read: Callable[[Object], Seen]) -> Seen | Unreadable:
    """One of the whole Stripe account, where others may charge what we would not."""
    try:
        return read(found)
    except (NotChargeable, UnknownCurrency, OutcomeUnknown) as error:
        return Unreadable(
            ref=found["id"],
            charge_ref=found.get("payment_intent") or "",
            because=str(error),
            made_at=_instant(found["created"]),
        )


def _advice(error: Object) -> str:
    card = (error.get("payment_method") or {}).get("card") or {}
    return declines.advice(
        brand=card.get("brand") or "",
        advice_code=error.get("advice_code") or "",
        network_advice_code=error.get("network_advice_code") or "",
        network_decline_code=error.get("network_decline_code") or "",
    )


def _refused_card(intent: Object) -> str:
    """The card that was refused until its holder confirms: the intent has let go of it."""
    return str(intent["last_payment_error"]["payment_method"]["id"])


def _method(found: Object) -> Method:
    card: Object = found.get("card") or {}
    return Method(
        token=found["id"],
        customer_ref=found.get("customer") or "",
        brand=BRANDS.get(card.get("brand", ""), card.get("brand", "").title()),
        last_four=card.get("last4", ""),
        expiry_month=card.get("exp_month", 12),
        expiry_year=card.get("exp_year", 9999),
    )


# How card companies write themselves, where capital first letters are not enough.
BRANDS = {"amex": "American Express", "jcb": "JCB", "unionpay": "UnionPay", "diners": "Diners Club"}


def _about(kind: str) -> About:
    return ABOUT[kind.partition(".")[0]] if kind in HEEDED else About.OTHER


# --- signatures


def _verify(header: str, body: bytes) -> None:
    stamps = [part for part in header.split(",") if part.strip().startswith("t=")]
    if len(stamps) != 1:
        # None, or two headers made into one: whose time would count?
        raise NotAuthentic(f"a signature with {len(stamps)} times")
    refusals = [_refusal(header, body, secret) for secret in settings.STRIPE_WEBHOOK_SECRETS]
    if None not in refusals:
        raise NotAuthentic(refusals[0] if refusals else "STRIPE_WEBHOOK_SECRETS is empty")


def _refusal(header: str, body: bytes, secret: str) -> str | None:
    """Why this secret did not sign it; None if it did."""
    try:
        stripe.WebhookSignature.verify_header(body, header, secret, TOLERANCE_SECONDS)
    except stripe.SignatureVerificationError as error:
        return str(error)
    except UnicodeDecodeError:
        return "not UTF-8"
    return None
