"""What a decline means for what we do next."""

import pytest

from billing.charge_protocol import DeclineClass
from billing.gateways.declines import BY_CODE, CLASSES, advice, decline_class


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("insufficient_funds", DeclineClass.SOFT),
        ("generic_decline", DeclineClass.SOFT),
        ("do_not_honor", DeclineClass.SOFT),
        ("authentication_required", DeclineClass.NEEDS_CUSTOMER),
        ("expired_card", DeclineClass.NEEDS_CUSTOMER),
        ("payment_method_unusable", DeclineClass.NEEDS_CUSTOMER),
        ("stolen_card", DeclineClass.STOP),
        ("fraudulent", DeclineClass.STOP),
        ("revocation_of_all_authorizations", DeclineClass.STOP),
        ("amount_too_small", DeclineClass.OURS),
        ("a_code_of_next_year", DeclineClass.SOFT),
    ],
)
def test_a_code_has_a_class(code, kind):
    assert decline_class(code) is kind


@pytest.mark.parametrize(
    ("advice_code", "kind"),
    [
        ("", DeclineClass.SOFT),
        ("try_again_later", DeclineClass.SOFT),
        ("confirm_card_data", DeclineClass.NEEDS_CUSTOMER),
        ("do_not_try_again", DeclineClass.STOP),
        ("advice_of_next_year", DeclineClass.SOFT),
    ],
)
@pytest.mark.parametrize("code", ["generic_decline", "a_code_of_next_year"])
def test_advice_goes_before_a_code_that_merely_says_no(code, advice_code, kind):
    assert decline_class(code, advice_code=advice_code) is kind


@pytest.mark.parametrize("code", ["expired_card", "stolen_card", "amount_too_small"])
@pytest.mark.parametrize("advice_code", ["do_not_try_again", "try_again_later"])
def test_advice_never_softens_or_hardens_a_code_that_says_why(code, advice_code):
    assert decline_class(code, advice_code=advice_code) is decline_class(code)


def test_every_class_has_codes():
    assert set(CLASSES) == set(DeclineClass)


def test_no_code_stands_in_two_classes():
    assert len(BY_CODE) == sum(len(codes) for codes in CLASSES.values())


@pytest.mark.parametrize(
    ("brand", "network_advice", "network_decline", "says"),
    [
        ("mastercard", "03", "", "do_not_try_again"),
        ("mastercard", "21", "", "do_not_try_again"),
        ("mastercard", "02", "", ""),
        ("visa", "03", "", ""),
        ("visa", "", "R1", "do_not_try_again"),
        ("visa", "", "51", ""),
        ("mastercard", "", "R1", ""),
        ("", "03", "R1", ""),
    ],
)
def test_a_network_that_says_stop_is_heard(brand, network_advice, network_decline, says):
    heard = advice(
        brand=brand,
        advice_code="",
        network_advice_code=network_advice,
        network_decline_code=network_decline,
    )

    assert heard == says


def test_the_banks_own_advice_goes_first():
    heard = advice(
        brand="visa",
        advice_code="try_again_later",
        network_advice_code="",
        network_decline_code="41",
    )

    assert heard == "try_again_later"
