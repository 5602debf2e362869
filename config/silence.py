"""
How a machine that went silent is noticed, from both ends of a connection to PostgreSQL.

A host that loses its power or its network says nothing: its session would keep its row locks for the
two hours that TCP waits by itself, and nobody else could charge those accounts.
"""

from typing import Any

# Of the time after which a silent machine counts as dead, this is waited before the first question.
ASK_AFTER = 1 / 2
# Then so many questions, over the rest of it.
QUESTIONS = 3
# A host that does not answer at all is given up sooner than one that went silent.
CONNECT_SECONDS = 10


def noticed(database: dict[str, Any], *, after_seconds: int, pooled: bool) -> dict[str, Any]:
    """
    Add to a database's OPTIONS what makes a dead peer known after so many seconds.

    What the URL says itself stays. Behind a pooler the server's half is left out: a session there is
    not ours, and pgbouncer refuses to begin one with settings. Then it belongs to the role.
    """
    idle = max(1, int(after_seconds * ASK_AFTER))
    interval = max(1, (after_seconds - idle) // QUESTIONS)
    ours: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": QUESTIONS,
        "tcp_user_timeout": after_seconds * 1000,
    }
    if not pooled:
        theirs = {
            # Lost while we owe the server a statement, and while it owes us an answer.
            "idle_in_transaction_session_timeout": after_seconds * 1000,
            "tcp_keepalives_idle": idle,
            "tcp_keepalives_interval": interval,
            "tcp_keepalives_count": QUESTIONS,
            "tcp_user_timeout": after_seconds * 1000,
            # While it works or waits for a lock it does not read: let it look whether we are there.
            "client_connection_check_interval": idle * 1000,
        }
        ours["options"] = " ".join(f"-c {name}={value}" for name, value in theirs.items())
    return database | {"OPTIONS": {**ours, **database.get("OPTIONS", {})}}
