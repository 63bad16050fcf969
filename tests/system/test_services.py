"""
The verbs for services: ps, start NAME, stop NAME, kill, add, remove. By the command line, and by
the control socket, which any script may use.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from typing import Any, Iterator

import pytest

from clients import say
from echod import Echod, read_to_end, seconds
from launching import NOBODY, refuses
from procfs import Process, lock_holder, wait_until

ONE_LINE = r"echod: [^\n]+\n"


def line(echod: Echod, **keys: Any) -> str:
    """The service on the daemon's port: one worker, any number of lines."""
    return echod.service(**{"workers": 1, "max_lines": 0, **keys})


def serve(echod: Echod, *services: str, **settings: Any) -> None:
    """Write the configuration and start."""
    echod.configure(*services, **settings)
    echod.start()


@pytest.fixture
def both(echod: Echod) -> Echod:
    """A daemon with a line service of two workers and a program."""
    serve(echod, line(echod, workers=2), echod.program("sensor", echod.sleeper, 1000))
    echod.await_program("sensor")
    return echod


def stubborn(echod: Echod, timeout: float = 0.5, name: str = "stubborn") -> str:
    """A program that ends by SIGKILL only; it says "ready" when it is deaf."""
    script = echod.script("deaf", f"trap '' TERM; echo ready; exec {echod.sleeper} 1000\n")
    return echod.program(name, script, stop_timeout=timeout)


def pids(echod: Echod, service: str | None = None) -> list[int]:
    return [row["pid"] for row in echod.ps(service)]


class Order:
    """A verb under way: sent over the control socket at once, its answer read when asked for."""

    def __init__(self, echod: Echod, verb: str, *args: str, **more: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds(20))
        self.socket.connect(str(echod.control))
        self.socket.sendall(json.dumps({"verb": verb, "args": args, **more}).encode() + b"\n")

    def answered(self) -> bool:
        """Is there an answer already?"""
        return bool(select.select([self.socket], [], [], 0)[0])

    def answer(self) -> dict[str, Any]:
        with self.socket:
            return json.loads(read_to_end(self.socket))


class Frozen:
    """
    with Frozen(echod): the supervisor takes nothing; what it is sent meanwhile, it finds all at
    once. So orders come in the order in which they are given, and none of them is done before the
    next one.
    """

    def __init__(self, echod: Echod) -> None:
        self.echod = echod

    def __enter__(self) -> None:
        self.echod.signal(signal.SIGSTOP)
        wait_until(lambda: self.echod.supervisor.state == "T", seconds(5))

    def __exit__(self, *error: object) -> None:
        self.echod.signal(signal.SIGCONT)


# ---- ps -----------------------------------------------------------------------------------------

def test_ps_lists_every_process(both: Echod) -> None:
    """A table for people: a row for each, in the order of the file."""
    done = both.tell("ps")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["NAME", "PID", "KIND", "STATE", "SINCE", "RESTARTS", "CONNS", "REQ/S",
                              "CPU", "MEMORY"]
    assert [row.split()[:4] for row in rows] == [
        ["line/0", str(both.row("line/0")["pid"]), "worker", "running"],
        ["line/1", str(both.row("line/1")["pid"]), "worker", "running"],
        ["sensor", str(both.row("sensor")["pid"]), "program", "running"]]
    assert rows[2].split()[5:8] == ["0", "-", "-"], "a program has no connections"
    assert done.stderr == ""
    assert both.tell("ps", "-q").stdout == "line\nsensor\n"


def test_ps_json(both: Echod) -> None:
    """One line; every key; each value is what /proc says."""
    done = both.tell("ps", "--json")
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    assert answer["ok"] is True and answer["schema"] == 1
    assert [row["name"] for row in answer["services"]] == ["line/0", "line/1", "sensor"]
    for row in answer["services"]:
        assert row.keys() == {"name", "service", "kind", "pid", "state", "since", "seconds",
                              "restarts", "generation", "connections", "requests_per_second",
                              "cpu_seconds", "memory", "text"}
        program = row["name"] == "sensor"
        assert row["service"] == ("sensor" if program else "line")
        assert row["kind"] == ("program" if program else "worker")
        process = Process(row["pid"])
        assert process.cmdline[0] == str(both.sleeper) if program else process.ppid == both.pid
        assert (row["state"], row["restarts"], row["generation"]) == ("running", 0, 1)
        assert 0 <= row["seconds"] < seconds(60)
        resident = int(process.status["VmRSS"].split()[0]) * 1024
        assert resident / 2 < row["memory"] < resident * 2
        assert 0 <= row["cpu_seconds"] < 5
        assert row["connections"] == (None if program else 0)
        assert row["text"] is None


def test_ps_counts_connections_and_requests(echod: Echod) -> None:
    """Of each worker, while they are there."""
    serve(echod, line(echod))
    with echod.connect() as one, echod.connect() as two:
        say(one)
        say(two)
        assert echod.row("line/0")["connections"] == 2
    echod.await_ps("line/0", connections=0)


def test_ps_adds_up_what_a_program_and_its_children_use(echod: Echod) -> None:
    """Processor time and memory, also of those in sessions of their own."""
    script = echod.script("program", "setsid sh -c 'x=$(head -c 20000000 /dev/zero | tr \"\\0\" x);"
                                     f" echo big; {echod.sleeper} 1000' &\n"
                                     f"exec {echod.sleeper} 1000\n")
    serve(echod, echod.program("p", script))
    echod.await_log(r"p\[\d+\]: big")
    row = echod.row("p")
    alone = int(Process(row["pid"]).status["VmRSS"].split()[0]) * 1024
    assert row["memory"] > alone + 15_000_000
    assert row["cpu_seconds"] >= 0.01


def test_ps_says_since_when(echod: Echod) -> None:
    """The age is that of the state, and a successor begins anew."""
    serve(echod, line(echod))
    wait_until(lambda: echod.row("line/0")["seconds"] >= 1, seconds(5))
    echod.tell("kill", "line")
    row = echod.await_ps("line/0", state="running", restarts=1)
    assert row["seconds"] < 1


