"""Why nothing was charged: each carries what was seen under the lock."""

from billing.ledger import Standing
from billing.models import PaymentAttempt


class CannotCollect(Exception):
    """Nothing was charged, and why. Carries what was seen under the lock."""

    def __init__(self, because: str, *, standing: Standing) -> None:
        super().__init__(because)
        self.because = because
        self.standing = standing


class NothingDue(CannotCollect):
    """The account owes nothing, or less than the gateway charges."""


class NoPaymentMethod(CannotCollect):
    """The account has no card, or one that has expired or is blocked."""


class BalanceChanged(CannotCollect):
    """What is due is not what was expected, and the run's policy is not to charge then."""


class GatewayClosed(CannotCollect):
    """
    Nothing is charged through this gateway now, whoever's card it is: our database may have lost charges.

    Of one account that is not charged: AccountPaused. See guard.py.
    """


class AccountPaused(CannotCollect):
    """
    This account is not charged by itself now, as after a dispute; its customer may pay.

    Of a gateway that charges nobody: GatewayClosed. See accounts/pauses.py.
    """


class AccountClosed(CannotCollect):
    """This account was closed (billing/closure/): nothing is charged of it by itself; its customer may pay."""


class AttemptInFlight(CannotCollect):
    """Another attempt of this account has not come to its end."""

    def __init__(self, because: str, *, standing: Standing, attempt: PaymentAttempt) -> None:
        super().__init__(because, standing=standing)
        self.attempt = attempt
