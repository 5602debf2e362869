"""The world outside an installation: providers, banks and customers, by HTTP and in the providers' own books."""

import hashlib
import hmac
import json
import re
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.upgrade.installation import DEBIT_SECRET, Installation
from tests.upgrade.people import PASSWORD, Customer

AT_ONCE = 6
TIMEOUT_SECONDS = 60
LOOKS = {"brand": "Visa", "last_four": "4242", "expiry_month": 12, "expiry_year": 2099}
PAYS = "visa"


@dataclass(frozen=True)
class Taken:
    """Money as a provider's own book has it."""

    gateway: str
    ref: str
    amount_minor: int
    # Our attempt, as we have told the provider.
    own_reference: str


# --- Stripe's stand-in


def answers(installation: Installation) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{installation.provider}/dump", timeout=TIMEOUT_SECONDS).ok
    return False


def enter_cards(
    installation: Installation, who: Iterable[Customer]
) -> dict[str, dict[str, Any] | None]:
    """Store everybody's means with their provider, as their own browsers would. Returns them by name."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(pool.map(lambda each: (each.name, _card(installation, each)), who))


def _card(installation: Installation, who: Customer) -> dict[str, Any] | None:
    means = who.means
    match means.gateway:
        case "stripe":
            customer = _form(installation, "v1/customers", name=who.name, email=who.email)["id"]
            attach = f"v1/payment_methods/pm_card_{PAYS}/attach"
            token = _form(installation, attach, customer=customer)["id"]
            if means.token != PAYS:
                # A card that will not pay can be entered only while it still does.
                _control(installation, "cards", payment_method=token, becomes=means.token)
            return {"gateway": "stripe", "token": token, "customer_ref": customer, **LOOKS}
        case "sandbox":
            return {"gateway": "sandbox", "token": means.token, **LOOKS}
        case "debit":
            mandate = {"mandate_status": "ACTIVE", "brand": "Direct debit", "last_four": "3000"}
            token = f"{means.token}.{who.name}"
            return {"gateway": "debit", "token": token, "customer_ref": "debit", **mandate}
        case _:
            return None


def slow_down(installation: Installation, seconds: float) -> None:
    """From now on each request to the provider takes so long."""
    _control(installation, "faults", odds=f"slow=1:{seconds}")


def authenticate(installation: Installation, refs: Iterable[str]) -> None:
    """Customers say yes at their bank's page."""
    for ref in refs:
        _control(installation, "authentication", intent=ref)


def confirm_debits(installation: Installation) -> int:
    """
    Days have passed: the banks have paid every debit that they have, and the provider tells of it.

    Returns how many they were.
    """
    with closing(sqlite3.connect(installation.debit_book, timeout=30)) as book, book:
        paid = book.execute(
            "UPDATE payment SET status = 'confirmed' WHERE status = 'submitted' RETURNING id"
        ).fetchall()
    if paid:
        events = [
            {
                "id": f"EV-{ref}",
                "resource_type": "payments",
                "action": "confirmed",
                "links": {"payment": ref},
            }
            for (ref,) in paid
        ]
        body = json.dumps({"events": events}).encode()
        signed = hmac.new(DEBIT_SECRET.encode(), body, hashlib.sha256).hexdigest()
        requests.post(
            f"{installation.site}/webhooks/debit/",
            data=body,
            headers={"Webhook-Signature": signed, "Content-Type": "application/json"},
            timeout=TIMEOUT_SECONDS,
        ).raise_for_status()
    return len(paid)


def taken(installation: Installation) -> list[Taken]:
    """All money that any provider has taken, by its own book."""
    dump = requests.get(f"{installation.provider}/dump", timeout=TIMEOUT_SECONDS).json()
    return [
        *(
            Taken("stripe", each["id"], each["amount"], each["metadata"].get("attempt_id", ""))
            for each in dump["payment_intents"]
            if each["status"] == "succeeded"
        ),
        *_read(
            "sandbox",
            installation.sandbox_book,
            "SELECT ref, amount_minor, own_reference FROM charge WHERE status = 'SUCCEEDED'",
        ),
        *_read(
            "debit",
            installation.debit_book,
            "SELECT id, amount, reference FROM payment WHERE status = 'confirmed'",
        ),
    ]


def _read(gateway: str, book: Path, query: str) -> list[Taken]:
    with closing(sqlite3.connect(book, timeout=30)) as opened:
        return [Taken(gateway, *row) for row in opened.execute(query)]


def _form(installation: Installation, path: str, **said: str) -> Any:
    key = installation.settings()["STRIPE_SECRET_KEY"]
    answer = requests.post(
        f"{installation.provider}/{path}", auth=(key, ""), data=said, timeout=TIMEOUT_SECONDS
    )
    answer.raise_for_status()
    return answer.json()


def _control(installation: Installation, act: str, **said: Any) -> None:
    requests.post(
        f"{installation.provider}/_control/{act}", json=said, timeout=TIMEOUT_SECONDS
    ).raise_for_status()


# --- customers


def site_is_up(installation: Installation) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{installation.site}/readyz", timeout=TIMEOUT_SECONDS).ok
    return False


def pay_on_the_site(installation: Installation, who: dict[str, int]) -> None:
    """All of them at once, each as a browser does it. `who`: their accounts by email."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for paid in [pool.submit(_pay, installation, *each) for each in who.items()]:
            paid.result()


def _pay(installation: Installation, email: str, account: int) -> None:
    """The page, then its form with what it showed. Nothing where the batch was there before."""
    browser = requests.Session()
    sign_in = f"{installation.site}/sign-in/"
    page = _open(browser, sign_in)
    form = {"csrfmiddlewaretoken": _value(page, "csrfmiddlewaretoken")}
    browser.post(
        sign_in, data={**form, "username": email, "password": PASSWORD}, timeout=TIMEOUT_SECONDS
    ).raise_for_status()
    url = f"{installation.site}/accounts/{account}/pay/"
    page = _open(browser, url)
    names = ("csrfmiddlewaretoken", "due_minor", "seen")
    form = {name: _value(page, name) or "" for name in names}
    if form["due_minor"]:
        browser.post(url, data=form, timeout=TIMEOUT_SECONDS).raise_for_status()


def _open(browser: requests.Session, url: str) -> str:
    answer = browser.get(url, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    return answer.text


def _value(page: str, name: str) -> str | None:
    """The value of an input of the page."""
    found = re.search(rf'<input[^>]*name="{name}"[^>]*>', page)
    value = re.search(r'value="([^"]*)"', found.group()) if found else None
    return value.group(1) if value else None


def statement(rows: Iterable[tuple[str, str, str]]) -> str:
    """A bank's statement of who has paid an invoice by transfer: number, amount, currency."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    lines = ["date,amount,currency,reference,payer,bank_ref"]
    lines += [
        f"{today},{amount},{cur},{number},somebody,T-{number}" for number, amount, cur in rows
    ]
    return "\n".join(lines) + "\n"
