from accounts.models.account import Account
from accounts.models.billing_entity import RETRIES_MAX, BillingEntity
from accounts.models.charging_pause import ChargingPause
from accounts.models.hold import Hold
from accounts.models.member import Member
from accounts.models.payment_method import PaymentMethod
from accounts.models.sign_in_tries import SignInTries
from accounts.models.timeline_event import TimelineEvent
from accounts.models.user import User

__all__ = [
    "RETRIES_MAX",
    "Account",
    "BillingEntity",
    "ChargingPause",
    "Hold",
    "Member",
    "PaymentMethod",
    "SignInTries",
    "TimelineEvent",
    "User",
]
