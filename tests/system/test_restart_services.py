"""A restart in place with services of all kinds: what changes, what stays, and what goes on."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from clients import Load, say
from echod import Echod, read_exactly, read_to_end, seconds
from launching import refuses
from procfs import Process, lock_holder, processes_where, wait_until
from stamps import Stamps, program
from test_restart import Gate, anonymous_kib, await_outcome, own_descriptors


def listening_inodes(process: Process, port: int) -> set[str]:
    """The inodes of the sockets of this process that listen on a TCP port."""
    listening = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
            listening.add(f"socket:[{fields[9]}]")
    return listening & set(process.fds.values())


def service_of(echod: Echod, name: str) -> dict[str, Any]:
    [service] = [s for s in echod.status()["services"] if s["name"] == name]
    return service


def processes_of(echod: Echod, name: str, state: str | None = None) -> list[dict[str, Any]]:
    return [p for p in echod.status()["processes"]
            if p["service"] == name and state in (None, p["state"])]


def await_state(echod: Echod, name: str, state: str, timeout: float = 10) -> None:
    wait_until(lambda: service_of(echod, name)["state"] == state, seconds(timeout),
               f"{name} is {state}")


class Question:
    """A request at the control socket whose answer is not there yet."""

    def __init__(self, echod: Echod, verb: str, **more: Any) -> None:
        self._client = socket.socket(socket.AF_UNIX)
        self._client.settimeout(seconds(20))
        self._client.connect(str(echod.control))
        self._client.sendall(json.dumps({"verb": verb, **more}).encode() + b"\n")

    @property
    def waits(self) -> bool:
        self._client.setblocking(False)
        try:
            self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._client.settimeout(seconds(20))
        return False

    def answer(self) -> dict[str, Any]:
        with self._client:
            text = read_to_end(self._client)
        assert text.count(b"\n") == 1 and text.endswith(b"\n"), text
        return json.loads(text)


def lines_allowed(echod: Echod, port: int | None = None, tried: int = 60) -> int:
    """How many lines of so many the service at this port answers: that tells which one it is."""
    return len(echod.echo(b"\n" * tried, port=port))


# ---- A thousand ---------------------------------------------------------------------------------

WORKERS = (2, 1, 8, 2, 8, 8, 1, 4, 8, 2)


class Settings:
    """A configuration for each number: every hundredth is the same."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.talk, self.other, self.guest = (echod.another_port() for _ in range(3))
        self.changing, self.steady = Stamps(echod, "changing"), Stamps(echod, "steady")
        self.passing = Stamps(echod, "passing")

    def write(self, number: int) -> None:
        echod = self.echod
        workers = WORKERS[number % 10]
        timeout = 60 + number % 7 if number % 10 else 60
        services = [
            echod.service(workers=workers, idle_timeout=timeout),
            echod.service("talk", listen=[f"127.0.0.1:{self.talk}"], max_lines=0, workers=workers,
                          write_timeout=timeout),
            program("changing", self.changing.command("polite", (number + 7) // 10)),
            program("steady", self.steady.command()),
            echod.service("other", listen=[f"127.0.0.1:{self.other}"], workers=1,
                          max_lines=1 + number % 10),
        ]
        if number % 4 in (1, 2):
            services.insert(number % 5, echod.service(
                "guest", listen=[f"127.0.0.1:{self.guest}"], workers=1, max_lines=2))
        if number % 20 in (5, 6, 7):
            services.insert(number % 3, program("passing", self.passing.command()))
        path = echod.configure(*services)
        level = "info" if number % 10 in (3, 4) else "notice"
        path.write_text(path.read_text().replace('.log"; };', f'.log"; level = "{level}"; }};'))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_1000_hangups_with_changing_settings_under_load(echod: Echod) -> None:
    """No client sees one of them, and the supervisor is at the last what it was at the first."""
    settings = Settings(echod)
    settings.write(0)
    echod.start()
    pid, begun, lock = echod.pid, echod.supervisor.start_time, echod.pidfile.stat().st_ino
    ports = (echod.port, settings.talk, settings.other)
    sockets = {port: listening_inodes(echod.supervisor, port) for port in ports}
    seen: dict[int, dict[str, Any]] = {}
    with Load() as load:
        load.one_line(echod.port, clients=15)
        load.conversations(settings.talk, clients=12, epochs=20)
        load.conversations(settings.talk, clients=6, epochs=250)
        load.conversations(settings.talk, clients=8)
        load.await_all()
        for number in range(1, 1001):
            settings.write(number)
            answer = await_outcome(echod)
            assert answer["ok"], (number, answer)
            load.epoch = number
            if number % 10 == 0:
                load.assert_flows()
                assert lines_allowed(echod, settings.other) == 1 + number % 10
                assert refuses(echod, settings.guest) == (number % 4 not in (1, 2))
            if number == 10:  # the largest number of workers was there
                sockets.update({port: listening_inodes(echod.supervisor, port) for port in ports})
                assert [len(sockets[port]) for port in ports] == [8, 8, 1]
            if number in (100, 1000):
                seen[number] = look_at(echod, ports)
    assert seen[100]["sockets"] == seen[1000]["sockets"] == sockets
    for what in ("descriptors", "environment", "arguments"):
        assert seen[100][what] == seen[1000][what], what
    records = 2 * abs(seen[1000]["processes"] - seen[100]["processes"])  # KiB
    assert abs(seen[1000]["memory"] - seen[100]["memory"]) <= 0.1 * seen[100]["memory"] + records, \
        seen
    assert echod.supervisor.start_time == begun and lock_holder(echod.pidfile) == pid
    assert echod.pidfile.stat().st_ino == lock
    assert sum(span.begun == 0 and span.ended == 1000 for span in load.spans) >= 8
    assert sum(20 <= span.ended - span.begun < 250 for span in load.spans) >= 300
    restarts = echod.status()["restarts"]
    assert (restarts["begun"], restarts["ended"], restarts["failed"]) == (1000, 1000, 0)
    assert len(settings.steady.starts()) == 1 and settings.steady.ends() == []
    assert settings.changing.words()[-1] == "polite 100"
    assert 50 <= len(settings.changing.starts()) <= 101
    wait_until(lambda: len(echod.status()["processes"]) == 7, seconds(10), "the retired are gone")


def look_at(echod: Echod, ports: tuple[int, ...]) -> dict[str, Any]:
    """What of the supervisor must not grow."""
    wait_until(lambda: not any(p["state"] == "draining" for p in echod.status()["processes"]),
               seconds(20), "the programs that were changed have ended")
    process = echod.supervisor
    environment = process.environ
    assert environment.pop("ECHOD_HANDOVER").isdigit()
    return {
        "descriptors": own_descriptors(process),
        "memory": anonymous_kib(process),
        "environment": environment,
        "arguments": process.cmdline,
        "processes": len(echod.status()["processes"]),
        "sockets": {port: listening_inodes(process, port) for port in ports},
    }


# ---- Services with a protocol -------------------------------------------------------------------

def test_service_comes_and_goes_under_load(echod: Echod) -> None:
    """Its connections are served on when it has gone, its port refuses, the others see nothing."""
    port = echod.another_port()
    guest = echod.service("guest", listen=[f"127.0.0.1:{port}"], max_lines=0, workers=2)
    line = echod.service(max_lines=0, workers=2)
    echod.configure(line)
    echod.start()
    kept: list[socket.socket] = []
    with Load() as load:
        load.conversations(echod.port, clients=20, epochs=1)
        load.await_all()
        for number in range(1, 6):
            assert refuses(echod, port)
            echod.configure(guest, line) if number % 2 else echod.configure(line, guest)
            echod.restart()
            kept += [echod.connect(port=port) for _ in range(5)]
            for client in kept:
                say(client)
            load.epoch += 1
            echod.configure(line)
            echod.restart()
            wait_until(lambda: refuses(echod, port), seconds(5), "the removed service refuses")
            assert [s["name"] for s in echod.status()["services"]] == ["line"]
            assert {p["state"] for p in processes_of(echod, "guest")} == {"retiring"}
            for client in kept:
                say(client)
            load.epoch += 1
            load.assert_flows(20)
    for client in kept:
        client.close()
    wait_until(lambda: not processes_of(echod, "guest"), seconds(5), "the retired are gone")


def test_protocol_changes_under_load(echod: Echod) -> None:
    """From line to echo and back: who has begun goes on in the old one, who comes gets the new."""
    def configure(protocol: str) -> None:
        limit = {"max_lines": 500} if protocol == "line" else {}
        echod.configure(echod.service(protocol=protocol, workers=2, **limit))

    configure("line")
    echod.start()
    with Load() as load:
        load.conversations(echod.port, clients=20, epochs=1)
        load.await_all()
        for number in range(1, 7):
            with echod.connect() as old:
                say(old)
                configure("echo" if number % 2 else "line")
                echod.restart()
                clients = [echod.connect() for _ in range(50)]
                for client in clients:
                    client.sendall(b"\n" * 600)
                    client.shutdown(socket.SHUT_WR)
                answered = [len(read_to_end(client)) for client in clients]
                assert answered == [600 if number % 2 else 500] * 50
                for client in clients:
                    client.close()
                say(old)
            load.epoch += 1
            load.assert_flows()


@pytest.mark.parametrize("defer_accept", [0, 1])
def test_address_passes_from_service_to_service_under_load(echod: Echod,
                                                           defer_accept: int) -> None:
    """Who connects after the restart's success gets the new service; nobody is refused."""
    other = echod.another_port()
    ports = [echod.port, other]

    def configure() -> None:
        echod.configure(*(
            echod.service(name, listen=[f"127.0.0.1:{port}"], workers=workers, max_lines=lines,
                          defer_accept=defer_accept)
            for name, port, workers, lines in zip(("one", "two"), ports, (2, 3), (1000, 500))))

    configure()
    echod.start()
    wrong: list[tuple[int, int, int]] = []
    with Load() as load:
        load.conversations(echod.port, clients=15, epochs=1)
        load.conversations(other, clients=15, epochs=1)
        load.await_all()
        for number in range(1, 21):
            ports.reverse()
            configure()
            assert await_outcome(echod)["ok"]
            clients = [(echod.connect(port=port), lines)
                       for _ in range(30) for port, lines in zip(ports, (600, 500))]
            for client, _ in clients:
                client.sendall(b"\n" * 600)
                client.shutdown(socket.SHUT_WR)
            for client, lines in clients:
                with client:
                    got = len(read_to_end(client))
                if got != lines:
                    wrong.append((number, got, lines))
            load.epoch += 1
            load.assert_flows()
    assert wrong == [], f"{len(wrong)} of 1200 were served by the former service"


def test_settings_hold_for_who_connects_after_the_success(echod: Echod) -> None:
    """The same service on the same port: no worker of the former generation accepts any more."""
    wrong = []
    echod.configure(echod.service(max_lines=1, workers=4))
    echod.start()
    for number in range(1, 51):
        lines = 1 + number % 2
        echod.configure(echod.service(max_lines=lines, workers=4))
        assert await_outcome(echod)["ok"]
        clients = [echod.connect() for _ in range(20)]
        for client in clients:
            client.sendall(b"\n\n\n")
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            with client:
                got = len(read_to_end(client))
            if got != lines:
                wrong.append((number, got, lines))
    assert wrong == [], f"{len(wrong)} of 1000 were served by the former generation"


@pytest.mark.needs_root
def test_user_changes(echod: Echod) -> None:
    """New processes run as the new one, whoever is served goes on under the old one."""
    def uids(state: str = "running") -> set[int]:
        return {uid for w in echod.workers(state) for uid in w.uids}

    users = [pwd.getpwnam(name) for name in ("daemon", "nobody")]
    with Load() as load:
        for number in range(4):
            user = users[number % 2]
            echod.configure(echod.service(max_lines=0, workers=2, user=user.pw_name))
            if number == 0:
                echod.start()
                load.conversations(echod.port, clients=10, epochs=1)
                load.await_all()
            else:
                echod.restart()
                assert uids("retiring") == {users[1 - number % 2].pw_uid}
            assert uids() == {user.pw_uid}
            before = load.connections
            load.epoch += 1
            wait_until(lambda: load.connections >= before + 10 * (number > 0), seconds(10),
                       "all have come to the new workers")
            wait_until(lambda: not echod.workers("retiring"), seconds(10), "the old ones are gone")
            load.assert_flows()


def test_workers_1_8_2_8_under_load(echod: Echod) -> None:
    """No queue is left without a worker, and no byte is wrong."""
    talk = echod.another_port()

    def configure(workers: int) -> None:
        echod.configure(
            echod.service(workers=workers),
            echod.service("talk", max_lines=0, workers=workers, listen=[f"127.0.0.1:{talk}"]))

    configure(1)
    echod.start()
    with Load() as load:
        load.one_line(echod.port, clients=30)
        load.conversations(talk, clients=15, epochs=3)
        load.conversations(talk, clients=10)
        load.await_all()
        for workers in (8, 2, 8, 1, 8, 2, 8):
            configure(workers)
            echod.restart()
            load.epoch += 1
            assert [s["running"] for s in echod.status()["services"]] == [workers] * 2
            load.assert_flows(80)  # enough for each of eight sockets to get some of them
    assert len(listening_inodes(echod.supervisor, talk)) == 8


# ---- Programs -----------------------------------------------------------------------------------

def test_unchanged_program_lives_through_restarts(echod: Echod) -> None:
    """Whatever changes around it, it keeps its pid and hears of nothing."""
    one, two = Stamps(echod, "one"), Stamps(echod, "two")
    texts = [program("one", one.command("polite", 1), environment=["A=1"], stop_timeout=5),
             program("two", two.command("polite", 2))]
    echod.configure(echod.service(), *texts)
    echod.start()
    pids = [one.await_start(), two.await_start()]
    for number in range(1, 31):
        echod.configure(*texts[::number % 2 * 2 - 1], echod.service(max_lines=number, workers=2),
                        drain_timeout=5 + number)
        echod.restart()
        assert [processes_of(echod, name)[0]["pid"] for name in ("one", "two")] == pids
    assert one.lines() == [f"start {pids[0]} polite 1"]
    assert two.lines() == [f"start {pids[1]} polite 2"]
    assert [service_of(echod, name)["restarts"] for name in ("one", "two")] == [0, 0]


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Process], bool]]] = {
    "command": ({}, {}, lambda p: True),
    "environment": ({"environment": ["A=1"]}, {"environment": ["A=2", "B=3"]},
                    lambda p: p.environ["A"] == "2" and p.environ["B"] == "3"),
    "directory": ({}, {"directory": "/usr"}, lambda p: p.cwd == "/usr"),
    "umask": ({"umask": "022"}, {"umask": "027"}, lambda p: p.umask == 0o27),
    "nice": ({"nice": 0}, {"nice": 7}, lambda p: p.nice == 7),
    "stop_signal": ({"stop_signal": "SIGUSR1"}, {"stop_signal": "SIGUSR2"}, lambda p: True),
    "stop_timeout": ({"stop_timeout": 3}, {"stop_timeout": 4}, lambda p: True),
    "restart": ({"restart": "always"}, {"restart": "never"}, lambda p: True),
    "user": ({"user": "daemon"}, {"user": "nobody"},
             lambda p: set(p.uids) == {pwd.getpwnam("nobody").pw_uid}),
}