def test_ps_shows_who_retires(echod: Echod) -> None:
    """After a restart: the former worker as long as it has a client, and the new one."""
    serve(echod, line(echod))
    with echod.connect() as client:
        say(client)
        echod.restart()
        assert sorted((row["name"], row["state"], row["generation"]) for row in echod.ps()) == [
            ("line/0", "retiring", 1), ("line/0", "running", 2)]
        say(client)
    wait_until(lambda: len(echod.ps()) == 1, seconds(5))


# ---- stop NAME ----------------------------------------------------------------------------------

def test_stop_waits_until_processes_and_port_are_gone(both: Echod) -> None:
    """When the verb returns: no process, a closed port; the other services never notice."""
    workers = [Process(pid) for pid in pids(both, "line")]
    assert both.tell("stop", "line").stdout == "echod: line is stopped\n"
    assert [w for w in workers if w.alive] == []
    assert refuses(both)
    assert [(row["state"], row["pid"]) for row in both.ps("line")] == [("stopped", None)] * 2
    assert both.row("sensor")["restarts"] == 0

    sensor = both.await_program("sensor")
    both.tell("stop", "sensor")
    assert not sensor.alive
    assert both.row("sensor")["state"] == "stopped"
    assert both.status()["state"] == "serving"
    states = {s["name"]: s["state"] for s in both.status()["services"]}
    assert states == {"line": "stopped", "sensor": "stopped"}


def test_stop_is_no_error_when_stopped(both: Echod) -> None:
    for _ in range(2):
        assert both.tell("stop", "line").stdout == "echod: line is stopped\n"


def test_stop_is_polite(echod: Echod) -> None:
    """A begun line is answered, an idle client gets a FIN, a new one is refused."""
    serve(echod, line(echod))
    with echod.connect() as busy, echod.connect() as idle:
        say(busy)
        say(idle)
        busy.sendall(b"begun, ")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 21, seconds(5))
        order = Order(echod, "stop", "line")
        assert idle.recv(1) == b"", "in order, not by a reset"
        wait_until(lambda: refuses(echod), seconds(5))
        assert not order.answered(), "it waits for who is busy"
        assert echod.row("line/0")["state"] == "draining"
        busy.sendall(b"ended\n")
        assert read_to_end(busy) == b"begun, ended\n"
    assert order.answer() == {"ok": True, "schema": 1, "text": "line is stopped"}


def test_stop_waits_for_clients_no_longer_than_drain_timeout(echod: Echod) -> None:
    serve(echod, line(echod), drain_timeout=0.4)
    with echod.connect() as client:
        client.sendall(b"half")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 4, seconds(5))
        begun = time.monotonic()
        echod.tell("stop", "line")
        assert 0.3 < time.monotonic() - begun < seconds(3)
        assert client.recv(10) == b""


def test_stop_ends_those_who_retire_too(echod: Echod) -> None:
    """Workers that a restart left behind serve the same clients."""
    serve(echod, line(echod))
    with echod.connect() as client:
        say(client)
        echod.restart()
        [retiring] = [row["pid"] for row in echod.ps() if row["state"] == "retiring"]
        order = Order(echod, "stop", "line")
        assert client.recv(1) == b""
    assert order.answer()["ok"]
    assert not Process(retiring).alive


def test_stop_has_a_limit_for_who_waits(echod: Echod) -> None:
    """-T ends the waiting, not the stop."""
    serve(echod, stubborn(echod, timeout=1.5))
    echod.await_log(r"stubborn\[\d+\]: ready")
    done = echod.tell("stop", "-T", "0.2", "stubborn", expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr) and "0.2" in done.stderr
    assert echod.row("stubborn")["state"] == "draining"
    echod.await_ps("stubborn", state="stopped")


def test_stop_whose_client_goes_away_is_obeyed(echod: Echod) -> None:
    serve(echod, line(echod), stubborn(echod))
    echod.await_log(r"stubborn\[\d+\]: ready")
    Order(echod, "stop", "stubborn").socket.close()
    echod.await_ps("stubborn", state="stopped")
    echod.assert_serves()


def test_two_stops_at_once(echod: Echod) -> None:
    """Both wait for the same end."""
    serve(echod, stubborn(echod))
    echod.await_log(r"stubborn\[\d+\]: ready")
    with Frozen(echod):
        orders = [Order(echod, "stop", "stubborn") for _ in range(2)]
    assert [order.answer()["ok"] for order in orders] == [True, True]
    assert echod.sleepers() == []


def test_all_stopped_the_daemon_goes_on(both: Echod) -> None:
    """It waits for orders; everything can come back, also over a restart."""
    both.tell("stop", "line")
    both.tell("stop", "sensor")
    both.restart()
    assert {row["state"] for row in both.ps()} == {"stopped"}
    both.tell("start", "sensor")
    both.tell("start", "line")
    both.assert_serves()


# ---- How long it stays stopped ------------------------------------------------------------------

def test_stopped_stays_stopped_over_a_restart_in_place(both: Echod) -> None:
    """Also when its settings change meanwhile; these count when it is started."""
    both.tell("stop", "line")
    both.tell("stop", "sensor")
    both.configure(line(both, workers=1, max_lines=2),
                   both.program("sensor", both.sleeper, 2000),
                   both.program("c", both.sleeper, 3000))
    for _ in range(2):
        both.restart()
        assert refuses(both)
        assert [(row["name"], row["state"]) for row in both.ps()] == [
            ("line/0", "stopped"), ("sensor", "stopped"), ("c", "running")]
    both.tell("start", "line")
    assert both.echo(b"1\n2\n3\n") == b"1\n2\n"
    both.tell("start", "sensor")
    assert both.sleepers("2000") and not both.sleepers("1000")


def test_stopped_stays_stopped_over_a_crash(both: Echod) -> None:
    """The next start says so, and that it ends with `start`; the others are served."""
    both.tell("stop", "line")
    assert both.stopped.read_text() == "line\n"
    both.signal(signal.SIGKILL)
    both.await_end()
    both.start()
    both.await_log("service line was stopped by order before the daemon died: "
                   "it stays stopped until 'echod start line'")
    assert refuses(both)
    assert {row["state"] for row in both.ps("line")} == {"stopped"}
    both.await_program("sensor")
    both.tell("start", "line")
    both.assert_serves()
    assert not both.stopped.exists()


