"""The clock of lanes is the database's: one for all hosts, however theirs go."""

from accounts.clock import now

__all__ = ["now"]