@pytest.mark.parametrize("change", [
    pytest.param(change, marks=pytest.mark.needs_root if change == "user" else ())
    for change in CHANGES])
def test_changed_program_is_ended_and_started_anew(echod: Echod, change: str) -> None:
    """By the stop signal that it was started with, never two at once, and back again."""
    stamps, other = Stamps(echod, "program"), Stamps(echod, "other")
    before, after, is_new = CHANGES[change]

    def configure(settings: dict[str, Any]) -> None:
        word = "new" if settings is after and change == "command" else "same"
        echod.configure(program("other", other.command()),
                        program("program", stamps.command("polite", word), **settings),
                        echod.service())

    configure(before)
    echod.start()
    first = stamps.await_start()
    configure(after)
    echod.restart()
    second = stamps.await_start(2)
    wait_until(lambda: is_new(Process(second)), seconds(5), f"{change} is new")
    configure(before)
    echod.restart()
    third = stamps.await_start(3)
    used = ["USR1", "USR2"] if change == "stop_signal" else ["TERM", "TERM"]
    assert stamps.ends() == [f"{used[0]} {first}", f"{used[1]} {second}"]
    assert len({first, second, third}) == 3
    assert other.ends() == [] and len(other.starts()) == 1
    assert not echod.workers("retiring") or echod.status()["connections"]["now"] == 0
    await_state(echod, "program", "running")