def test_all_stopped_and_a_crash(both: Echod) -> None:
    """A start that has nothing to start succeeds at once."""
    both.tell("stop", "line")
    both.tell("stop", "sensor")
    both.signal(signal.SIGKILL)
    both.await_end()
    begun = time.monotonic()
    both.start()
    assert time.monotonic() - begun < seconds(3)
    assert {row["state"] for row in both.ps()} == {"stopped"}


def test_orderly_end_forgets_what_was_stopped(both: Echod) -> None:
    """By either signal; the next start brings everything."""
    for sig in (signal.SIGUSR1, signal.SIGTERM):
        both.tell("stop", "line")
        assert both.stopped.exists()
        both.signal(sig)
        both.await_end()
        assert not both.stopped.exists()
        both.start()
        both.assert_serves()


def test_list_of_the_stopped_is_for_this_user_and_no_link(both: Echod) -> None:
    """What a stranger could have put there is an error, not an order."""
    both.tell("stop", "line")
    both.signal(signal.SIGKILL)
    both.await_end()
    both.stopped.rename(both.dir / "elsewhere")
    both.stopped.symlink_to(both.dir / "elsewhere")
    done = both.start(expect=1)
    assert str(both.stopped) in done.stderr
    both.stopped.unlink()
    both.stopped.write_text("no-such-service\n" + "x" * 5000 + "\n\nsensor")
    both.start()
    both.assert_serves()
    assert both.row("sensor")["state"] == "stopped"
    both.tell("start", "sensor")


# ---- start NAME ---------------------------------------------------------------------------------

def test_start_brings_back_what_was_stopped(both: Echod) -> None:
    """It returns when clients are served, and the program runs."""
    both.tell("stop", "line")
    both.tell("stop", "sensor")
    assert both.tell("start", "line").stdout == "echod: line runs (2 workers)\n"
    both.assert_serves()
    done = both.tell("start", "sensor")
    assert done.stdout == f"echod: sensor runs (pid {both.sleepers()[0].pid})\n"
    assert {row["state"] for row in both.ps()} == {"running"}


def test_start_of_what_runs_is_no_error_and_no_change(both: Echod) -> None:
    before = pids(both)
    assert both.tell("start", "line").stdout == "echod: line runs (2 workers)\n"
    both.tell("start", "sensor")
    assert pids(both) == before


def test_start_when_the_port_is_taken(both: Echod) -> None:
    """A clear error at once; still stopped, also after a restart; and it works with a free port."""
    both.tell("stop", "line")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", both.port))
        taken.listen()
        for _ in range(2):
            begun = time.monotonic()
            done = both.tell("start", "line", expect=1)
            assert time.monotonic() - begun < seconds(2)
            assert re.fullmatch(rf"echod: [^\n]*127\.0\.0\.1:{both.port}[^\n]*in use\n",
                                done.stderr)
            assert {row["state"] for row in both.ps("line")} == {"stopped"}
        both.restart()
        assert {row["state"] for row in both.ps("line")} == {"stopped"}
        assert both.stopped.read_text() == "line\n"
    both.tell("start", "line")
    both.assert_serves()


def test_start_of_a_program_that_fails_at_once(echod: Echod) -> None:
    """The order ends the waiting of a back-off; the reason is told, and how to end the trying."""
    serve(echod, line(echod), echod.program("bad", "/bin/false"))
    echod.await_log("a new bad starts in 0.8 s")
    begun = time.monotonic()
    order = Order(echod, "start", "bad").answer()
    assert time.monotonic() - begun < 0.7
    # It was executed, and that is what was asked for; or its end came first.
    assert order["ok"] or "exited with status 1" in order["error"] and "stop bad" in order["error"]
    echod.tell("stop", "bad")
    assert echod.row("bad")["state"] == "stopped"
    echod.assert_serves()


def test_start_of_a_program_that_has_done_its_work(echod: Echod) -> None:
    """`never` means: not by itself."""
    script = echod.script("once", "echo done\n")
    serve(echod, echod.program("once", script, restart="never"))
    echod.await_ps("once", state="stopped", text="exited with status 0")
    echod.tell("start", "once")
    echod.await_log(r"once\[\d+\]: done", count=2)


@pytest.mark.parametrize("policy", ["always", "on-failure", "never"])
def test_start_of_what_cannot_be_executed_is_a_failure(echod: Echod, policy: str) -> None:
    """Whatever becomes of it afterwards, it has not started."""
    command = echod.dir / "command"
    command.write_text("no program")
    command.chmod(0o755)
    serve(echod, line(echod), echod.program("bad", command, restart=policy))
    echod.await_log("Exec format error")
    done = echod.tell("start", "bad", expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr)
    assert f"cannot execute {command}: Exec format error" in done.stderr
    done = echod.tell("add", "--restart", policy, "new", "--", str(command), expect=1)
    assert f"cannot execute {command}: Exec format error" in done.stderr


def test_start_while_it_stops(echod: Echod) -> None:
    """Told at once, and the stop goes on."""
    serve(echod, stubborn(echod))
    echod.await_log(r"stubborn\[\d+\]: ready")
    order = Order(echod, "stop", "stubborn")
    echod.await_ps("stubborn", state="draining")
    done = echod.tell("start", "stubborn", expect=1)
    assert "stopping" in done.stderr
    assert order.answer()["ok"]
    echod.tell("start", "stubborn")


@pytest.mark.parametrize("name", ["line", "sensor"])
def test_stop_while_another_waits_in_start(both: Echod, name: str) -> None:
    """Who waited for the start is told, the stop is obeyed."""
    both.tell("stop", name)
    with Frozen(both):
        starting, stopping = Order(both, "start", name), Order(both, "stop", name)
    assert stopping.answer()["ok"]
    answer = starting.answer()
    assert answer["ok"] is False and answer["code"] == 1 and "stopped" in answer["error"]
    assert {row["state"] for row in both.ps(name)} == {"stopped"}
    both.tell("start", name)


# ---- kill ---------------------------------------------------------------------------------------

