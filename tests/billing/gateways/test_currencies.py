"""Amounts on their way to Stripe and back: nothing is lost, nothing is a hundred times too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moneyed import CURRENCIES

from billing.gateways.standins.fakestripe import currencies as provider
from billing.gateways.stripe_currencies import (
    MINIMUM_MINOR,
    REFUSED,
    NotChargeable,
    chargeable_minor,
    from_provider,
    to_provider,
)

CHARGED = sorted(set(CURRENCIES) - REFUSED)
amounts = st.integers(min_value=0, max_value=10**12)


@given(amount_minor=amounts, currency=st.sampled_from(CHARGED))
def test_what_is_chargeable_comes_back_as_it_went(amount_minor, currency):
    charged = chargeable_minor(amount_minor, currency)

    assert from_provider(to_provider(charged, currency), currency.lower()) == charged


@given(amount_minor=amounts, currency=st.sampled_from(CHARGED))
def test_what_stays_due_is_less_than_a_step(amount_minor, currency):
    charged = chargeable_minor(amount_minor, currency)

    assert 0 <= amount_minor - charged < 100
    assert chargeable_minor(charged, currency) == charged


@given(amount_minor=amounts, currency=st.sampled_from(CHARGED))
def test_only_what_is_chargeable_is_sent(amount_minor, currency):
    if chargeable_minor(amount_minor, currency) == amount_minor:
        assert to_provider(amount_minor, currency) >= 0
    else:
        with pytest.raises(NotChargeable, match="finer"):
            to_provider(amount_minor, currency)


@pytest.mark.parametrize(
    ("amount_minor", "currency", "sent"),
    [
        (1234, "EUR", 1234),
        (1234, "JPY", 1234),
        (5120, "KWD", 5120),
        (1234, "ISK", 123_400),
        (123_400, "MGA", 1234),
        (1234, "HUF", 1234),
        (1234, "TWD", 1234),
    ],
)
def test_is_sent_as_stripe_counts(amount_minor, currency, sent):
    assert to_provider(amount_minor, currency) == sent


@pytest.mark.parametrize(
    ("due_minor", "currency", "charged_minor"),
    [
        (5124, "KWD", 5120),
        (5129, "TND", 5120),
        (9, "BHD", 0),
        (1299, "MGA", 1200),
        (15, "ISK", 15),
        (1, "EUR", 1),
    ],
)
def test_is_rounded_down_and_the_rest_stays_due(due_minor, currency, charged_minor):
    assert chargeable_minor(due_minor, currency) == charged_minor


@pytest.mark.parametrize("currency", sorted(REFUSED))
def test_a_refused_currency_goes_neither_way(currency):
    with pytest.raises(NotChargeable, match="not charged"):
        to_provider(chargeable_minor(12_345, currency), currency)
    with pytest.raises(NotChargeable, match="not charged"):
        from_provider(12_300, currency.lower())


def test_an_amount_that_our_books_cannot_hold_is_not_guessed():
    with pytest.raises(NotChargeable, match="finer than ISK"):
        from_provider(12_345, "isk")


@pytest.mark.parametrize("currency", sorted(MINIMUM_MINOR))
def test_the_least_amount_can_be_charged(currency):
    least = MINIMUM_MINOR[currency]

    assert chargeable_minor(least, currency) == least
    provider.check_amount(to_provider(least, currency), currency.lower())


@pytest.mark.parametrize("currency", sorted(provider.MINIMUM))
def test_the_provider_process_has_the_same_least_amounts(currency):
    assert (
        to_provider(MINIMUM_MINOR[currency.upper()], currency.upper())
        == (provider.MINIMUM[currency])
    )