def test_programs_come_and_go(echod: Echod) -> None:
    """Removed ones end politely, by their own signal; added ones start."""
    one, two = Stamps(echod, "one"), Stamps(echod, "two")
    texts = [program("one", one.command(), stop_signal="SIGINT"), program("two", two.command())]
    echod.configure(echod.service(), texts[0])
    echod.start()
    first = one.await_start()
    for number in range(1, 4):
        echod.configure(echod.service(), texts[1])
        echod.restart()
        pid = two.await_start(number)
        wait_until(lambda: len(one.ends()) == number, seconds(5), "the removed one ends")
        assert one.ends()[-1] == f"INT {first}"
        wait_until(lambda: not processes_of(echod, "one"), seconds(5))
        assert [p["pid"] for p in processes_of(echod, "two")] == [pid]
        echod.configure(echod.service(), texts[0])
        echod.restart()
        first = one.await_start(number + 1)
        wait_until(lambda: two.ends()[-1:] == [f"TERM {pid}"], seconds(5))


def test_program_that_ignores_its_stop_signal_does_not_hold_up_restarts(echod: Echod) -> None:
    """The outcome comes at once; its successor waits for its end, over further restarts."""
    stamps, gone = Stamps(echod, "stubborn"), Stamps(echod, "gone")

    def configure(word: str, *more: str) -> None:
        echod.configure(echod.service(max_lines=0), program(
            "stubborn", stamps.command("stubborn", word), stop_timeout="1500ms"), *more)

    configure("1", program("gone", gone.command("stubborn"), stop_timeout="1500ms"))
    echod.start()
    first, removed = stamps.await_start(), gone.await_start()
    with Load() as load:
        load.conversations(echod.port, clients=10, epochs=1)
        load.await_all()
        begun = time.monotonic()
        for word in ("2", "2", "3", "1", "4"):
            configure(word)
            echod.restart()
            load.epoch += 1
        took = time.monotonic() - begun
        if took < 1.4:  # else this machine is too slow to tell
            assert Process(first).alive and Process(removed).alive
            assert stamps.words() == ["stubborn 1"]
            assert {p["state"] for p in processes_of(echod, "stubborn")} == {"draining"}
        second = stamps.await_start(2)
        load.assert_flows()
    assert not Process(first).alive
    wait_until(lambda: not Process(removed).alive and not processes_of(echod, "gone"), seconds(5))
    assert stamps.words() == ["stubborn 1", "stubborn 4"]
    assert time.monotonic() - begun >= 1.4
    wait_until(lambda: [p["pid"] for p in processes_of(echod, "stubborn")] == [second], seconds(5))