def test_kill_ends_all_processes_of_a_service_and_they_come_back(both: Echod) -> None:
    """At once, restarts + 1, no back-off; nobody else is hit."""
    before, sensor = pids(both, "line"), both.row("sensor")["pid"]
    done = both.tell("kill", "line")
    assert done.stdout == "echod: SIGKILL was sent to 2 processes of line\n"
    for index in (0, 1):
        row = both.await_ps(f"line/{index}", state="running", restarts=1)
        assert row["pid"] not in before
    both.assert_serves()
    assert both.row("sensor")["pid"] == sensor
    assert both.await_log("SIGKILL was sent to line by order")
    assert "starts in" not in both.log_text()


def test_kill_of_one_worker(both: Echod) -> None:
    """By the name that ps shows."""
    before = {row["name"]: row["pid"] for row in both.ps()}
    done = both.tell("kill", "line/1")
    assert done.stdout == f"echod: SIGKILL was sent to line/1 (pid {before['line/1']})\n"
    both.await_ps("line/1", state="running", restarts=1)
    row = both.row("line/0")
    assert (row["pid"], row["restarts"]) == (before["line/0"], 0)


def test_kill_of_a_program(both: Echod) -> None:
    """The command gets the signal, and comes back."""
    program = both.await_program("sensor")
    done = both.tell("kill", "sensor")
    assert done.stdout == f"echod: SIGKILL was sent to sensor (pid {program.pid})\n"
    both.await_program("sensor", since=program.pid)
    assert not program.alive
    assert both.row("sensor")["restarts"] == 1
    both.await_log(rf"sensor\[{program.pid}\] was ended by signal SIGKILL")


@pytest.mark.parametrize("name", ["line/0", "sensor"])
@pytest.mark.parametrize("sig", ["KILL", "SEGV"])
def test_kill_time_and_again_never_slows_down(both: Echod, name: str, sig: str) -> None:
    """Whatever signal the operator chose: it is not the process's own fault."""
    if name == "line/0":
        both.expect_log("fatal signal SIGSEGV in line/0")
    begun = time.monotonic()
    for restarts in range(1, 6):
        before = both.row(name)["pid"]
        both.tell("kill", "-s", sig, name)
        wait_until(lambda: both.row(name)["restarts"] == restarts
                   and both.row(name)["state"] == "running"
                   and both.row(name)["pid"] != before, seconds(5))
        if name == "sensor":
            both.await_program(name, since=before)
    assert time.monotonic() - begun < seconds(4)
    assert "starts in" not in both.log_text()


def test_kill_with_a_signal_that_workers_ignore_is_refused(both: Echod) -> None:
    """Rather than nothing happening: a sentence, exit code 2."""
    before = pids(both)
    for sig in ("TERM", "HUP", "INT", "USR1", "PIPE"):
        done = both.tell("kill", "-s", sig, "line", expect=2)
        assert done.stderr.startswith(f"echod: workers ignore SIG{sig}")
    assert pids(both) == before


def test_kill_sends_any_signal_to_a_program(echod: Echod) -> None:
    """HUP for one reads a configuration anew; the program runs on, and is not restarted."""
    script = echod.script("program", f"""
exec 2>/dev/null
trap 'echo got HUP' HUP
trap 'echo got USR2' USR2
echo ready
while :; do {echod.sleeper} 0.05; done
""")
    serve(echod, echod.program("p", script))
    echod.await_log(r"p\[\d+\]: ready")
    pid = echod.row("p")["pid"]
    assert echod.tell("kill", "-s", "HUP", "p").stdout == \
        f"echod: SIGHUP was sent to p (pid {pid})\n"
    echod.await_log(r"p\[\d+\]: got HUP")
    echod.tell("kill", "--signal=USR2", "p")
    echod.await_log(r"p\[\d+\]: got USR2")
    assert (echod.row("p")["pid"], echod.row("p")["restarts"]) == (pid, 0)


def test_kill_with_a_survivable_signal_excuses_no_later_fault(echod: Echod) -> None:
    """A program that was sent SIGHUP, and ends by itself afterwards, is slowed down as ever."""
    go = echod.dir / "go"
    script = echod.script("program", f"""
exec 2>/dev/null
trap : HUP
[ -e {go} ] && exit 1
echo ready
while [ ! -e {go} ]; do {echod.sleeper} 0.05; done
exit 1
""")
    serve(echod, echod.program("p", script))
    echod.await_log(r"p\[\d+\]: ready")
    echod.tell("kill", "-s", "HUP", "p")
    go.touch()
    echod.await_log("a new p starts in 0.1 s")
    before = echod.log_text().partition("a new p starts in 0.1 s")[0]
    assert before.count("exited with status 1") == 2, "the second fault is slowed down"


@pytest.mark.parametrize("name", ["line", "line/0", "sensor"])
def test_kill_of_what_is_stopped(both: Echod, name: str) -> None:
    """There is nobody to kill, and it must not start by that."""
    service = name.partition("/")[0]
    both.tell("stop", service)
    done = both.tell("kill", name, expect=1)
    assert done.stderr == f"echod: {service} is stopped: 'echod start {service}' starts it\n"
    assert {row["state"] for row in both.ps(service)} == {"stopped"}


def test_kill_of_what_is_stopping(echod: Echod) -> None:
    """A stubborn one ends sooner; it stays stopped."""
    serve(echod, stubborn(echod, timeout=30))
    echod.await_log(r"stubborn\[\d+\]: ready")
    order = Order(echod, "stop", "stubborn")
    echod.await_ps("stubborn", state="draining")
    echod.tell("kill", "stubborn")
    assert order.answer()["ok"]
    assert echod.row("stubborn")["state"] == "stopped"


def test_kill_with_a_signal_that_there_is_not(both: Echod) -> None:
    """By the socket; the command line finds it by itself."""
    for sig in ("SIGNONE", "0", "-9", "99", ""):
        answer = both.ask("kill", args=["line"], signal=sig)
        assert answer["ok"] is False and answer["code"] == 2, sig
    assert {row["restarts"] for row in both.ps()} == {0}


# ---- add and remove -----------------------------------------------------------------------------

