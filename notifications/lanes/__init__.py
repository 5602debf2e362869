"""
How fast, and whether at all, the world may be called: one lane per provider and credential.

Between our work and a provider stands its lane: a token bucket, a cap on what is in flight, a circuit
breaker, the provider's own "slow down", and a pause by hand. It knows neither money nor messages; whoever
calls a provider asks this package before it claims work, and tells it afterwards how the answers were.

Lanes say how fast. The doorbell's names (default, charge, email) say which clusters work.
"""

from notifications.lanes.traffic import (
    AlreadyPaused,
    Grant,
    NotPaused,
    Sight,
    Speed,
    end_probe,
    forget_old_tallies,
    give_back,
    grant,
    note_answers,
    note_done,
    pause,
    resume,
    shut_among,
    sight,
    sights,
    speed,
    why_shut,
)

__all__ = [
    "AlreadyPaused",
    "Grant",
    "NotPaused",
    "Sight",
    "Speed",
    "end_probe",
    "forget_old_tallies",
    "give_back",
    "grant",
    "note_answers",
    "note_done",
    "pause",
    "resume",
    "shut_among",
    "sight",
    "sights",
    "speed",
    "why_shut",
]