def test_order_about_one_program_does_not_disturb_another_that_starts_anew(echod: Echod) -> None:
    """While a changed program is ending, another service is stopped: the new one still comes."""
    slow, other = Stamps(echod, "slow"), Stamps(echod, "other")

    def configure(word: str) -> None:
        echod.configure(program("slow", slow.command("stubborn", word), stop_timeout="500ms"),
                        program("other", other.command()), echod.service())

    configure("1")
    echod.start()
    slow.await_start()
    other.await_start()
    configure("2")
    echod.restart()
    for name in ("other", "line"):
        assert echod.ask("stop", args=[name])["ok"]
    assert slow.words() == ["stubborn 1"]
    slow.await_start(2, timeout=5)
    assert slow.words() == ["stubborn 1", "stubborn 2"]


@pytest.mark.parametrize("settings", [{}, {"workers": 3}])
def test_service_turns_from_protocol_to_program_and_back(echod: Echod, settings: dict) -> None:
    """Under one name: the port refuses while it is a program, and open connections go on."""
    stamps = Stamps(echod, "both")
    port = echod.another_port()
    as_protocol = echod.service("both", listen=[f"127.0.0.1:{port}"], max_lines=0, **settings)
    as_program = program("both", stamps.command())
    echod.configure(as_protocol, echod.service())
    echod.start()
    kept = []
    for number in range(1, 4):
        kept.append(echod.connect(port=port))
        for client in kept:
            say(client)
        echod.configure(as_program, echod.service())
        echod.restart()
        pid = stamps.await_start(number)
        wait_until(lambda: refuses(echod, port), seconds(5), "a program does not listen")
        assert service_of(echod, "both")["kind"] == "program"
        for client in kept:
            say(client)
        echod.configure(as_protocol, echod.service())
        echod.restart()
        service = service_of(echod, "both")
        assert service["kind"] == "protocol"
        assert service["running"] == settings.get("workers", len(os.sched_getaffinity(0)))
        wait_until(lambda: stamps.ends()[-1:] == [f"TERM {pid}"], seconds(5))
    for client in kept:
        client.close()
    wait_until(lambda: not processes_of(echod, "both", "retiring"), seconds(5))


def test_program_that_is_done_stays_so_until_it_changes(echod: Echod) -> None:
    """restart = "never" and "on-failure": a restart in place is no reason to run it again."""
    never, success = Stamps(echod, "never"), Stamps(echod, "success")

    def configure(word: int) -> None:
        echod.configure(program("never", never.command("fail", word), restart="never"),
                        program("success", success.command("once", word), restart="on-failure"),
                        echod.service())

    configure(1)
    echod.start()
    for number in (1, 2):
        for name, stamps in (("never", never), ("success", success)):
            stamps.await_start(number)
            await_state(echod, name, "stopped")
        for _ in range(5):
            echod.restart()
        assert len(never.starts()) == len(success.starts()) == number
        configure(number + 1)
        echod.restart()
    never.await_start(3)
    success.await_start(3)


# ---- Counters -----------------------------------------------------------------------------------