def test_add_runs_a_command_and_remove_ends_it(echod: Echod) -> None:
    """Listed, kept and restarted as one of the configuration; then no trace of it."""
    serve(echod, line(echod))
    done = echod.tell("add", "new", "--", str(echod.sleeper), "1000")
    program = echod.await_program("new")
    assert done.stdout == f"echod: new runs (pid {program.pid})\n"
    assert program.cmdline == [str(echod.sleeper), "1000"]
    assert [row["name"] for row in echod.ps()] == ["line/0", "new"]
    echod.tell("kill", "new")
    echod.await_program("new", since=program.pid)
    echod.tell("stop", "new")
    echod.tell("start", "new")
    assert echod.tell("remove", "new").stdout == "echod: new is removed\n"
    assert echod.sleepers() == [] and [row["name"] for row in echod.ps()] == ["line/0"]
    assert not echod.stopped.exists()
    echod.tell("add", "new", "--", str(echod.sleeper), "2000")
    assert echod.sleepers("2000")


def test_add_resolves_a_relative_command(echod: Echod) -> None:
    """In the directory, or by the PATH, of who types it; it starts in / all the same."""
    serve(echod, line(echod))
    assert echod.sleeper.exists()
    echod.tell("add", "here", "--", "./sleep", "1000", cwd=echod.dir)
    assert os.path.normpath(echod.await_program("here").cmdline[0]) == str(echod.sleeper)
    assert echod.await_program("here").cwd == "/"
    env = {**echod.env, "PATH": f"{echod.dir}:/usr/bin"}
    echod.tell("add", "there", "--", "sleep", "1000", env=env)
    assert echod.await_program("there").cmdline[0] == str(echod.sleeper)


@pytest.mark.needs_root
def test_add_with_a_user(echod: Echod) -> None:
    """--user; without it the daemon's."""
    serve(echod, line(echod))
    echod.tell("add", "--user", "daemon", "one", "--", str(echod.sleeper), "1000")
    echod.tell("add", "two", "--user", "root", "--", str(echod.sleeper), "1000")
    echod.tell("add", "three", "--", str(echod.sleeper), "1000")
    assert echod.await_program("one").uids == [1] * 4
    assert echod.await_program("two").uids == [0] * 4
    assert echod.await_program("three").uids == echod.workers()[0].uids
    echod.restart()
    echod.tell("kill", "one")
    assert echod.await_program("one", since=echod.row("three")["pid"]).uids == [1] * 4


@pytest.mark.parametrize("policy, again", [("always", True), ("never", False),
                                           ("on-failure", False)])
def test_add_with_a_policy(echod: Echod, policy: str, again: bool) -> None:
    """--restart, for a command that ends with 0."""
    serve(echod, line(echod))
    script = echod.script("once", "echo run\n")
    echod.tell("add", "once", "--restart", policy, "--", str(script))
    if again:
        echod.await_log(r"once\[\d+\]: run", count=3)
    else:
        echod.await_ps("once", state="stopped", restarts=0)
        echod.restart()
        assert echod.row("once")["state"] == "stopped"
        assert len(re.findall(r"once\[\d+\]: run", echod.log_text())) == 1


def test_added_survives_a_restart_in_place_and_not_the_daemon(echod: Echod) -> None:
    """With the same pid, also when the configuration changes; an orderly stop ends it."""
    serve(echod, line(echod))
    echod.tell("add", "new", "--", str(echod.sleeper), "1000")
    echod.tell("add", "rest", "--", str(echod.sleeper), "2000")
    echod.tell("stop", "rest")
    program = echod.await_program("new")
    for workers in (2, 1):
        echod.configure(line(echod, workers=workers))
        echod.restart()
        assert echod.row("new")["pid"] == program.pid
        assert echod.row("rest")["state"] == "stopped"
    echod.tell("kill", "new")
    program = echod.await_program("new", since=program.pid)
    assert program.cmdline == [str(echod.sleeper), "1000"]
    echod.stop()
    assert not program.alive
    echod.start()
    assert {row["name"] for row in echod.ps()} == {"line/0"}


def test_added_service_that_the_configuration_gets(echod: Echod) -> None:
    """The file's one takes over, with its settings, and cannot be removed any more."""
    serve(echod, line(echod))
    echod.tell("add", "same", "--", str(echod.sleeper), "1000")
    echod.tell("add", "other", "--", str(echod.sleeper), "2000")
    same, other = echod.await_program("same"), echod.await_program("other")
    echod.configure(line(echod), echod.program("same", echod.sleeper, 1000),
                    echod.program("other", echod.sleeper, 3000))
    echod.restart()
    echod.await_log("the service same, added at run time, is now that of the configuration")
    wait_until(lambda: echod.sleepers("3000") and not echod.sleepers("2000"), seconds(5))
    assert echod.row("same")["pid"] == same.pid, "nothing about it has changed"
    assert not other.alive
    for name in ("same", "other"):
        assert "configuration" in echod.tell("remove", name, expect=1).stderr
    echod.configure(line(echod))
    echod.restart()
    wait_until(lambda: {row["name"] for row in echod.ps()} == {"line/0"}, seconds(5))


@pytest.mark.parametrize("args, more, code, reason", [
    (["line", "/bin/sleep", "1000"], {}, 1, "there is a service 'line' already"),
    (["-bad", "/bin/sleep"], {}, 6, "name"),
    (["a/b", "/bin/sleep"], {}, 6, "name"),
    (["x" * 33, "/bin/sleep"], {}, 6, "name"),
    (["new", "/no/such/command"], {}, 6, "'/no/such/command' cannot be executed: No such file"),
    (["new", "bin/sleep"], {}, 6, "bin/sleep"),
    (["new", "/usr/bin"], {}, 6, "Is a directory"),
    (["new", "/etc/passwd"], {}, 6, "cannot be executed: Permission denied"),
    (["new", "/bin/sleep"], {"user": "no-such-user"}, 6, "there is no user 'no-such-user'"),
    (["new", "/bin/sleep"], {"restart": "sometimes"}, 6, "restart"),
    (["new"], {}, 2, "command"),
    ([], {}, 2, "name"),
    (["new", "/bin/sleep", 5], {}, 2, "command"),
    ([""], {}, 2, "name"),
], ids=str)
def test_add_of_what_cannot_be(echod: Echod, args: list[Any], more: dict[str, str], code: int,
                               reason: str) -> None:
    """The reason and a code, by the socket as by the command; nothing is left of it."""
    serve(echod, line(echod))
    before = echod.row("line/0")["pid"]
    answer = echod.ask("add", args=args, **more)
    assert answer["ok"] is False and answer["code"] == code, answer
    assert reason in answer["error"]
    assert pids(echod) == [before]
    echod.assert_serves()
    echod.tell("add", "new", "--", str(echod.sleeper), "1000")


