"""The provider's pages for its customers: enter a card; and the bank asks, approve or refuse."""

from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

from billing.gateways.standins.fakestripe import banks, checkout, intents, setup_intents
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import ApiError, Object

# What the customer finds on the page instead of a form: token, and what it does.
CHOICES = (
    ("pm_card_visa", "Visa ···· 4242, pays"),
    ("pm_card_mastercard", "Mastercard ···· 4444, pays"),
    ("pm_card_authenticationRequired", "Visa ···· 3184, its bank asks every time"),
    ("pm_card_authenticationRequiredOnSetup", "Visa ···· 3155, its bank asks when it is saved"),
    ("pm_card_chargeCustomerFail", "Visa ···· 0341, is saved and then declines"),
    ("pm_card_visa_chargeDeclined", "Visa ···· 0002, cannot be saved"),
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem;color:#1a1f36}}
label{{display:block;padding:.6rem .8rem;margin:.4rem 0;border:1px solid #c9d0de;border-radius:8px}}
button{{font:inherit;padding:.6rem 1.2rem;margin:.8rem .6rem 0 0;border:0;border-radius:8px;background:#4f46e5;color:#fff}}
button.plain{{background:#e6e9f0;color:#1a1f36}}.bad{{color:#b3093c}}small{{color:#5b6478}}</style>
<h1>{title}</h1>{body}<p><small>fakestripe: no real card, no real money.</small></p></html>"""

# Status, the page, and where to go instead of it.
Answer = tuple[int, str, str]


def answer(book: Book, method: str, path: str, body: bytes) -> Answer:
    """Show a page, or do what was chosen on it and send its customer on."""
    said = dict(parse_qsl(body.decode(errors="replace")))
    said |= dict(parse_qsl(urlsplit(path).query))
    _, _, page, ref = [*urlsplit(path).path.split("/"), "", ""][:4]
    try:
        with book.writing():
            book.request = {"id": None, "idempotency_key": None}
            if page == "checkout":
                return _checkout(book, ref, said, is_sent=method == "POST")
            if page == "authenticate":
                return _authenticate(book, ref, said, is_sent=method == "POST")
    except ApiError as error:
        return error.status, _page("This cannot be done", _said(error)), ""
    return 404, _page("There is nothing here", ""), ""


def _checkout(book: Book, ref: str, said: Object, *, is_sent: bool) -> Answer:
    session = book.get("checkout.session", ref)
    problem = ""
    if is_sent:
        try:
            intent = checkout.enter_card(book, ref, said.get("card", ""))
        except ApiError as error:
            problem = _said(error)
        else:
            if intent["status"] == "succeeded":
                return 303, "", checkout.complete(book, ref)
            return 303, "", banks.page_of(book, intent["id"], session=ref)
    cards = "".join(
        f'<label><input type="radio" name="card" value="{token}" required> {title}</label>'
        for token, title in CHOICES
    )
    back = f'<a href="{escape(session["cancel_url"])}">Back</a>' if session["cancel_url"] else ""
    form = f'<form method="post">{cards}<button>Save the card</button> {back}</form>'
    return 200, _page("Enter a card", problem + form), ""


def _authenticate(book: Book, ref: str, said: Object, *, is_sent: bool) -> Answer:
    kind = intents if ref.startswith("pi_") else setup_intents
    if not is_sent:
        buttons = (
            '<button name="answer" value="approve">Approve</button>'
            '<button class="plain" name="answer" value="refuse">Refuse</button>'
        )
        return 200, _page("Your bank asks: is it you?", f'<form method="post">{buttons}</form>'), ""
    back = said.get("back", "")
    intent = kind.authenticate(book, ref, succeeds=said.get("answer") == "approve")
    if session := said.get("session"):
        if intent["status"] == "succeeded":
            return 303, "", checkout.complete(book, session)
        return 303, "", f"/hosted/checkout/{session}"
    status = "succeeded" if intent["status"] == "succeeded" else "failed"
    joint = "&" if urlsplit(back).query else "?"
    told = urlencode({intent["object"]: ref, "redirect_status": status})
    return 303, "", f"{back}{joint}{told}"


def _said(error: ApiError) -> str:
    return f'<p class="bad">{escape(str(error.body["error"]["message"]))}</p>'


def _page(title: str, body: str) -> str:
    return PAGE.format(title=title, body=body)
