"""
What must come of money that is paid, and goes back: a small model of one account, in whole minor units.

It knows nothing of ledgers or rows. Money settles what is owed, oldest first, and what is left is credit; a
refund takes a payment's credit first and costs us the rest; what a bank takes back takes credit first, and
then what the payment had settled, newest first, which is owed again.
"""

from dataclasses import dataclass, field

# Less than that is not charged, but carried to the next invoice.
LEAST = 50


@dataclass(eq=False)
class Credit:
    """Some credit: of a payment, or given by us."""

    left: int
    payment: "Payment | None" = None
    paid_back: int = 0


@dataclass(eq=False)
class Use:
    """So much of a payment, or of credit, has settled that of an invoice."""

    source: "Payment | Credit"
    invoice: int
    left: int


@dataclass(eq=False)
class Refund:
    amount: int
    credit: int
    made_at_provider: bool = False
    is_over: bool = False  # it failed, or its money is here again
    is_succeeded: bool = False


@dataclass(eq=False)
class Payment:
    amount: int
    reversed: int = 0
    disputed: int = 0
    lost: int = 0
    refunds: list[Refund] = field(default_factory=list)

    @property
    def left_to_reverse(self) -> int:
        return self.amount - self.reversed

    @property
    def left_to_refund(self) -> int:
        """A payment is what is left, and was paid back, and went back, and is disputed: always."""
        asked = sum(each.amount for each in self.refunds if not each.is_over)
        return self.amount - self.reversed - self.disputed - asked


class Account:
    """What it owes, by invoice, and the credit it has; and what it has cost us to pay money back."""

    def __init__(self) -> None:
        self.owed: list[int] = []
        self.credits: list[Credit] = []
        self.uses: list[Use] = []
        self.gifts = 0

    @property
    def due(self) -> int:
        return sum(self.owed)

    @property
    def is_chargeable(self) -> bool:
        return self.due >= LEAST

    @property
    def unused(self) -> int:
        return sum(credit.left for credit in self.credits)

    def issue(self, amount: int) -> None:
        self.owed.append(amount)
        self._use_credit()

    def grant(self, amount: int, payment: Payment | None = None) -> None:
        self.credits.append(Credit(amount, payment))
        self._use_credit()

    def receive(self, payment: Payment) -> Payment:
        if surplus := self._settle(payment, payment.amount):
            self.grant(surplus, payment)
        return payment

    def refund(self, payment: Payment, amount: int, *, made_at_provider: bool = False) -> Refund:
        left = amount
        for credit in self._credits_of(payment):
            taken = min(credit.left, left)
            credit.left -= taken
            credit.paid_back += taken
            left -= taken
        self.gifts += left
        made = Refund(amount, amount - left, made_at_provider)
        payment.refunds.append(made)
        return made

    def undo(self, payment: Payment, refund: Refund) -> None:
        """As if it had never been: those made at the provider since take the credit that it had taken."""
        refund.is_over = True
        credit = refund.credit
        for theirs in payment.refunds[payment.refunds.index(refund) + 1 :]:
            if theirs.made_at_provider and not theirs.is_over:
                taken = min(theirs.amount - theirs.credit, credit)
                theirs.credit += taken
                self.gifts -= taken
                credit -= taken
        self.gifts -= refund.amount - refund.credit
        found = self._find_again(payment, credit)
        for each in self._credits_of(payment):
            given_back = min(each.paid_back, credit)
            each.paid_back -= given_back
            credit -= given_back
            gone = min(given_back, found)
            found -= gone
            each.left += given_back - gone
        self._use_credit()

    def send_back(self, payment: Payment, refund: Refund) -> None:
        """By the customer's bank: it is their credit now, but for what went back with the payment."""
        refund.is_over = True
        if theirs := refund.amount - self._find_again(payment, refund.credit):
            self.grant(theirs, payment)

    def reverse(self, payment: Payment, amount: int) -> None:
        payment.reversed += amount
        for credit in self._credits_of(payment):
            taken = min(credit.left, amount)
            credit.left -= taken
            amount -= taken
        of_credit = [use for use in reversed(self.uses) if use.source in self._credits_of(payment)]
        for use in of_credit + [use for use in reversed(self.uses) if use.source is payment]:
            taken = min(use.left, amount)
            use.left -= taken
            self.owed[use.invoice] += taken
            amount -= taken
        payment.lost += amount
        self.gifts += amount
        self._use_credit()

    def _find_again(self, payment: Payment, credit: int) -> int:
        """What had to be counted as lost, because this credit was being paid back: not lost after all."""
        found = min(payment.lost, credit)
        payment.lost -= found
        self.gifts -= found
        return found

    def _credits_of(self, payment: Payment) -> list[Credit]:
        """Newest first."""
        return [credit for credit in reversed(self.credits) if credit.payment is payment]

    def _use_credit(self) -> None:
        for credit in self.credits:
            credit.left = self._settle(credit, credit.left)

    def _settle(self, source: Payment | Credit, amount: int) -> int:
        """The oldest first; what is left over."""
        for invoice, owed in enumerate(self.owed):
            if settled := min(owed, amount):
                self.owed[invoice] -= settled
                amount -= settled
                self.uses.append(Use(source, invoice, settled))
        return amount
