from notifications.models.lane import Lane
from notifications.models.lane_tally import LaneTally
from notifications.models.message import Message

__all__ = ["Lane", "LaneTally", "Message"]