def test_counters_go_on_over_restarts_and_deaths(echod: Echod) -> None:
    """Totals, and those of each service, with the number of workers changing all the time."""
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"  # of a process that is killed in the middle
    port, requests, connections = echod.another_port(), 0, 0
    expected = {"line": 0, "talk": 0}

    def counted() -> bool:
        status = echod.status()
        return (status["counters"]["requests"], status["connections"]["total"],
                {s["name"]: s["requests"] for s in status["services"]}) == \
            (requests, connections, expected)

    for number, workers in enumerate((2, 3, 1, 2, 1, 3)):
        echod.configure(
            echod.service(workers=workers),
            echod.service("talk", max_lines=0, workers=2, listen=[f"127.0.0.1:{port}"]))
        echod.start() if number == 0 else echod.restart()
        for _ in range(7):
            echod.assert_serves()
        for _ in range(3):
            assert echod.echo(b"x\n" * 5, port=port) == b"x\n" * 5
        requests, connections = requests + 22, connections + 10
        expected = {"line": expected["line"] + 7, "talk": expected["talk"] + 15}
        wait_until(counted, seconds(5), "all is counted")
        for worker in echod.workers():
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: len(echod.workers()) == workers + 2, seconds(10), "all are back")
        assert counted()


def test_counts_of_successors_go_on(echod: Echod) -> None:
    """How often a process had to be replaced is not forgotten in a restart."""
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"
    stamps = Stamps(echod, "program")
    configured = (echod.service(workers=2), program("program", stamps.command()))
    echod.configure(*configured)
    echod.start()
    stamps.await_start()
    for number in range(1, 6):
        [victim] = [p["pid"] for p in echod.status()["processes"] if p["name"] == "line/1"]
        os.kill(victim, signal.SIGKILL)
        os.kill(stamps.starts()[-1], signal.SIGKILL)
        stamps.await_start(number + 1)
        wait_until(lambda: len(echod.workers()) == 2 and echod.row("program")["state"] == "running",
                   seconds(10), "all are back")
        for _ in range(2):
            echod.restart()
        assert [service_of(echod, name)["restarts"] for name in ("line", "program")] == [number] * 2
        rows = {p["name"]: p["restarts"] for p in echod.ask("ps")["services"]
                if p["state"] == "running"}
        assert rows == {"line/0": 0, "line/1": number, "program": number}


def test_count_of_successors_survives_fewer_workers(echod: Echod) -> None:
    """The service's number does not go down with the place that it was counted in."""
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"
    echod.configure(echod.service(workers=2))
    echod.start()
    [victim] = [p["pid"] for p in echod.status()["processes"] if p["name"] == "line/1"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: service_of(echod, "line")["restarts"] == 1 and len(echod.workers()) == 2,
               seconds(10), "a successor")
    for workers in (1, 2):
        echod.configure(echod.service(workers=workers))
        echod.restart()
        assert service_of(echod, "line")["restarts"] == 1


# ---- States that are carried over ---------------------------------------------------------------

def test_back_off_of_a_program_goes_on(echod: Echod) -> None:
    """A restart neither shortens the pause before the next try nor begins it anew."""
    stamps = Stamps(echod, "failing")
    echod.configure(echod.service(), program("failing", stamps.command("fail")))
    echod.start()
    echod.await_log(r"a new failing starts in 1\.6 s")
    begun, tries = time.monotonic(), len(stamps.starts())
    for _ in range(10):
        echod.restart()
        if time.monotonic() - begun < 1.4:
            assert len(stamps.starts()) == tries
            assert service_of(echod, "failing")["state"] == "backing off"
    stamps.await_start(tries + 1, timeout=5)
    assert 1.4 <= time.monotonic() - begun < 1.6 + seconds(1.5)
    echod.await_log(r"a new failing starts in 3\.2 s")  # the count of failures goes on, too


def test_restart_with_new_settings_ends_the_back_off(echod: Echod) -> None:
    """A repaired program need not wait for the pause that the broken one has earned."""
    stamps = Stamps(echod, "repaired")
    echod.configure(echod.service(), program("repaired", stamps.command("fail")))
    echod.start()
    echod.await_log(r"a new repaired starts in 1\.6 s")
    tries = len(stamps.starts())
    echod.configure(echod.service(), program("repaired", stamps.command("polite")))
    begun = time.monotonic()
    echod.restart()
    stamps.await_start(tries + 1)
    assert time.monotonic() - begun < seconds(1.2)
    await_state(echod, "repaired", "running")


def test_stopped_stays_stopped(echod: Echod) -> None:
    """Whatever changes, nothing that was stopped by order comes back before it is started."""
    stamps, port = Stamps(echod, "program"), echod.another_port()
    stopped = echod.dir / "echod.stopped"

    def configure(number: int) -> None:
        echod.configure(
            echod.service(),
            echod.service("quiet", listen=[f"127.0.0.1:{port}"], max_lines=number,
                          workers=1 + number % 3),
            program("program", stamps.command("polite", number)))

    configure(1)
    echod.start()
    stamps.await_start()
    for name in ("quiet", "program"):
        assert echod.ask("stop", args=[name])["ok"]
    for number in range(2, 8):
        configure(number)
        echod.restart()
        assert {s["name"]: s["state"] for s in echod.status()["services"]} == \
            {"line": "running", "quiet": "stopped", "program": "stopped"}
        assert refuses(echod, port) and len(stamps.starts()) == 1
        assert sorted(stopped.read_text().split()) == ["program", "quiet"]
    for name in ("quiet", "program"):
        assert echod.ask("start", args=[name])["ok"]
    assert lines_allowed(echod, port) == 7
    stamps.await_start(2)
    assert stamps.words() == ["polite 1", "polite 7"]
    assert not stopped.exists()
    echod.restart()
    assert lines_allowed(echod, port) == 7 and len(stamps.starts()) == 2


def test_restart_that_starts_no_process(echod: Echod) -> None:
    """All services are stopped, or programs that go on: there is nobody to wait for."""
    stamps, more = Stamps(echod, "program"), Stamps(echod, "more")
    texts = [program("program", stamps.command()), program("more", more.command())]
    echod.configure(texts[0])
    echod.start()
    pid = stamps.await_start()
    begun = time.monotonic()
    echod.restart()
    echod.configure(*texts)
    echod.restart()
    more.await_start()
    echod.configure(texts[0], echod.service())
    echod.restart()
    for name in ("program", "line"):
        assert echod.ask("stop", args=[name])["ok"]
    for _ in range(3):
        echod.restart()
    assert time.monotonic() - begun < seconds(8)
    assert stamps.lines() == [f"start {pid} polite", f"TERM {pid}"] and refuses(echod)
    assert echod.ask("start", args=["line"])["ok"]
    echod.assert_serves()


