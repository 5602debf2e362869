"""Accounts whose cards are kept at the Stripe-like provider, and deliveries of its events."""

from datetime import datetime
from typing import Any

from accounts.models import Account, PaymentMethod
from billing import gateways
from billing.models import ProviderEvent
from billing.payments import inbound
from tests.billing.builders import bill
from tests.factories import AS_OF, CardFactory, account_using
from tests.stripe_provider import StripeProvider, signed


def using(stripe: StripeProvider, amount: str, card: str = "visa", **facts: object) -> Account:
    """An account that used this much and has a card at the provider that does what its name says."""
    account = account_using(amount, card=None, **facts)
    with_card(stripe, account, card)
    return account


def owing(
    stripe: StripeProvider, amount: str = "12.34", card: str = "visa", **facts: object
) -> Account:
    """The same, with an invoice over it."""
    account = using(stripe, amount, card, **facts)
    bill(account)
    return account


def with_card(stripe: StripeProvider, account: Account, card: str = "visa") -> PaymentMethod:
    customer = stripe.customer()
    return CardFactory(
        account=account,
        gateway="stripe",
        token=stripe.card(customer, card),
        customer_ref=customer,
    )


def event(kind: str, ref: str, *, event_id: str = "", **about_it: object) -> dict[str, Any]:
    """An event as its sender claims it: whether it is so is for the provider to say."""
    return {
        "id": event_id or f"evt_{kind}_{ref}",
        "object": "event",
        "type": kind,
        "livemode": False,
        "data": {"object": {"id": ref, **about_it}},
    }


def deliver(*events: dict[str, Any], as_of: datetime = AS_OF) -> None:
    for each in events:
        delivery = signed(each)
        hints = gateways.get("stripe").parse_webhook(delivery["headers"], delivery["body"])
        inbound.receive(gateway="stripe", hints=hints, body=delivery["body"], as_of=as_of)


def told(*events: dict[str, Any], as_of: datetime = AS_OF) -> list[str]:
    """Deliver and work on them: what came of each, in the order they came."""
    deliver(*events, as_of=as_of)
    inbound.process_due(as_of=as_of)
    return outcomes()


def outcomes() -> list[str]:
    return list(ProviderEvent.objects.order_by("pk").values_list("outcome", flat=True))
