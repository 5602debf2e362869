"""Our own Stripe-like provider as a process of its own, and what a test does to it from outside."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings

from billing import gateways
from billing.gateways import AttemptSpec

KEY = "sk_test_month_close"
SECRET = "whsec_month_close"
PATIENCE_SECONDS = 15
# Cards that can be saved as they are; the others become what they are afterwards.
SAVED_AS_THEY_ARE = {"visa", "mastercard", "chargeCustomerFail", "authenticationRequired"}


class ProviderProcess:
    """A process with a book, on a free port."""

    def __init__(self, book: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", "fakestripe", "--port", "0", "--book", str(book)],
            cwd=settings.BASE_DIR,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._process.stdout.readline()
        assert said.startswith("fakestripe listens on "), said
        self.url = said.split()[3].rstrip(",")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        self._process.stdout.close()


def start_provider(book: Path) -> ProviderProcess:
    return ProviderProcess(book)


class StripeProvider:
    """Tests share one, each with an installation of its own. What only ours can do is skipped at Stripe's."""

    def __init__(self, url: str, *, key: str = KEY) -> None:
        self.url = url
        self.key = key
        self._is_ours = key == KEY

    # --- as a merchant, by the API

    def post(self, path: str, /, **params: object) -> dict[str, Any]:
        return self._answer(
            requests.post(
                f"{self.url}/v1/{path}",
                data=params,
                auth=(self.key, ""),
                timeout=PATIENCE_SECONDS,
            )
        )

    def delete(self, path: str) -> None:
        self._answer(
            requests.delete(f"{self.url}/v1/{path}", auth=(self.key, ""), timeout=PATIENCE_SECONDS)
        )

    def customer(self) -> str:
        return self.post("customers", name="Acme")["id"]

    def card(self, customer: str, name: str = "visa") -> str:
        """A card of this customer that does what its name says."""
        saved = name if name in SAVED_AS_THEY_ARE else "visa"
        token = self.post(f"payment_methods/pm_card_{saved}/attach", customer=customer)["id"]
        if name != saved:
            self.becomes(token, name)
        return token

    def spec(self, card: str = "visa", **facts: object) -> AttemptSpec:
        """An attempt of a new customer whose card does what its name says."""
        customer = self.customer()
        return AttemptSpec(
            **{
                "own_reference": str(uuid.uuid4()),
                "account_ref": "acme",
                "token": self.card(customer, card),
                "amount_minor": 1234,
                "currency": "EUR",
                "customer_ref": customer,
                **facts,
            }
        )

    def prepared(self, card: str = "visa", **facts: object) -> str:
        return gateways.get("stripe").prepare(self.spec(card, **facts), key=new_key()).ref

    def setup_intent(self, account_ref: str, customer: str) -> str:
        """A SetupIntent of ours for an account, as a session makes one."""
        whose = {"account_id": account_ref, "installation": settings.INSTALLATION_ID}
        metadata = {f"metadata[{name}]": value for name, value in whose.items()}
        return self.post("setup_intents", customer=customer, **metadata)["id"]

    # --- as a customer, on the provider's own pages

    def enter_card(self, url: str, token: str = "pm_card_visa") -> str:
        """Enter a card on a page of the provider's; where it sends the customer next."""
        return self._sent_on(url, card=token)

    def answer_bank(self, url: str, answer: str) -> str:
        """Approve or refuse on the bank's page; where it sends the customer next."""
        return self._sent_on(url, answer=answer)

    def _sent_on(self, url: str, **said: str) -> str:
        self._skip_at_stripe()
        assert requests.get(url, timeout=PATIENCE_SECONDS).ok
        answer = requests.post(url, data=said, allow_redirects=False, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    # --- from outside

    def control(self, what: str, order: object) -> dict[str, Any]:
        self._skip_at_stripe()
        return self._answer(
            requests.post(f"{self.url}/_control/{what}", json=order, timeout=PATIENCE_SECONDS)
        )

    def becomes(self, token: str, card: str) -> None:
        """The bank thinks anew of a card."""
        self.control("cards", {"payment_method": token, "becomes": card})

    def fault(self, fault: str, path: str, *, method: str = "POST", **facts: object) -> None:
        """What befalls the next such request."""
        match = {"method": method, "path": path}
        self.control("faults", [{"match": match, "fault": fault, **facts}])

    def heal(self) -> None:
        if self._is_ours:
            self.control("faults", {"clear": True})

    @contextmanager
    def in_days(self, days: int) -> Iterator[None]:
        """What happens that much later, by the provider's clock."""
        self.control("clock", {"advance_seconds": days * 86_400})
        try:
            yield
        finally:
            self.control("clock", {"advance_seconds": -days * 86_400})

    def pay_out(self, currency: str = "eur") -> str:
        """The payout of everything that is available."""
        with self.in_days(3):
            return str(self.control("payouts", {"currency": currency})["id"])

    def authenticate(self, intent: str, *, succeeds: bool = True) -> None:
        self.control("authentication", {"intent": intent, "succeeds": succeeds})

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        self._skip_at_stripe()
        return self._answer(requests.get(f"{self.url}/dump", timeout=PATIENCE_SECONDS))

    def intents(self) -> list[dict[str, Any]]:
        """Those of this test, newest first."""
        answer = requests.get(
            f"{self.url}/v1/payment_intents?limit=100",
            auth=(self.key, ""),
            timeout=PATIENCE_SECONDS,
        )
        return [
            intent
            for intent in self._answer(answer)["data"]
            if intent["metadata"].get("installation") == settings.INSTALLATION_ID
        ]

    def taken(self) -> int:
        """What was charged in this test, in the provider's units."""
        return sum(intent["amount_received"] for intent in self.intents())

    def event(self, kind: str, ref: str) -> dict[str, Any]:
        """The last event of this type about this object, as it would be delivered."""
        return [
            event
            for event in self.dump()["events"]
            if event["type"] == kind and event["data"]["object"]["id"] == ref
        ][-1]

    def _skip_at_stripe(self) -> None:
        if not self._is_ours:
            pytest.skip("needs what only our own provider does")

    @staticmethod
    def _answer(answer: requests.Response) -> dict[str, Any]:
        assert answer.ok, answer.text
        return answer.json()


def new_key() -> str:
    return uuid.uuid4().hex


def signed(event: dict[str, Any], *, secret: str = SECRET, age_seconds: int = 0) -> dict[str, Any]:
    """What a delivery of this event looks like: its body, and the header beside it."""
    body = json.dumps(event)
    # The SDK takes half a second to import, which only who needs it pays.
    from stripe import WebhookSignature

    header = WebhookSignature.generate_signature_header(
        body, secret, int(time.time()) - age_seconds
    )
    return {"body": body.encode(), "headers": {"Stripe-Signature": header}}