def test_start_after_a_crash_with_all_stopped(echod: Echod) -> None:
    """It comes up with nothing to serve, and waits for orders."""
    echod.configure(echod.service())
    echod.start()
    assert echod.ask("stop", args=["line"])["ok"]
    echod.signal(signal.SIGKILL)
    echod.await_end()
    begun = time.monotonic()
    echod.start()
    assert time.monotonic() - begun < seconds(5)
    assert service_of(echod, "line")["state"] == "stopped"
    assert echod.ask("start", args=["line"])["ok"]
    echod.assert_serves()


def test_stopped_service_that_changes_its_kind_stays_stopped(echod: Echod) -> None:
    """Protocol or program: the order was about the name."""
    stamps, port = Stamps(echod, "both"), echod.another_port()
    texts = [echod.service("both", listen=[f"127.0.0.1:{port}"], max_lines=3),
             program("both", stamps.command())]
    echod.configure(echod.service(), texts[0])
    echod.start()
    assert echod.ask("stop", args=["both"])["ok"]
    for number in (1, 0, 1):
        echod.configure(echod.service(), texts[number])
        echod.restart()
        assert service_of(echod, "both")["state"] == "stopped" and refuses(echod, port)
    assert stamps.starts() == []
    assert echod.ask("start", args=["both"])["ok"]
    stamps.await_start()


def test_what_was_stopped_and_removed_is_forgotten(echod: Echod) -> None:
    """It comes back as a new service; after a crash of the daemon it must not be found stopped."""
    port = echod.another_port()
    guest = echod.service("guest", listen=[f"127.0.0.1:{port}"], max_lines=3)
    echod.configure(echod.service(), guest)
    echod.start()
    assert echod.ask("stop", args=["guest"])["ok"]
    echod.configure(echod.service())
    echod.restart()
    echod.configure(echod.service(), guest)
    echod.restart()
    assert lines_allowed(echod, port) == 3
    assert not (echod.dir / "echod.stopped").exists()
    echod.signal(signal.SIGKILL)
    echod.await_end()
    echod.start()
    assert lines_allowed(echod, port) == 3


def test_service_that_is_being_stopped_during_a_restart(echod: Echod) -> None:
    """Its client may finish, who waits for the stop is answered, and it stays stopped."""
    echod.configure(echod.service(max_lines=1), echod.service(
        "other", listen=[f"127.0.0.1:{echod.another_port()}"]))
    echod.start()
    with echod.connect() as client:
        client.sendall(b"half ")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 5, seconds(5))
        question = Question(echod, "stop", args=["line"])
        await_state(echod, "line", "stopping")
        for _ in range(3):
            echod.restart()
            assert question.waits and refuses(echod)
        client.sendall(b"and whole\n")
        assert read_to_end(client) == b"half and whole\n"
    answer = question.answer()
    assert answer["ok"] and "line is stopped" in answer["text"]
    await_state(echod, "line", "stopped")
    assert echod.ask("start", args=["line"])["ok"]
    echod.assert_serves()


def test_stopped_worker_does_not_hold_up_a_restart(echod: Echod) -> None:
    """SIGSTOP: it keeps its clients, and serves them when it goes on."""
    echod.configure(echod.service(max_lines=0, workers=2, defer_accept=0))
    echod.start()
    workers = echod.workers()
    clients = [echod.connect() for _ in range(20)]
    for client in clients:
        say(client)
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    for client in clients:
        client.sendall(b"patience\n")
    begun = time.monotonic()
    for _ in range(3):
        echod.restart()
        assert echod.echo(b"x\n") == b"x\n"
    assert time.monotonic() - begun < seconds(5)
    for worker in workers:
        os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert read_exactly(client, 9) == b"patience\n"
    assert all(worker.await_end(seconds(5)) for worker in workers)


@pytest.mark.parametrize("restarted", [False, True])
def test_stop_leaves_nothing_of_a_program_whose_keeper_was_killed(echod: Echod,
                                                                  restarted: bool) -> None:
    """What the program has started becomes the supervisor's, a moment later, and ends with it."""
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"
    stamps = Stamps(echod, "program")
    echod.configure(program("program", stamps.command("stubborn")))
    lock = str(stamps.path) + ".lock"
    for number in range(1, 16):
        started = len(stamps.starts())
        echod.start()
        wait_until(lambda: len(stamps.starts()) > started, seconds(5), "it runs")
        pid = stamps.starts()[-1]
        keeper = Process(pid).ppid
        assert keeper != echod.pid
        os.kill(keeper, signal.SIGKILL)
        if restarted:
            echod.signal(signal.SIGHUP)
            echod.ask("await-restart")
        echod.signal(signal.SIGTERM)
        echod.await_end()
        holders = processes_where(lambda p: lock in p.fds.values())
        assert holders == [], f"round {number}: {[(p.pid, p.cmdline) for p in holders]}"


