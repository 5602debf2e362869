"""What is kept of a page says what Django's templates say, for every kind of message."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.template import Context, Engine
from django.utils import translation
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from notifications import rendering

KINDS = sorted(
    path.name.split(".")[0].upper()
    for path in (Path(settings.BASE_DIR) / "templates/emails").glob("*.subject.txt")
)
# Everything a template of ours asks for. What is sometimes empty is tried both ways.
TEXTS = [
    "number",
    "period",
    "total",
    "credit",
    "left",
    "due_date",
    "card",
    "bank_details",
    "reference",
    "balance",
    "as_of",
    "pay_link",
    "account_name",
    "entity_name",
    "seller_logo",
    "seller_help",
    "amount",
    "method",
    "received_at",
    "surplus",
    "reason",
    "advice",
    "next_try",
    "held_on",
    "charge_date",
    "until",
    "confirm_link",
    "paid_on",
    "more_amount",
    "paid",
    "declined_card",
    "declined_mandate",
    "next_amount",
    "next_card",
    "next_day",
    "confirm_until",
    "next_try_card",
    "link",
    "inviter",
    "before",
    "new_email",
]
TRUTHS = (
    "has_due",
    "is_credit",
    "is_mandate",
    "is_overdue",
    "is_owed_again",
    "is_on_its_way",
    "is_paused",
    "is_carried_over",
    "card_is_charged",
    "mandate_is_charged",
    "waits_for_provider",
    "asks_to_pay",
)

# Texts that a page could trip over; which value says which, and which say nothing, is drawn.
SAID = ["", "", "€10.00", "<b>&'\"</b>", "{{ total }}{% now 'Y' %}", "two\nlines", " %(total)s # "]
rows = st.lists(st.sampled_from(SAID), max_size=3).map(
    lambda said: [{"name": each, "number": each, "amount": each} for each in said]
)


@st.composite
def contexts(draw: st.DrawFn) -> dict[str, Any]:
    numbers = draw(st.binary(min_size=len(TEXTS), max_size=len(TEXTS)))
    truths = draw(st.integers(0, 2 ** len(TRUTHS) - 1))
    return {
        **{name: SAID[number % len(SAID)] for name, number in zip(TEXTS, numbers, strict=True)},
        **{name: bool(truths >> place & 1) for place, name in enumerate(TRUTHS)},
        "products": draw(rows),
        "paid_rows": draw(rows),
        "more_count": draw(st.integers(0, 2)),
    }


def by_django(kind: str, locale: str, context: dict[str, Any]) -> rendering.Said:
    def render(ending: str, *, escaped: bool) -> str:
        page = Engine.get_default().get_template(f"emails/{kind.lower()}{ending}")
        return page.render(Context(context, autoescape=escaped)).strip() + "\n"

    with translation.override(locale):
        subject = render(".subject.txt", escaped=False)
        return rendering.Said(
            subject=" ".join(" ".join(line.strip() for line in subject.splitlines()).split())[:300],
            body_text=render(".txt", escaped=False),
            body_html=render(".html", escaped=True),
        )


@pytest.mark.parametrize("kind", KINDS)
@given(context=contexts(), locale=st.sampled_from(["en", "hu"]))
def test_says_what_the_templates_say(kind: str, context: dict[str, Any], locale: str) -> None:
    context["locale"] = locale
    if kind == "RECEIPT":
        context["paid"] = context["paid_rows"]

    said = rendering.render(kind, locale=locale, context=context)

    told = by_django(kind, locale, context)
    assert (said.body_text, said.body_html) == (told.body_text, told.body_html)
    assert " ".join(said.subject.split()) == told.subject.strip()


class TestRender:
    context = {"number": "AC-1", "period": "October", "total": "€1.00", "products": []}

    def said(self, **changed: Any) -> rendering.Said:
        return rendering.render("INVOICE", locale="en", context={**self.context, **changed})

    def test_makes_a_page_once_for_all_who_are_told_alike(self) -> None:
        self.said(total="€1.00")
        before = rendering._pages.cache_info()

        assert self.said(total="€2.00").subject == "Invoice AC-1 for October: €2.00"

        after = rendering._pages.cache_info()
        assert (after.misses, after.hits) == (before.misses, before.hits + 1)

    def test_one_and_true_are_not_alike(self) -> None:
        assert "1 more product:" in self.said(more_count=1, more_amount="€9.00").body_text
        assert "True more product:" in self.said(more_count=True, more_amount="€9.00").body_text

    def test_a_text_that_looks_like_a_mark_is_left_alone(self) -> None:
        assert rendering.MARK.format(0) in self.said(number=rendering.MARK.format(0)).body_text

    def test_not_even_among_lines_does_it_take_a_value_s_place(self) -> None:
        details = f"Bank{rendering.MARK.format(0)}\nIBAN"

        said = self.said(has_due=True, asks_to_pay=True, bank_details=details)

        assert "Bank<br>IBAN" in said.body_html

    def test_a_text_that_is_safe_stays_so(self) -> None:
        assert "<b>Ann</b>" in self.said(account_name=SafeString("<b>Ann</b>")).body_html

    def test_words_are_said_in_the_reader_s_language(self) -> None:
        context = {**self.context, "reason": gettext_lazy("The card has expired."), "advice": ""}

        said = rendering.render("PAYMENT_FAILED", locale="hu", context=context)

        assert "The card has expired." not in said.body_text

    def test_what_is_not_formatted_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"1\.5 is not plain"):
            self.said(total=1.5)
