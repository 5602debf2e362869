from notifications.models.dispatched import Dispatched
from notifications.models.lane import Lane
from notifications.models.lane_tally import LaneTally
from notifications.models.message import Message

__all__ = ["Dispatched", "Lane", "LaneTally", "Message"]