def test_added_service_outlives_restarts(echod: Echod) -> None:
    """What `add` brought goes on with its process, until it is removed, or the file has it."""
    stamps = Stamps(echod, "added")
    echod.configure(echod.service())
    echod.start()
    assert echod.ask("add", args=["added", *stamps.command()])["ok"]
    pid = stamps.await_start()
    for number in range(5):
        echod.configure(echod.service(max_lines=1 + number))
        echod.restart()
        assert [p["pid"] for p in processes_of(echod, "added")] == [pid]
    echod.configure(echod.service(), program("added", stamps.command("polite", "file")))
    echod.restart()
    stamps.await_start(2)
    assert stamps.words() == ["polite", "polite file"] and stamps.ends() == [f"TERM {pid}"]
    assert echod.ask("remove", args=["added"])["ok"] is False
    echod.configure(echod.service())
    echod.restart()
    wait_until(lambda: len(stamps.ends()) == 2 and not processes_of(echod, "added"), seconds(5))


# ---- Who waits at the control socket ------------------------------------------------------------

def test_who_waits_for_a_stop_is_answered_by_the_new_image(echod: Echod) -> None:
    """A program that takes its time to end, three restarts meanwhile."""
    stamps = Stamps(echod, "slow")
    echod.configure(echod.service(),
                    program("slow", stamps.command("stubborn"), stop_timeout="1500ms"))
    echod.start()
    pid = stamps.await_start()
    begun = time.monotonic()
    questions = [Question(echod, "stop", args=["slow"]) for _ in range(3)]
    await_state(echod, "slow", "stopping")
    for _ in range(3):
        echod.restart()
    if time.monotonic() - begun < 1.4:
        assert all(question.waits for question in questions)
    for question in questions:
        answer = question.answer()
        assert answer["ok"] and answer["text"] == "slow is stopped", answer
    assert not Process(pid).alive and service_of(echod, "slow")["state"] == "stopped"
    echod.restart()
    assert len(stamps.starts()) == 1


def test_who_waits_for_a_removal_is_answered_by_the_new_image(echod: Echod) -> None:
    stamps = Stamps(echod, "slow")
    echod.configure(echod.service())
    echod.start()
    assert echod.ask("add", args=["slow", *stamps.command("polite")])["ok"]
    pid = stamps.await_start()
    os.kill(pid, signal.SIGSTOP)  # only SIGCONT, which comes with the stop signal, lets it end
    os.kill(Process(pid).ppid, signal.SIGSTOP)
    question = Question(echod, "remove", args=["slow"])
    wait_until(lambda: [s["name"] for s in echod.status()["services"]] == ["line"], seconds(5))
    for _ in range(2):
        echod.restart()
        assert question.waits
    os.kill(Process(pid).ppid, signal.SIGCONT)
    answer = question.answer()
    assert answer["ok"] and answer["text"] == "slow is removed", answer
    assert not Process(pid).alive


