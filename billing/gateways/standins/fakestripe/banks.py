"""Where a customer confirms: the page of the bank, which `hosted` shows."""

from urllib.parse import urlencode

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object


def page_of(book: Book, ref: str, **said: str) -> str:
    """The address of the bank's page about an intent."""
    return f"{book.setting('hosted_at')}/hosted/authenticate/{ref}?{urlencode(said)}"


def next_action(book: Book, ref: str, return_url: str | None) -> Object:
    """What an intent says that its customer has to do: go there, or let the page's own script ask."""
    if return_url is None:
        return {
            "type": "use_stripe_sdk",
            "use_stripe_sdk": {"type": "three_d_secure_redirect"},
        }
    url = page_of(book, ref, back=return_url)
    return {
        "type": "redirect_to_url",
        "redirect_to_url": {"url": url, "return_url": return_url},
    }
