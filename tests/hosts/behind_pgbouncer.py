"""
`python -m tests.hosts.behind_pgbouncer`: a close through pgbouncer in transaction mode, a worker killed, a
host cut off with a row lock.

There are fewer sessions than clients, so that each transaction may meet any of them. Every statement is
logged, and those that need a session of their own are violations.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.__main__ import (
    BEATS,
    PACKAGES,
    at,
    finished,
    hold_a_lock,
    keep_sweeping,
    play,
    read_options,
    say,
    tell,
    undisturbed,
    wrong_with,
)
from tests.hosts.network import CannotRun, tail
from tests.hosts.postgres import PORT, SUPERUSER
from tests.hosts.stage import DATABASE, MANAGE, ROOT, Stage, wait_for

PROGRAMS = ("ip", "ss", "setpriv", "pgbouncer")
PORT_OF_POOLER = 6432
SESSIONS = 4
KILL_AT = 0.1
OLDEST = (1, 18)

# Transactions in which nobody says anything: ours say something at once.
FORGOTTEN = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = 'pooled' AND state = 'idle in transaction' AND now() - state_change > interval '1 s'
"""

# At the beginning of a line of the server's log: whose session it is.
PREFIX = "[%d] "
STATEMENT = re.compile(
    r"^\[pooled\] LOG:  (?:statement|execute [^:]+): (?P<statement>.*)", re.DOTALL
)
NEEDS_A_SESSION = {
    "a lock of the session": r"\bpg_(try_)?advisory_(lock|unlock)",
    # pgbouncer gives each client its own TimeZone back, wherever its next transaction is: `SET TimeZone=`.
    "a setting of the session": r"^\s*SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b|TimeZone=)",
    "a setting of the session, by function": r"\bset_config\((?!'TimeZone')[^)]*\bfalse\)",
    "a temporary table of the session": r"\bCREATE\s+(GLOBAL\s+|LOCAL\s+)?TEMP(ORARY)?\b(?!.*ON COMMIT DROP)",
    "a cursor of the session": r"\bDECLARE\b.*\bWITH HOLD\b",
    "a prepared statement": r"^\s*(PREPARE|DEALLOCATE)\s+(?!TRANSACTION)",
    "a channel": r"^\s*(LISTEN|UNLISTEN)\b",
}


def main() -> int:
    return play(
        pooled_and_undisturbed,
        read_options(accounts=200, latency_ms=50),
        require_also=require_version,
        programs=PROGRAMS,
        packages=f"{PACKAGES} pgbouncer",
        log_statement="all",
        log_line_prefix=PREFIX,
    )


def require_version() -> None:
    """:raises CannotRun: where the pgbouncer is too old."""
    said = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise CannotRun(f"pgbouncer 1.18 or newer is needed, this says {said.splitlines()[:1]}")


def pooled_and_undisturbed(stage: Stage, options: argparse.Namespace) -> int:
    report: dict[str, Any] = {"seed": options.seed, "accounts": options.accounts}
    if not options.no_comparison:
        report["undisturbed"] = undisturbed(stage, options)
    report["events"], report["disturbed"] = pooled(stage, options)
    report["statements"], needing = needing_a_session(stage.postgres.log)
    for name, value in report["events"].items():
        print(f"  {name}: {value}")
    print(f"  statements looked at: {report['statements']}")
    return tell(report, [*needing, *wrong_with(report)], options)