@pytest.mark.needs_root
def test_add_of_what_its_user_may_not_execute(echod: Echod) -> None:
    """A clear error, exit code 4; it is tried again, as one of the configuration would be."""
    serve(echod, line(echod))
    locked = echod.script("locked", f"exec {echod.sleeper} 1000\n")
    locked.chmod(0o700)
    done = echod.tell("add", "new", "--", str(locked), expect=4)
    assert f"cannot execute {locked} as the user" in done.stderr
    assert "Permission denied" in done.stderr
    echod.await_ps("new", state="backing off")
    locked.chmod(0o755)
    echod.await_program("new")


def test_add_by_the_command_line_of_what_cannot_be(both: Echod) -> None:
    """The exit codes of the table."""
    both.tell("add", "sensor", "--", "/bin/true", expect=1)
    both.tell("add", "new", "--user", "no-such-user", "--", "/bin/true", expect=6)
    both.tell("add", "/", "--", "/bin/true", expect=6)
    both.tell("add", "new", "--", "/no/such/command", expect=1)
    assert {row["service"] for row in both.ps()} == {"line", "sensor"}


@pytest.mark.parametrize("name", ["line", "sensor"])
def test_remove_of_a_configured_service_is_refused(both: Echod, name: str) -> None:
    """It would be back after the next restart; the sentence says what to do."""
    before = pids(both)
    done = both.tell("remove", name, expect=1)
    assert re.fullmatch(rf"echod: {name} is part of the configuration[^\n]*\n", done.stderr)
    assert pids(both) == before


def test_remove_waits_until_all_is_gone(echod: Echod) -> None:
    """A stubborn one, which no new one of the same name may meet."""
    serve(echod, line(echod))
    stubborn(echod)
    echod.tell("add", "deaf", "--", str(echod.dir / "deaf"))
    echod.await_log(r"deaf\[\d+\]: ready")
    [sleeper] = wait_until(echod.sleepers, seconds(5), "it sleeps")
    order = Order(echod, "remove", "deaf")
    wait_until(lambda: [row["state"] for row in echod.ps("deaf")] == ["draining"], seconds(5))
    done = echod.tell("add", "deaf", "--", "/bin/sleep", "1000", expect=1)
    assert "has not ended yet" in done.stderr
    assert not order.answered() and sleeper.alive
    os.kill(sleeper.pid, signal.SIGKILL)
    assert order.answer()["ok"] and echod.ps("deaf") == []
    echod.tell("remove", "deaf", expect=1)


@pytest.mark.parametrize("first", ["add", "start", "stop"])
def test_remove_while_another_waits(echod: Echod, first: str) -> None:
    """Who waits for a service that is removed is told; the daemon goes on."""
    serve(echod, line(echod))
    command = ["new", str(echod.sleeper), "1000"]
    if first != "add":
        echod.tell("add", command[0], "--", *command[1:])
    if first == "start":
        echod.tell("stop", "new")
    with Frozen(echod):
        waiting = Order(echod, first, *(command if first == "add" else ["new"]))
        removing = Order(echod, "remove", "new")
    assert removing.answer()["ok"]
    answer = waiting.answer()
    assert answer["ok"] or answer["code"] == 1 and "new" in answer["error"]
    assert echod.ps("new") == [] and echod.sleepers() == []
    assert lock_holder(echod.pidfile) == echod.pid
    echod.assert_serves()


# ---- Beside a restart in place, and the end of the daemon ---------------------------------------

@pytest.fixture
def slow(echod: Echod) -> Iterator[Echod]:
    """
    A daemon whose next restart takes a while: the new program's setsid(2) is held up by strace, so
    its generation gets ready late.
    """
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"  # that check does not work under strace
    serve(echod, line(echod), echod.program("sensor", echod.sleeper, 1000))
    echod.await_program("sensor")
    strace = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsid", "-e",
         "inject=setsid:delay_enter=700000", "-p", str(echod.pid)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: echod.supervisor.status["TracerPid"] != "0" or strace.poll() is not None,
                   seconds(10))
        if strace.poll() is not None:
            pytest.skip("processes cannot be traced here")
        yield echod
    finally:
        strace.terminate()
        strace.wait()


def begin_slow_restart(echod: Echod) -> None:
    """Returns when the new generation is getting ready, which it is for more than half a second."""
    echod.configure(line(echod), echod.program("sensor", echod.sleeper, 1000),
                    echod.program("late", echod.sleeper, 2000))
    echod.signal(signal.SIGHUP)

    def getting_ready() -> bool:
        return [row["state"] for row in echod.status()["processes"]
                if row["name"] == "late"] == ["starting"]
    wait_until(getting_ready, seconds(10), "the new generation gets ready")


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
def test_verbs_during_a_restart_are_obeyed_after_it(slow: Echod) -> None:
    """Not by the generation that goes, where they would be lost."""
    begin_slow_restart(slow)
    before = {row["service"]: row["pid"] for row in slow.ps() if row["state"] == "running"}
    orders = {verb: Order(slow, verb, *args) for verb, args in {
        "stop": ["sensor"], "start": ["late"], "add": ["added", str(slow.sleeper), "3000"]}.items()}
    assert slow.row("sensor")["pid"] == before["sensor"], "ps answers meanwhile"
    assert slow.status()["restarts"]["ended"] == 0
    assert not any(order.answered() for order in orders.values())
    for verb, order in orders.items():
        assert order.answer()["ok"], verb
    status = slow.status()
    assert (status["restarts"]["ended"], status["restarts"]["failed"]) == (1, 0)
    assert slow.row("sensor")["state"] == "stopped" and slow.sleepers("1000") == []
    assert slow.sleepers("2000") and slow.sleepers("3000")


