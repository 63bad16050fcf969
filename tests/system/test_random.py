"""
Orders of all kinds at random moments: whatever comes, the daemon is in a defined state at the end.

Each seed is a short life: signals, requests, good ones and bad ones, and kill -9 for children, one
upon the other. Then either the daemon serves, answers everybody and can be stopped, or it was
stopped, and is gone without a trace. A seed that fails is run again by

    ECHOD_SEEDS=17 python3 -m pytest tests/system/test_random.py
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections import Counter
from typing import Any, Callable

import pytest

from echod import Echod, read_to_end, seconds
from procfs import Process, processes_where, wait_until
from stamps import program

SEEDS, CHUNK = 500, 25

# What a life like these may well bring about.
EXPECTED = (
    r"was ended by signal SIG(KILL|TERM|HUP|INT|USR1|ABRT)",
    r"restart in place refused.*(nonsense|was ended by signal SIGKILL|SIGKILL|has ended)",
    r"could not start: the process that was to execute \S+ has ended",
)

NAMES = ("line", "one", "two", "guest", "more", "most", "nobody", "line/0", "line/1", "")


def chunks() -> list[range]:
    chosen = os.environ.get("ECHOD_SEEDS", "")
    if chosen:
        return [range(int(seed), int(seed) + 1) for seed in chosen.split(",")]
    return [range(first, first + CHUNK) for first in range(0, SEEDS, CHUNK)]


class Life:
    """One daemon, what is done to it, and what must be true of it in the end."""

    def __init__(self, seed: int, fresh: int) -> None:
        self.fresh = fresh
        self.choose = random.Random(seed)
        self.echod = Echod()
        # The sanitizers' leak check of a process that is killed in the middle reports just that.
        self.echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"
        self.guest = self.echod.another_port()
        # In the command lines of the programs, and how long they sleep.
        self.mark = f"300.{self.echod.port}{time.monotonic_ns()}"
        self.stopped_file = self.echod.dir / "echod.stopped"
        self.stopping = False
        self.history: list[str] = []
        self.waiting: list[tuple[str, socket.socket]] = []
        self.silent: list[socket.socket] = []

    # ---- The configuration -------------------------------------------------------------------

    def polite(self, word: int = 0) -> list[str]:
        return ["/bin/sleep", self.mark, *(["0"] * word)]

    def stubborn(self, word: int = 0) -> list[str]:
        return ["/bin/sh", "-c", "trap '' TERM INT HUP USR1; while :; do sleep $0; done",
                self.mark, str(word)]

    def configure(self, broken: bool = False) -> None:
        echod, choose = self.echod, self.choose
        services = [
            echod.service(workers=2, max_lines=choose.randrange(3)),
            program("one", self.polite(choose.randrange(2)), stop_timeout="100ms"),
            program("two", self.stubborn(choose.randrange(2)), stop_timeout="50ms",
                    nice=choose.choice((0, 5))),
        ]
        if choose.random() < 0.5:
            services.append(choose.choice((
                echod.service("guest", listen=[f"127.0.0.1:{self.guest}"], workers=1),
                program("guest", self.polite(), stop_timeout="100ms"))))
        choose.shuffle(services)
        echod.configure(*services, drain_timeout="300ms", retire_timeout="300ms",
                        extra="nonsense = 1;\n" if broken else "")

    # ---- What is done ------------------------------------------------------------------------

    def send(self, data: bytes) -> socket.socket | None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(seconds(20))
        try:
            client.connect(str(self.echod.control))
            client.sendall(data)
        except OSError:
            client.close()
            assert self.stopping, "the control socket does not take a request"
            return None
        return client

    def ask(self, verb: str, *args: str, **more: Any) -> None:
        """A request whose answer is looked at in the end, or now, or never."""
        request = {"verb": verb, "args": list(args), **more}
        client = self.send(json.dumps(request).encode() + b"\n")
        if client is None:
            return
        fate = self.choose.random()
        if fate < 0.2:
            client.close()
        elif fate < 0.5:
            self.expect_answer(json.dumps(request), client)
        else:
            self.waiting.append((json.dumps(request), client))

    def expect_answer(self, request: str, client: socket.socket) -> None:
        with client:
            try:
                text = read_to_end(client)
            except ConnectionResetError:
                text = b""
        if text == b"" and self.stopping:
            return
        assert text.endswith(b"\n") and text.count(b"\n") == 1, f"{request} is answered by {text!r}"
        answer = json.loads(text)
        assert answer["ok"] is True or answer["error"], answer

    def hang_up(self) -> None:
        if self.choose.random() < 0.7:
            self.configure(broken=self.choose.random() < 0.15)
        self.signal(signal.SIGHUP)
        if self.choose.random() < 0.3:
            self.ask("await-restart")

    def signal(self, sig: int) -> None:
        try:
            os.kill(self.echod.pid, sig)  # our own ones: nobody else has this pid so soon
        except ProcessLookupError:
            assert self.stopping, "the daemon is gone"

    def stop(self) -> None:
        self.stopping = True
        self.signal(self.choose.choice((signal.SIGTERM, signal.SIGUSR1)))

    def order(self) -> None:
        verb = self.choose.choice(("start", "stop", "stop", "kill", "remove"))
        more = {}
        if verb == "kill" and self.choose.random() < 0.7:
            more["signal"] = self.choose.choice(("TERM", "HUP", "KILL", "INT", "CONT", "0", "X"))
        self.ask(verb, self.choose.choice(NAMES), **more)

    def add(self) -> None:
        self.ask("add", self.choose.choice(("more", "most", "one", "bad name")),
                 *self.choose.choice((self.polite(), [], ["/nonexistent/command"], ["sleep"])),
                 restart=self.choose.choice(("always", "never", "on-failure", "sometimes")))

    def nonsense(self) -> None:
        data = self.choose.choice((b"", b"\n", b"{", b"garbage\n", b'{"verb":"stop","args":[',
                                   b'{"verb":"stop"}\n', b'{"verb":"kill","args":[null]}\n',
                                   b"\0" * 100 + b"\n", b"x" * 20000))
        client = self.send(data)
        if client is None:
            return
        if self.choose.random() < 0.5 or len(self.silent) > 3:
            client.close()
        else:
            self.silent.append(client)

    def children(self) -> list[int]:
        found = []
        for child in self.echod.supervisor.children:
            try:
                if "check" not in child.cmdline:  # the trial of a restart says why it failed
                    found.append(child.pid)
            except ProcessLookupError:
                pass
        return found

    def kill(self) -> None:
        """A child of the supervisor, or the program that its keeper keeps."""
        victims = self.children()
        if not victims:
            return
        victim = self.choose.choice(victims)
        if self.choose.random() < 0.4:
            below = [p.pid for p in Process(victim).children]
            victim = self.choose.choice(below) if below else victim
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def talk(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self.echod.port), seconds(1)) as client:
                client.sendall(b"a line\n")
                if self.choose.random() < 0.5:
                    assert client.recv(100) in (b"", b"a line\n")
        except OSError:
            pass  # refused when it is stopped, reset when its worker is killed

    def pause(self) -> None:
        time.sleep(self.choose.uniform(0, 0.01))  # not for anything: orders come at any moment

    ACTIONS: tuple[tuple[int, Callable[["Life"], None]], ...] = (
        (5, hang_up), (6, order), (3, add), (2, nonsense), (4, kill), (2, talk), (4, pause),
        (1, lambda self: self.ask("ps")), (1, lambda self: self.ask("status")),
    )

    def live(self) -> None:
        self.configure()
        self.echod.start()
        ending = self.choose.randrange(30) if self.choose.random() < 0.4 else None
        weights = [weight for weight, _ in self.ACTIONS]
        for number in range(self.choose.randrange(8, 24)):
            action = self.stop if number == ending else None
            if action is None:
                [(_, chosen)] = self.choose.choices(self.ACTIONS, weights)
                action = lambda: chosen(self)
                self.history.append(getattr(chosen, "__name__", "?"))
            else:
                self.history.append("stop")
            action()
            if self.stopping and not self.echod.supervisor.alive:
                break

    # ---- What must be true in the end --------------------------------------------------------

    def assert_defined(self) -> None:
        for client in self.silent:
            client.close()
        for request, client in self.waiting:
            self.expect_answer(request, client)
        if not self.stopping:
            self.assert_serves()
            self.assert_no_descriptor_is_left_open()
            self.stopping = True
            self.signal(self.choose.choice((signal.SIGTERM, signal.SIGUSR1)))
        self.echod.await_end()
        left = processes_where(lambda p: self.mark in p.cmdline)
        assert not left, f"left behind: {[(p.pid, p.cmdline) for p in left]}"
        for path in (self.echod.pidfile, self.echod.control, self.stopped_file):
            assert not path.exists(), f"{path} is left"
        self.assert_log()

    def assert_serves(self) -> None:
        """Restarted once more with a good configuration, each service starts and runs."""
        self.configure()
        self.signal(signal.SIGHUP)
        answer = self.echod.ask("await-restart")
        assert answer["ok"], answer
        for service in self.echod.status()["services"]:
            wait_until(lambda: not self.is_ending(service["name"]), seconds(10))
            answer = self.echod.ask("start", args=[service["name"]])
            assert answer["ok"] or "tried again" in answer["error"], answer
        wait_until(self.is_quiet, seconds(15), "all services run, and nothing ends any more")
        self.echod.assert_serves()
        assert not self.stopped_file.exists()

    def is_ending(self, name: str) -> bool:
        return any(p["service"] == name and p["state"] in ("draining", "stopping")
                   for p in self.echod.status()["processes"])

    def is_quiet(self) -> bool:
        """All run, but for programs that have ended and are not wanted again."""
        status = self.echod.status()
        return all(s["state"] in ("running", "stopped") for s in status["services"]) and \
            all(p["state"] == "running" for p in status["processes"])

    def assert_no_descriptor_is_left_open(self) -> None:
        """The same as of a daemon that has just been started with these services."""
        def expected() -> bool:
            status = self.echod.status()
            listening = sum(len(s["addresses"]) * s["processes"] for s in status["services"])
            processes = len(status["processes"])
            kinds = Counter(re.sub(r"\d+|\(deleted\)", "", link).strip()
                            for link in self.echod.supervisor.fds.values())
            self.seen = dict(kinds), listening, processes
            return kinds["socket:[]"] == 1 + listening + processes and \
                kinds["/memfd:echod-counters"] == processes and \
                sum(kinds.values()) == self.fresh + listening + 2 * processes

        self.seen: Any = None
        try:
            wait_until(expected, seconds(10))
        except AssertionError:
            raise AssertionError(f"descriptors, listening, processes: {self.seen}") from None

    def discard(self) -> None:
        """After a failure: by pid, the supervisor first, which would start others."""
        self.echod.discard()
        for process in processes_where(lambda p: self.mark in p.cmdline):
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def assert_log(self) -> None:
        unexpected = [line for line in self.echod.log_text().splitlines()
                      if not re.match(r"\S+ echod\[\d+\] (notice|info|debug): ", line)
                      and not any(re.search(pattern, line) for pattern in EXPECTED)]
        assert not unexpected, "\n".join(unexpected)


@pytest.fixture(scope="module")
def fresh() -> int:
    """The descriptors of a daemon that has just been started, without those of its services."""
    life = Life(0, 0)
    try:
        life.configure()
        life.echod.start()
        wait_until(life.is_quiet, seconds(10))
        status = life.echod.status()
        listening = sum(len(s["addresses"]) * s["processes"] for s in status["services"])
        # Those of the control client may still be there for a moment.
        counts = [len(life.echod.supervisor.fds) for _ in range(20)]
        life.stopping = True
        life.signal(signal.SIGTERM)
        life.echod.await_end()
        return min(counts) - listening - 2 * len(status["processes"])
    finally:
        life.discard()
        life.echod.remove()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seeds", chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_random_lives(seeds: range, fresh: int) -> None:
    for seed in seeds:
        life = Life(seed, fresh)
        life.echod.expect_log(".")  # assert_log looks at it
        try:
            life.live()
            life.assert_defined()
            life.echod.finish()
        except (AssertionError, OSError, KeyError, ValueError) as error:
            life.discard()
            raise AssertionError(
                f"seed {seed} ({life.echod.dir}): {type(error).__name__}: {error}\n"
                f"done: {' '.join(life.history)}\n{life.echod.log_text()}") from error
        life.echod.remove()