class Held:
    """While it lasts, each new process of the daemon is stopped before it is ready."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod

    def __enter__(self) -> "Held":
        # Only new processes put 0, 1 and 2 on /dev/null after the start.
        self._strace = subprocess.Popen([
            "strace", "-f", "-qq", "-p", str(self.echod.pid), "-o", "/dev/null", "-e",
            "trace=?dup2,?dup3", "-e", "inject=?dup2,?dup3:signal=SIGSTOP"])
        wait_until(lambda: self.echod.supervisor.status["TracerPid"] != "0", seconds(10))
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(seconds(10))
        wait_until(lambda: self.echod.supervisor.status["TracerPid"] == "0", seconds(10))

    def stopped(self) -> list[int]:
        """The pids of those that are held."""
        return [p.pid for p in self.echod.supervisor.children if self._state(p) in ("t", "T")]

    @staticmethod
    def _state(process: Process) -> str:
        try:
            return process.state
        except FileNotFoundError:
            return "gone"


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def start_held(echod: Echod, name: str) -> tuple[int, Question]:
    """
    Ask for the start of a service with one process, which is stopped before it is ready: its pid,
    and who waits. Now and then the tracer lets it run on when it goes: then once more.
    """
    for _ in range(20):
        assert echod.ask("stop", args=[name])["ok"]
        with Held(echod) as held:
            question = Question(echod, "start", args=[name])
            [pid] = wait_until(held.stopped, seconds(5), "it is held")
        if Process(pid).state == "T" and question.waits:
            return pid, question
        assert question.answer()["ok"]
    raise AssertionError(f"the process of {name} could not be held")


@needs_strace
@pytest.mark.parametrize("kind", ["program", "protocol"])
def test_who_waits_for_a_start_is_answered_by_the_new_image(echod: Echod, kind: str) -> None:
    """The process is not ready when a restart begins that changes another service."""
    if echod.sanitized:
        pytest.skip("the sanitizers do not run under ptrace")
    changed, slow = Stamps(echod, "changed"), Stamps(echod, "slow")
    port = echod.another_port()
    late = program("slow", slow.command()) if kind == "program" else \
        echod.service("slow", listen=[f"127.0.0.1:{port}"], workers=1)

    def configure(word: str) -> None:
        # The changed one stands in front: it is dealt with first.
        echod.configure(program("changed", changed.command("polite", word)), late,
                        echod.service(workers=1))

    configure("1")
    echod.start()
    changed.await_start()
    pid, question = start_held(echod, "slow")
    configure("2")
    assert await_outcome(echod)["ok"]
    changed.await_start(2)
    if Process(pid).alive:
        os.kill(pid, signal.SIGCONT)
    answer = question.answer()
    assert answer["ok"] and answer["text"].startswith("slow runs"), answer
    await_state(echod, "slow", "running")


@needs_strace
def test_orders_during_a_restart_wait_for_its_end(echod: Echod) -> None:
    """While the new workers get ready nothing may change; then each order is obeyed, in turn."""
    if echod.sanitized:
        pytest.skip("the sanitizers do not run under ptrace")
    stamps, gate = Stamps(echod, "program"), Gate(echod)
    echod.configure(echod.service(workers=1), program("program", stamps.command()))
    echod.start()
    stamps.await_start()
    echod.configure(echod.service(workers=2), program("program", stamps.command()))
    for _ in range(20):
        gate.close()
        echod.signal(signal.SIGHUP)
        outcome = Question(echod, "await-restart")
        gate.await_trial()
        with Held(echod) as held:
            gate.open()
            wait_until(lambda: len(held.stopped()) == 2, seconds(5), "the new workers are held")
        if len(held.stopped()) == 2:
            break
        # Now and then the tracer lets one run on when it goes.
        for pid in held.stopped():
            os.kill(pid, signal.SIGCONT)
        assert outcome.answer()["ok"]
    orders = [Question(echod, "stop", args=["program"]), Question(echod, "stop", args=["line"]),
              Question(echod, "add", args=["more", *Stamps(echod, "more").command()]),
              Question(echod, "stop", args=["nothing"])]
    assert echod.ask("ps")["ok"] and all(order.waits for order in orders)
    for pid in held.stopped():
        os.kill(pid, signal.SIGCONT)
    assert outcome.answer()["ok"]
    assert [order.answer()["ok"] for order in orders] == [True, True, True, False]
    assert {s["name"]: s["state"] for s in echod.status()["services"]} == \
        {"line": "stopped", "program": "stopped", "more": "running"}


# ---- Refused ------------------------------------------------------------------------------------

def test_refused_restart_touches_nothing(echod: Echod) -> None:
    """Configuration wrong, command missing, port in use, user unknown: all in a row, under load."""
    stamps, failing, quiet, new = (Stamps(echod, name) for name in
                                   ("program", "failing", "quiet", "new"))
    stopped = echod.dir / "echod.stopped"
    port = echod.another_port()

    def configure(*more: str, word: str = "same", extra: str = "", **line: Any) -> None:
        echod.configure(
            echod.service(**{"max_lines": 0, "workers": 2, **line}),
            program("program", stamps.command("polite", word)),
            program("failing", failing.command("fail")),
            program("quiet", quiet.command("polite", word)), *more, extra=extra)

    configure()
    echod.start()
    echod.expect_log("restart in place refused")
    stamps.await_start()
    quiet.await_start()
    assert echod.ask("stop", args=["quiet"])["ok"]
    echod.await_log(r"a new failing starts in 3\.2 s")
    tries = len(failing.starts())

    def picture() -> Any:
        status = echod.status()
        return [[(s["name"], s["state"], s["processes"], s["addresses"])
                 for s in status["services"]],
                [(p["name"], p["pid"], p["state"]) for p in status["processes"]],
                status["generation"], stopped.read_text(), stamps.lines(), quiet.lines(),
                new.lines(), sorted(echod.supervisor.fds.values())]

    def refuse(reason: str, code: int) -> None:
        # By -P: a file with errors says so itself.
        done = echod.run_command([str(echod.executable), "restart", "-P", str(echod.pidfile)],
                                 expect=code)
        assert re.fullmatch(rf"echod: [^\n]*{reason}[^\n]*\n", done.stderr), done.stderr
        # What was begun and not needed is gone in a moment.
        wait_until(lambda: picture()[1] == before[1], seconds(2), f"processes as before: {reason}")
        assert picture()[:-1] == before[:-1]
        load.assert_flows()

    with Load() as load, socket.socket() as taken:
        load.conversations(echod.port, clients=15)
        load.await_all()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        begun, before = time.monotonic(), picture()
        configure(word="other", extra="nonsense = 1;\n")
        refuse("nonsense", 6)
        added = program("new", new.command())
        configure(added, program("missing", ["/nonexistent/command"]), word="other")
        refuse("/nonexistent/command", 6)
        configure(added, echod.service("second", listen=[f"127.0.0.1:{port}"]), word="other")
        refuse(f"127.0.0.1:{port}.*in use", 1)
        configure(added, word="other", listen=[f"127.0.0.1:{echod.port}", f"127.0.0.1:{port}"])
        refuse(f"127.0.0.1:{port}.*in use", 1)
        configure(added, program("stranger", new.command(), user="no-such-user-here"), word="other")
        refuse("no-such-user-here", 6)
        configure(added, echod.service("line", max_lines=2), word="other")
        refuse("line", 6)
        if os.geteuid() == 0:
            hidden = echod.dir / "hidden"
            hidden.mkdir(mode=0o700)
            configure(added, program("hidden", new.command(), directory=str(hidden),
                                     user="nobody"), word="other")
            refuse("hidden", 4)
        if time.monotonic() - begun < 3:
            assert len(failing.starts()) == tries
        configure()
        echod.restart()
    assert stamps.ends() == [] and new.lines() == []
    assert service_of(echod, "quiet")["state"] == "stopped"
    echod.await_log(r"a new failing starts in 6\.4 s")


@pytest.mark.needs_root
def test_changed_program_that_cannot_run_says_why(echod: Echod) -> None:
    """
    Its new directory is closed to its user, which only its own process can find out, and that one
    has to wait for the end of the former. The reason is shown, and the next restart repairs it.
    """
    stamps = Stamps(echod, "program")
    hidden = echod.dir / "hidden"
    hidden.mkdir(mode=0o700)
    configured = program("program", stamps.command(), user="nobody")
    echod.configure(echod.service(), configured)
    echod.start()
    pid = stamps.await_start()
    echod.configure(echod.service(), program("program", stamps.command(), user="nobody",
                                             directory=str(hidden)))
    echod.restart()
    echod.await_log(r"a new program starts in 0\.8 s")  # until then its reason can be seen
    [row] = [row for row in echod.ask("ps")["services"] if row["name"] == "program"]
    assert str(hidden) in row["text"] and "Permission denied" in row["text"]
    assert stamps.lines() == [f"start {pid} polite", f"TERM {pid}"]
    echod.assert_serves()
    echod.configure(echod.service(), configured)
    echod.restart()
    stamps.await_start(2)
    await_state(echod, "program", "running")
