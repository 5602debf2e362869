from notifications.models.message import Message

__all__ = ["Message"]