@needs_strace
def test_start_that_waits_is_answered_over_a_restart(slow: Echod) -> None:
    """Its program gets ready in the middle of it, while another one is exchanged."""
    slow.tell("stop", "sensor")
    slow.tell("add", "first", "--", str(slow.sleeper), "2000")
    order = Order(slow, "start", "sensor")
    slow.await_ps("sensor", state="starting")
    slow.configure(slow.program("first", slow.sleeper, 3000), line(slow),
                   slow.program("sensor", slow.sleeper, 1000))
    slow.restart()
    answer = order.answer()
    assert answer["ok"], answer
    assert answer["text"] == f"sensor runs (pid {slow.await_program('sensor').pid})"
    wait_until(lambda: slow.sleepers("3000") and not slow.sleepers("2000"), seconds(5))


@needs_strace
def test_verbs_during_a_restart_that_fails_are_obeyed_after_it(slow: Echod) -> None:
    """The former generation serves on, and obeys."""
    slow.expect_log("restart in place refused")
    begin_slow_restart(slow)
    order = Order(slow, "stop", "sensor")
    late = [row for row in slow.status()["processes"] if row["name"] == "late"][0]
    os.kill(late["pid"], signal.SIGKILL)
    assert order.answer()["ok"]
    assert slow.status()["restarts"]["failed"] == 1
    assert slow.row("sensor")["state"] == "stopped"
    assert slow.ps("late") == []
    slow.assert_serves()


@needs_strace
def test_stop_of_the_daemon_during_a_restart_with_a_verb_waiting(slow: Echod) -> None:
    """The verb is told that it will not be obeyed."""
    begin_slow_restart(slow)
    order = Order(slow, "stop", "sensor")
    assert not order.answered()
    slow.signal(signal.SIGTERM)
    answer = order.answer()
    assert answer["ok"] is False and "the daemon is stopping" in answer["error"]
    slow.await_end()


def test_verb_that_waits_is_answered_over_a_restart(echod: Echod) -> None:
    """The supervisor executes itself meanwhile, and keeps its word."""
    serve(echod, line(echod), stubborn(echod, timeout=2))
    stubborn(echod)
    echod.await_log(r"stubborn\[\d+\]: ready")
    with subprocess.Popen(echod.telling("stop", "stubborn"), env=echod.env, text=True,
                          stdout=subprocess.PIPE) as stop:
        echod.await_ps("stubborn", state="draining")
        for _ in range(2):
            echod.restart()
            assert stop.poll() is None and echod.row("stubborn")["state"] == "draining"
        os.kill(echod.sleepers()[0].pid, signal.SIGKILL)
        assert stop.communicate(timeout=seconds(10))[0] == "echod: stubborn is stopped\n"
        assert stop.returncode == 0
    assert echod.row("stubborn")["state"] == "stopped"


def test_remove_that_waits_is_answered_over_a_restart(echod: Echod) -> None:
    """The process that ends is nobody's any more, and is waited for all the same."""
    serve(echod, line(echod))
    stubborn(echod)
    echod.tell("add", "deaf", "--", str(echod.dir / "deaf"))
    echod.await_log(r"deaf\[\d+\]: ready")
    order = Order(echod, "remove", "deaf")
    echod.await_ps("deaf", state="draining")
    echod.restart()
    assert not order.answered()
    os.kill(echod.sleepers()[0].pid, signal.SIGKILL)
    assert order.answer()["ok"]
    assert echod.ps("deaf") == []


def test_remove_is_answered_though_the_configuration_brings_the_name_back(echod: Echod) -> None:
    """The former one drains on, and the next one waits for its end: there is nothing to wait for."""
    serve(echod, line(echod))
    deaf = echod.script("deaf", f"trap '' TERM; echo ready; exec {echod.sleeper} 1000\n")
    echod.tell("add", "x", "--", deaf)
    echod.await_log(r"x\[\d+\]: ready")
    order = Order(echod, "remove", "x")
    wait_until(lambda: echod.ps("x")[0]["state"] == "draining", seconds(5))
    assert not order.answered()
    echod.configure(line(echod), stubborn(echod, name="x"))
    echod.restart()
    answer = order.answer()
    assert answer["ok"] and "x is removed" in answer["text"], answer
    echod.expect_log("does not end: killed")
    echod.tell("kill", "x", "-s", "KILL")
    echod.await_ps("x", state="running")
    echod.tell("stop", "x")


def test_start_waits_for_a_program_that_comes_back_by_itself(echod: Echod) -> None:
    """It has changed, and the former one needs its time: that is no failure."""
    serve(echod, line(echod), stubborn(echod, timeout=2))
    echod.await_log(r"stubborn\[\d+\]: ready")
    former = echod.await_program("stubborn")
    echod.configure(line(echod), echod.program("stubborn", echod.sleeper, 1000))
    echod.restart()
    assert echod.row("stubborn")["state"] == "draining"
    done = echod.tell("start", "stubborn")
    assert re.fullmatch(r"echod: stubborn runs \(pid \d+\)\n", done.stdout)
    assert not former.alive and echod.row("stubborn")["state"] == "running"


def test_orders_and_restarts_in_a_storm(echod: Echod) -> None:
    """Whatever comes first: each order is answered, and the last one of a service holds."""
    serve(echod, line(echod), echod.program("sensor", echod.sleeper, 1000))
    for _ in range(8):
        echod.signal(signal.SIGHUP)
        orders = [Order(echod, "stop", "line"), Order(echod, "stop", "sensor")]
        assert [order.answer()["ok"] for order in orders] == [True, True]
        echod.signal(signal.SIGHUP)
        orders = [Order(echod, "start", "line"), Order(echod, "start", "sensor")]
        assert [order.answer()["ok"] for order in orders] == [True, True]
        echod.assert_serves()
    wait_until(lambda: echod.status()["restarts"]["begun"] == echod.status()["restarts"]["ended"],
               seconds(10))
    assert echod.status()["restarts"]["failed"] == 0
    echod.assert_serves()
    wait_until(lambda: len(echod.sleepers()) == 1, seconds(5))
    assert not echod.stopped.exists()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1])
