"""Stripe's test cards: how each looks and what its bank does."""

from dataclasses import dataclass
from typing import Literal

from billing.gateways.standins.fakestripe.errors import Object


@dataclass(frozen=True)
class Decline:
    """A bank's no, as Stripe words it."""

    code: str
    decline_code: str
    advice_code: str = "try_again_later"
    network_decline_code: str = "05"

    def error(self) -> Object:
        """The error that a caller reads, there and in `last_payment_error`."""
        words = {
            "expired_card": "Your card has expired.",
            "incorrect_cvc": "Your card's security code is incorrect.",
            "processing_error": "An error occurred while processing your card. Try again later.",
            "authentication_required": "Your card was declined. This transaction requires authentication.",
            "insufficient_funds": "Your card has insufficient funds.",
        }
        return {
            "type": "card_error",
            "code": self.code,
            "decline_code": self.decline_code,
            "advice_code": self.advice_code or None,
            "network_decline_code": self.network_decline_code or None,
            "doc_url": f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}",
            "message": words.get(self.decline_code, "Your card was declined."),
        }


@dataclass(frozen=True)
class Card:
    """A test card; its tokens are `pm_card_<name>` and `tok_<name>`."""

    name: str
    number: str
    brand: str = "visa"
    decline: Decline | None = None
    # Most declining cards already decline when they are saved; some wait for the first charge.
    can_be_saved: bool = True
    # When the bank wants to see the customer: for every payment, until it was set up for later
    # payments, or only while the customer is there.
    authenticates: Literal["", "always", "until_set_up", "on_session"] = ""
    refunds: Literal["at_once", "fail_later", "succeed_later", "pend_then_fail"] = "at_once"
    is_disputed: bool = False
    available_at_once: bool = False

    def wants_customer(self, *, off_session: bool, set_up: bool) -> bool:
        """Whether the bank wants 3-D Secure for this payment."""
        if self.authenticates == "until_set_up":
            return not (off_session and set_up)
        return self.authenticates == "always" or (
            self.authenticates == "on_session" and not off_session
        )


AUTHENTICATION_REQUIRED = Decline(
    "authentication_required", "authentication_required", "confirm_card_data", "1A"
)
FAILED_AUTHENTICATION: Object = {
    "type": "invalid_request_error",
    "code": "payment_intent_authentication_failure",
    "message": (
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data"
        " or a new PaymentMethod to attempt to fulfill this PaymentIntent again."
    ),
}
INSUFFICIENT = Decline("card_declined", "insufficient_funds", network_decline_code="51")
GENERIC = Decline("card_declined", "generic_decline")


def _declining(name: str, number: str, decline: Decline) -> Card:
    return Card(name, number, decline=decline, can_be_saved=False)


CARDS = (
    Card("visa", "4242424242424242"),
    Card("visa_debit", "4000056655665556"),
    Card("mastercard", "5555555555554444", "mastercard"),
    Card("amex", "378282246310005", "amex"),
    _declining("visa_chargeDeclined", "4000000000000002", GENERIC),
    _declining("visa_chargeDeclinedInsufficientFunds", "4000000000009995", INSUFFICIENT),
    _declining(
        "visa_chargeDeclinedLostCard",
        "4000000000009987",
        Decline("card_declined", "lost_card", "do_not_try_again", "41"),
    ),
    _declining(
        "visa_chargeDeclinedStolenCard",
        "4000000000009979",
        Decline("card_declined", "stolen_card", "do_not_try_again", "43"),
    ),
    _declining(
        "visa_chargeDeclinedVelocityLimitExceeded",
        "4000000000006975",
        Decline("card_declined", "card_velocity_exceeded", network_decline_code="61"),
    ),
    _declining(
        "visa_chargeDeclinedFraudulent",
        "4100000000000019",
        Decline("card_declined", "fraudulent", "do_not_try_again", ""),
    ),
    _declining(
        "chargeDeclinedExpiredCard",
        "4000000000000069",
        Decline("expired_card", "expired_card", "do_not_try_again", "54"),
    ),
    _declining(
        "chargeDeclinedIncorrectCvc",
        "4000000000000127",
        Decline("incorrect_cvc", "incorrect_cvc", "confirm_card_data", "N7"),
    ),
    _declining(
        "chargeDeclinedProcessingError",
        "4000000000000119",
        Decline("processing_error", "processing_error", network_decline_code="96"),
    ),
    Card("chargeCustomerFail", "4000000000000341", decline=GENERIC),
    Card("authenticationRequiredOnSetup", "4000002500003155", authenticates="until_set_up"),
    Card("authenticationRequired", "4000002760003184", authenticates="always"),
    Card(
        "authenticationRequiredSetupForOffSession", "4000003800000446", authenticates="on_session"
    ),
    Card(
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        "4000008260003178",
        decline=INSUFFICIENT,
        authenticates="always",
    ),
    Card("refundFail", "4000000000005126", refunds="fail_later"),
    Card("pendingRefund", "4000000000007726", refunds="succeed_later"),
    # Ours: Stripe has no test card whose refund is pending and fails.
    Card("pendingRefundFail", "4000000000007734", refunds="pend_then_fail"),
    Card("createDispute", "4000000000000259", is_disputed=True),
    Card("bypassPending", "4000000000000077", available_at_once=True),
)
BY_NUMBER = {card.number: card for card in CARDS}
BY_NAME = {card.name: card for card in CARDS}
# Names that tokens go by beside their own.
ALIASES = {
    "chargeDeclined": "visa_chargeDeclined",
    "chargeDeclinedInsufficientFunds": "visa_chargeDeclinedInsufficientFunds",
    "chargeDeclinedFraudulent": "visa_chargeDeclinedFraudulent",
    "visa_chargeDeclinedExpiredCard": "chargeDeclinedExpiredCard",
    "visa_chargeDeclinedIncorrectCvc": "chargeDeclinedIncorrectCvc",
    "visa_chargeDeclinedProcessingError": "chargeDeclinedProcessingError",
    "visa_authenticationRequired": "authenticationRequired",
}


def named(name: str) -> Card | None:
    """The card of a token, without its `pm_card_` or `tok_`."""
    return BY_NAME.get(ALIASES.get(name, name))
