"""
Which code of a decline belongs to which class. Data, not code; see docs/stripe.md.

The codes are Stripe's, which other providers' gateways translate into.
"""

from billing.charge_protocol import DeclineClass

# The provider has the card no more, at whatever phase that was found out.
GONE_AT_THE_PROVIDER = "payment_method_unusable"
# Somebody has cancelled the charge on the provider's own pages, while it waited.
CANCELED_THERE = "canceled_at_the_provider"

CLASSES = {
    DeclineClass.SOFT: (
        "approve_with_id", "call_issuer", "canceled_at_the_provider", "card_declined", "card_velocity_exceeded", "do_not_honor",
        "duplicate_transaction", "generic_decline", "insufficient_funds", "issuer_not_available",
        "no_action_taken", "processing_error", "reenter_transaction", "service_not_allowed",
        "transaction_not_allowed", "try_again_later", "withdrawal_count_limit_exceeded",
    ),
    DeclineClass.NEEDS_CUSTOMER: (
        "authentication_required", "authentication_not_handled", "card_not_supported",
        "currency_not_supported_by_card", "expired_card", "incorrect_address", "incorrect_cvc",
        "incorrect_number", "incorrect_pin", "incorrect_zip", "invalid_cvc", "invalid_expiry_month",
        "invalid_expiry_year", "invalid_number", "invalid_pin", "mobile_device_authentication_required",
        "new_account_information_available", "offline_pin_required", "online_or_offline_pin_required",
        "payment_intent_authentication_failure", "payment_method_missing", "payment_method_unusable",
        "pin_try_exceeded",
    ),
    DeclineClass.STOP: (
        "fraudulent", "invalid_account", "lost_card", "mandate_cancelled", "mandate_expired",
        "merchant_blacklist", "not_permitted", "pickup_card", "previously_declined_do_not_retry", "restricted_card",
        "revocation_of_all_authorizations", "revocation_of_authorization", "security_violation",
        "stolen_card", "stop_payment_order",
    ),
    DeclineClass.OURS: (
        "amount_too_large", "amount_too_small", "currency_not_supported", "invalid_amount",
        "invalid_charge_amount_no_decimal_compatible", "live_mode_test_card", "test_mode_live_card",
        "testmode_decline",
    ),
}  # fmt: skip
BY_CODE = {code: kind for kind, codes in CLASSES.items() for code in codes}
BY_ADVICE = {
    "confirm_card_data": DeclineClass.NEEDS_CUSTOMER,
    "do_not_try_again": DeclineClass.STOP,
    "try_again_later": DeclineClass.SOFT,
}
# A few days are long in a bank's life, an unlisted reason is no reason to give up on a customer; and
# tries are counted.
UNLISTED = DeclineClass.SOFT

DO_NOT_TRY_AGAIN = "do_not_try_again"
# What card networks say in their own codes where the bank gave no advice, by brand.
# Mastercard: 03 do not try again, 21 payment cancelled. Visa: its category 1, "issuer never approves".
NETWORK_SAYS_STOP = {
    ("mastercard", "advice"): frozenset(("03", "21")),
    ("visa", "decline"): frozenset(
        ("04", "07", "12", "14", "15", "41", "43", "46", "57", "R0", "R1", "R3")
    ),
}


def decline_class(code: str, *, advice_code: str = "") -> DeclineClass:
    """
    What to do after a decline with this code, and this advice from the bank.

    A card that expired or wants its holder stays usable once they act, whatever the bank advises; else
    advice that stops wins over a code that does not.
    """
    by_code = BY_CODE.get(code, UNLISTED)
    if by_code is not DeclineClass.SOFT:
        return by_code
    return BY_ADVICE.get(advice_code, by_code)


def advice(
    *, brand: str, advice_code: str, network_advice_code: str, network_decline_code: str
) -> str:
    """The bank's advice; where it gave none, the network's, if that says stop."""
    stops = network_advice_code in NETWORK_SAYS_STOP.get(
        (brand, "advice"), ()
    ) or network_decline_code in NETWORK_SAYS_STOP.get((brand, "decline"), ())
    return advice_code or (DO_NOT_TRY_AGAIN if stops else "")
