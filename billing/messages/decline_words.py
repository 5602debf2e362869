"""Why a card or a direct debit was declined, and what helps, in the customer's words."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import PaymentMethod
from billing.models import PaymentAttempt

_CHECK_FUNDS = _("Please make sure that the card has enough funds, or pay with another card.")
_OTHER_CARD = _("Please add another card, or pay with one.")
_ASK_BANK = _("Please ask your bank about it, or pay with another card.")
_CHECK_DETAILS = _("Please enter the card's details again, or pay with another card.")
_CONFIRM = _("Please sign in and pay; your bank will ask you to confirm it.")
_TRY_AGAIN = _("Please try again and confirm it, or pay with another card.")
_LATER = _("Please try again later, or pay with another card.")
DECLINED = (_("The bank declined the card."), _ASK_BANK)

# By the provider's code. Lost, stolen and suspected cards are only called "declined": whoever holds
# a stolen card must not learn more from us than from the bank.
DECLINES: dict[str, tuple[Promise | str, Promise | str]] = {
    "insufficient_funds": (_("The card did not have enough funds."), _CHECK_FUNDS),
    "card_velocity_exceeded": (_("The card is over its limit."), _CHECK_FUNDS),
    "withdrawal_count_limit_exceeded": (_("The card is over its limit."), _CHECK_FUNDS),
    "expired_card": (_("The card has expired."), _OTHER_CARD),
    "payment_method_missing": (_("The card was removed."), _OTHER_CARD),
    "payment_method_unusable": (_("The card can no longer be charged."), _OTHER_CARD),
    "invalid_account": (_("The card's account no longer exists."), _OTHER_CARD),
    "card_not_supported": (_("The card cannot be used for this kind of payment."), _OTHER_CARD),
    "currency_not_supported": (_("The card cannot pay in this currency."), _OTHER_CARD),
    "incorrect_number": (_("The card's details are not right."), _CHECK_DETAILS),
    "incorrect_cvc": (_("The card's details are not right."), _CHECK_DETAILS),
    "invalid_cvc": (_("The card's details are not right."), _CHECK_DETAILS),
    "authentication_required": (_("Your bank wants you to confirm the payment."), _CONFIRM),
    "payment_intent_authentication_failure": (
        _("The payment was not confirmed with your bank."),
        _TRY_AGAIN,
    ),
    "canceled_at_the_provider": (
        _("The payment was cancelled before it was made."),
        _("Please sign in and pay, or wait until we try again."),
    ),
    "processing_error": (_("The bank could not process the payment."), _LATER),
    "issuer_not_available": (_("The bank could not be reached."), _LATER),
    "try_again_later": (_("The bank could not process the payment."), _LATER),
}


DEBIT_DECLINED = (
    _("The bank did not pay."),
    _("Please ask your bank about it, or pay with a card."),
)


_OTHER_MANDATE = _("Please set up another direct debit, or pay with a card.")

# The same for direct debits, where a card's words would be wrong.
DEBIT_DECLINES: dict[str, tuple[Promise | str, Promise | str]] = {
    "insufficient_funds": (
        _("The bank account did not have enough money."),
        _("Please make sure that it has, or pay with a card."),
    ),
    "mandate_cancelled": (_("The direct debit mandate was withdrawn."), _OTHER_MANDATE),
    "mandate_expired": (_("The direct debit mandate has expired."), _OTHER_MANDATE),
    "payment_method_missing": (_("The direct debit was removed."), _OTHER_MANDATE),
    "returned_by_bank": (_("The bank has taken the payment back."), _OTHER_MANDATE),
}


def decline_in_words(attempt: PaymentAttempt) -> tuple[Promise | str, Promise | str]:
    """Why an attempt was declined, and what helps, for the customer."""
    if attempt.payment_method.is_mandate:
        reason, advice = DEBIT_DECLINES.get(attempt.decline_code, DEBIT_DECLINED)
    else:
        reason, advice = DECLINES.get(attempt.decline_code, DECLINED)
    is_there = attempt.payment_method.state == PaymentMethod.State.ACTIVE
    return reason, advice if is_there else needs_another(attempt)


def needs_another(attempt: PaymentAttempt) -> Promise | str:
    """What helps where the card or mandate of a declined attempt cannot be charged any more, whatever its bank said."""
    return _OTHER_MANDATE if attempt.payment_method.is_mandate else _OTHER_CARD