def pooled(stage: Stage, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two hosts whose every query goes through pgbouncer; a worker of one is killed."""
    stage.create("pooled")
    stage.postgres.ask(
        f"ALTER ROLE {SUPERUSER} SET idle_in_transaction_session_timeout = '{options.dead_after}s'"
    )
    start_pooler(stage)
    refused = what_is_said_without_the_setting(stage)
    stage.start_provider(latency_ms=options.latency_ms)
    for number, name in enumerate(("one", "other"), start=11):
        stage.add_worker(name, number)
        stage.start_cluster(name)
    keep_sweeping(stage)
    for name in ("one", "other"):
        wait_for(lambda name=name: stage.ask(BEATS, name)[0][0], f"{name} lives")
    stage.act(DATABASE, "start", pooled=True)

    at(stage, KILL_AT)
    clients = clients_of(stage)
    [victim, *_] = workers(stage, "one")
    victim.kill()
    say(f"killed: worker {victim.pid} of a cluster, which is started again")
    hold_a_lock(stage, "other")
    stage.network.cut_off("other")
    cut_at = time.monotonic()
    wait_for(lambda: stage.ask(FORGOTTEN)[0][0], "a row lock that is held")
    wait_for(lambda: not stage.ask(FORGOTTEN)[0][0], "the row lock of a vanished client is free")
    freed = time.monotonic() - cut_at
    stage.network.bring_back("other")
    say(f"cut off: a host that held a row lock, which was free after {freed:.1f} s")
    finished(stage)
    told = stage.judge(options.seed, options.accounts)
    say(f"behind pgbouncer: {told['seconds']:.0f} s, {len(told['violations'])} violations")
    restarts = stage.log("one", "cluster").read_text().count("starting it again")
    events = {
        "without DATABASE_POOLED": refused,
        "clients of pgbouncer": clients,
        "sessions at the server at most": SESSIONS,
        "cluster started again": restarts,
        "row lock of a vanished client free after seconds": round(freed, 1),
    }
    return events, told


def start_pooler(stage: Stage) -> None:
    """pgbouncer on the database host; from now on it is what DATABASE_URL names."""
    address = stage.network.addresses[DATABASE]
    users, settings = stage.place / "users.txt", stage.place / "pgbouncer.ini"
    users.write_text(f'"{SUPERUSER}" ""\n')
    settings.write_text(
        f"""
[databases]
* = host={address} port={PORT}
[pgbouncer]
listen_addr = {address}
listen_port = {PORT_OF_POOLER}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 200
tcp_keepalive = 1
tcp_keepidle = {stage.dead_after // 2}
tcp_keepintvl = 1
tcp_keepcnt = 3
"""
    )
    stage.start(DATABASE, "pgbouncer", stage.postgres.as_its_account("pgbouncer", str(settings)))
    stage.pooler_port = PORT_OF_POOLER
    log = stage.log(DATABASE, "pgbouncer")
    wait_for(lambda: "listening on" in tail(log), f"pgbouncer listens: {tail(log)}", seconds=20)


def what_is_said_without_the_setting(stage: Stage) -> str:
    """The last word of a command that takes pgbouncer for PostgreSQL."""
    command = [*stage.network.inside(DATABASE), *MANAGE, "check", "--database", "default"]
    env = {**stage.environment(DATABASE, pooled=True), "DATABASE_POOLED": "false"}
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert said.returncode, (
        "pgbouncer takes settings of a session: it may not be in transaction mode"
    )
    return said.stderr.strip().splitlines()[-1]


def clients_of(stage: Stage) -> int:
    """How many connections the hosts have to it."""
    asked = [*stage.network.inside(DATABASE), "ss", "-Htn", "state", "established"]
    listed = subprocess.run(
        [*asked, f"sport = :{PORT_OF_POOLER}"], check=True, capture_output=True, text=True
    )
    return len(listed.stdout.splitlines())


def workers(stage: Stage, host: str) -> list[psutil.Process]:
    """supervisor → main → sentinel → workers, monitor, pusher, forked in that order."""
    supervisor = stage.of_host[host][-1]
    main_process = supervisor.children()[0]
    sentinel = main_process.children()[0]
    return sorted(sentinel.children(), key=lambda child: child.create_time())[:2]


def needing_a_session(log: Path) -> tuple[int, list[str]]:
    """How many statements came through pgbouncer, and those that it cannot carry."""
    statements = [
        found["statement"]
        for entry in re.split(r"\n(?=\[)", log.read_text(errors="replace"))
        if (found := STATEMENT.match(entry))
    ]
    return len(statements), [
        f"needs {what}: {statement[:200]}"
        for statement in dict.fromkeys(statements)
        for what, pattern in NEEDS_A_SESSION.items()
        if re.search(pattern, statement, re.IGNORECASE | re.DOTALL)
    ]


if __name__ == "__main__":
    sys.exit(main())