def test_daemon_that_stops_while_a_verb_waits(echod: Echod, sig: signal.Signals) -> None:
    """Told at once, in a sentence, with exit code 1."""
    serve(echod, stubborn(echod, timeout=1))
    echod.await_log(r"stubborn\[\d+\]: ready")
    with subprocess.Popen(echod.telling("stop", "stubborn"), env=echod.env, text=True,
                          stderr=subprocess.PIPE) as stop:
        echod.await_ps("stubborn", state="draining")
        echod.signal(sig)
        assert stop.communicate(timeout=seconds(10))[1] == "echod: the daemon is stopping\n"
        assert stop.returncode == 1
    echod.await_end()


def test_verbs_while_the_daemon_stops(echod: Echod) -> None:
    """Nothing new is begun; ps still answers."""
    serve(echod, line(echod), stubborn(echod, timeout=2))
    echod.await_log(r"stubborn\[\d+\]: ready")
    echod.signal(signal.SIGUSR1)
    echod.await_ps("stubborn", state="draining")
    for verb, *args in (["start", "line"], ["stop", "stubborn"], ["add", "x", "/bin/true"],
                        ["remove", "line"]):
        answer = echod.ask(verb, args=args)
        assert answer["ok"] is False and "the daemon is stopping" in answer["error"], verb
    echod.tell("kill", "stubborn")
    echod.await_end()


# ---- Who may ask, and what ----------------------------------------------------------------------

VERBS = [["ps"], ["start", "line"], ["stop", "line"], ["kill", "line"],
         ["add", "x", "--", "/bin/true"], ["remove", "line"]]


@pytest.mark.needs_root
def test_verbs_of_a_stranger_are_refused(echod: Echod) -> None:
    """Exit code 4, by the mode of the socket, and by its credentials where that was opened."""
    serve(echod, line(echod))
    before = pids(echod)
    for mode in (0o600, 0o666):
        echod.control.chmod(mode)
        for words in VERBS:
            done = echod.tell(*words, expect=4, user=NOBODY, group=NOBODY, extra_groups=[])
            assert re.fullmatch(ONE_LINE, done.stderr), words
    assert pids(echod) == before
    assert echod.status()["restarts"]["begun"] == 0


@pytest.mark.parametrize("verb", ["start", "stop", "kill", "remove"])
def test_unknown_service(both: Echod, verb: str) -> None:
    """With the name that was probably meant, and without a far-fetched one."""
    kind = "service or process" if verb == "kill" else "service"
    done = both.tell(verb, "sensro", expect=1)
    assert done.stderr == f"echod: there is no {kind} 'sensro'; did you mean 'sensor'?\n"
    done = both.tell(verb, "something-else", expect=1)
    assert done.stderr == f"echod: there is no {kind} 'something-else'\n"
    done = both.tell(verb, "line/7", expect=1)
    assert done.stderr.startswith(f"echod: there is no {kind} 'line/7'")


def test_one_worker_is_no_service(both: Echod) -> None:
    """Only kill takes the name of one; the others must not stop half a service, or all of it."""
    for verb in ("start", "stop", "remove"):
        done = both.tell(verb, "line/0", expect=1)
        assert done.stderr.startswith("echod: there is no service 'line/0'")
    assert {row["state"] for row in both.ps()} == {"running"}


@pytest.mark.parametrize("request_line", [
    b'{"verb":"stop"}', b'{"verb":"stop","args":"line"}', b'{"verb":"stop","args":{"0":"line"}}',
    b'{"verb":"stop","args":[]}', b'{"verb":"stop","args":[""]}', b'{"verb":"stop","args":[1]}',
    b'{"verb":"stop","args":[null]}', b'{"verb":"stop","args":[["line"]]}',
    b'{"verb":"add","args":["x"]}', b'{"verb":"add","args":["x",1]}',
    b'{"verb":"add","args":["x","/bin/true","\\u0000"]}', b'{"verb":"kill","args":[]}'], ids=repr)
def test_nonsense_gets_a_clear_error(echod: Echod, request_line: bytes) -> None:
    """Code 2, and nothing happens."""
    serve(echod, line(echod))
    before = pids(echod)
    answer = echod.ask_raw(request_line + b"\n")
    assert answer["ok"] is False and answer["code"] == 2 and answer["error"]
    assert pids(echod) == before
    echod.assert_serves()


def test_words_of_an_added_command_arrive_as_they_are(echod: Echod) -> None:
    """Spaces, quotes, nothing, UTF-8; also after a restart in place, which hands them over."""
    serve(echod, line(echod))
    words = ["", " ", "a b", "'", '"', "\\", "\n", "grüße", "-q", "--", "a,b"]
    echod.tell("add", "new", "--", str(echod.sleeper), "1000", expect=0)
    echod.tell("remove", "new")
    echod.tell("add", "new", "--", "/bin/sh", "-c", f"echo ready; {echod.sleeper} 1000", *words)
    echod.await_log(r"new\[\d+\]: ready")
    assert echod.await_program("new").cmdline[3:] == words
    echod.restart()
    former = echod.await_program("new")
    echod.tell("kill", "new")
    assert echod.await_program("new", since=former.pid).cmdline[3:] == words


def test_many_verbs_at_once(echod: Echod) -> None:
    """More clients than the daemon has room for: some are told to try again, none is lost."""
    serve(echod, *(echod.program(f"p{n}", echod.sleeper, 1000) for n in range(4)))
    for n in range(4):
        echod.await_program(f"p{n}")
    answers: list[dict[str, Any]] = []

    def ask(n: int) -> None:
        for _ in range(3):
            for verb in ("stop", "start", "kill"):
                answers.append(echod.ask(verb, args=[f"p{n % 4}"]))
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12 * 9
    for answer in answers:
        assert answer["ok"] or answer["error"], answer
    for n in range(4):
        wait_until(lambda n=n: echod.ask("start", args=[f"p{n}"])["ok"], seconds(5))
    wait_until(lambda: len(echod.sleepers()) == 4, seconds(5))
