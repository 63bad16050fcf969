#!/usr/bin/python3
"""
One million idle connections at once, and 100 active ones among them.

    tests/bench/million.py --echod PREFIX/sbin/echod [--connections N] [--json FILE]

A process may hold only so many descriptors, so the connections are spread over many workers, and
over many processes of clients, from many addresses of 127.0.0.0/8. When all are open, the active
ones talk at a steady rate, and each line is timed from the moment at which it was to be sent, so
that a stall is not hidden. Then echod restarts in place under the talk: the former workers retire,
and serve what they hold until the clients end it. None may be lost, which one line on each of them
proves, and new ones are served by the new workers.

The configuration that makes that possible is in million_daemon.py: idle_timeout = 0 (the default is
five minutes of silence), no retire_timeout (the default), and max_retiring (the default is 1024)
not smaller than the number of workers. defer_accept = 0, because these clients do not speak first.

Nothing of the machine is changed. What its limits do not allow is said at the start, in sentences
with the command that would change it. Exit code: 0 all promises held; 1 one did not, or something
failed; 2 wrong usage; 77 the machine does not allow so many.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, TypeVar

from million_clients import Clients, Talk, Trouble, build_hold
from million_daemon import Daemon
from million_figures import Busy, Progress, quantiles, report, spread
from million_limits import Plan, fds_of_a_process, memory_shortfall, shortfalls
from million_memory import Kernel

T = TypeVar("T")

PER_PROCESS = 15625  # connections: 64 such processes make a million
RATE = 20.0          # lines a second of an active connection
BACKLOG = 4096
NOT_HERE = 77        # the exit code


def wait_until(ask: Callable[[], T], seconds: float, what: str) -> T:
    """Ask again and again until the answer is true; return it."""
    until = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > until:
            raise Trouble(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer


def step(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


# ---- The story ----------------------------------------------------------------------------------

class Million:
    """One run. `figures` is what goes out as JSON; `broken` are the promises that did not hold."""

    def __init__(self, options: argparse.Namespace, plan: Plan, hold: Path) -> None:
        self._options = options
        self._plan = plan
        self._hold = hold
        self.figures: dict[str, Any] = {"connections": plan.connections, "workers": plan.workers,
                                        "clients": plan.clients}
        self.broken: list[str] = []

    def run(self) -> None:
        before = Kernel()
        with Daemon(self._options.echod, self._plan) as daemon:
            with self._clients(daemon, self._plan.connections, self._plan.clients) as clients:
                self._open(daemon, clients, before)
                self._talk(daemon, clients)
                clients.begin_talk(self._active(), RATE)
                window = self._restart(daemon)
                self._newcomers(daemon)
                clients.hush()
                self._judge_restart(clients.end_talk(), window)
                self._survivors(daemon, clients)
                step("ending: the clients reset what they have")
            wait_until(lambda: not daemon.workers(1), 300,
                       "the former workers end when their last client has gone")
            self.figures["kernel"]["available_after"] = Kernel().available
            self.figures["log"] = daemon.complaints()
        self._promise(not self.figures["log"], f"echod complained: {self.figures['log'][:3]}")

    def _clients(self, daemon: Daemon, connections: int, processes: int, first: int = 0) -> Clients:
        return Clients(self._hold, daemon.port, connections, processes, first,
                       self._plan.per_source)

    def _promise(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)

    def _open(self, daemon: Daemon, clients: Clients, before: Kernel) -> None:
        """In two halves: what a connection costs is the slope between them."""
        step(f"opening {self._plan.connections:,} connections to {self._plan.workers} workers")
        progress = Progress(self._plan.connections)
        seconds = 0.0
        memory = []
        for share in (0.5, 1.0):
            begun = time.monotonic()
            clients.open(share, progress)
            wait_until(lambda: daemon.held(1) == clients.wanted, 60,
                       f"the workers have accepted {clients.wanted} connections")
            seconds += time.monotonic() - begun
            memory.append((clients.wanted, daemon.memory(1)))
        (few, at_few), (many, at_many) = memory
        self.figures |= {
            "open_seconds": seconds,
            "spread": vars(spread([one["connections"] for one in daemon.workers(1)])),
            "user": {"anonymous": at_many.anonymous, "pss": at_many.pss,
                     "per_connection": (at_many.anonymous - at_few.anonymous) / (many - few)},
            "kernel": self._kernel(before, Kernel()),
        }

    def _kernel(self, before: Kernel, after: Kernel) -> dict[str, Any]:
        return {
            "available_before": before.available,
            "available": after.available,
            "slabs": None if after.slabs is None or before.slabs is None else
            {name: size - before.slabs.get(name, 0) for name, size in after.slabs.items()},
            "sockstat": {name: n - before.tcp.get(name, 0) for name, n in after.tcp.items()},
        }

    def _active(self) -> int:
        """Connections whose number this divides are active."""
        return max(1, self._plan.connections // self._options.active)

    def _judge(self, talk: Talk, name: str) -> None:
        self.figures[name] = {"sent": talk.sent, "answered": talk.answered,
                              **quantiles(talk.samples)}
        self._promise(0 < talk.sent == talk.answered,
                      f"{name}: {talk.answered} of {talk.sent} lines were answered")

    def _talk(self, daemon: Daemon, clients: Clients) -> None:
        seconds = self._options.seconds
        step(f"talking on {self._options.active} of them for {seconds:g} s")
        busy = Busy([*clients.pids, *(one["pid"] for one in daemon.workers(1))])
        clients.begin_talk(self._active(), RATE, max(1, round(RATE * seconds)))
        self._judge(clients.end_talk(seconds), "talk")
        self.figures["talk"] |= busy.shares()
        talk = self.figures["talk"]
        p99 = talk.get("p99", math.inf)
        self._promise(p99 < self._options.p99,
                      f"p99 of the active ones is {p99:.2f} ms, not below {self._options.p99:g} ms, "
                      f"while {talk['busy']:.0%} of the processors were busy, "
                      f"{talk['busy_with_this']:.0%} with this")

    def _restart(self, daemon: Daemon) -> tuple[int, int]:
        """Under the talk, which goes on; returns when it began and ended."""
        step("restarting in place, with all of them open")
        begun = time.monotonic_ns()
        daemon.restart()
        ended = time.monotonic_ns()
        self.figures["restart_seconds"] = (ended - begun) / 1e9
        return begun, ended

    def _judge_restart(self, talk: Talk, window: tuple[int, int]) -> None:
        """What was to be said during the restart itself is shown apart, too."""
        self._judge(talk, "talk_over_restart")
        self.figures["talk_over_restart"]["during"] = quantiles(
            [sample for sample in talk.samples if window[0] <= sample.at <= window[1]])

    def _newcomers(self, daemon: Daemon) -> None:
        """New connections are served, and by the new workers."""
        newcomers = self._plan.newcomers
        step(f"opening {newcomers:,} new connections")
        with self._clients(daemon, newcomers, 1, first=self._plan.connections) as clients:
            clients.open(1, lambda _: None)
            clients.begin_talk(1, 1, 1)
            self._judge(clients.end_talk(1), "newcomers")
            self._promise(daemon.held(2) == newcomers,
                          f"the new workers hold {daemon.held(2)} of {newcomers} new connections")
        wait_until(lambda: daemon.held(2) == 0, 60, "the new connections are gone")

    def _survivors(self, daemon: Daemon, clients: Clients) -> None:
        """A line on each: a connection that only looks open would not be answered."""
        total = self._plan.connections
        seconds = max(1.0, total / self._options.verify_rate)
        step(f"sending a line on each of the {total:,} connections, for {seconds:.0f} s")
        at_workers = daemon.held(1)
        clients.begin_talk(1, 1 / seconds, 1)
        self._judge(clients.end_talk(seconds), "survivors")
        held, ended = clients.count()
        self.figures["survived"] = held
        self._promise(held == total and ended == 0 and at_workers == total,
                      f"of {total} connections {held} are open, and the former workers have "
                      f"{at_workers}; {'; '.join(clients.ends[:3])}")


# ---- The command --------------------------------------------------------------------------------

def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--echod", default=os.environ.get("ECHOD", "echod"),
                        help="the executable; ECHOD in the environment, too")
    parser.add_argument("--hold", type=Path, help="the program of the clients, as make builds it "
                        "from hold.c; without: compile it")
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--active", type=int, default=100, help="so many of them talk")
    parser.add_argument("--workers", type=int, help=f"without: one for each {PER_PROCESS}")
    parser.add_argument("--clients", type=int, help="processes of clients; without: as workers")
    parser.add_argument("--per-source", type=int, default=500, help="connections of one address")
    parser.add_argument("--seconds", type=float, default=10, help="of talk while all are open")
    parser.add_argument("--p99", type=float, default=5, help="what the active ones may wait, ms")
    parser.add_argument("--verify-rate", type=float, default=25_000,
                        help="lines a second when each connection has to prove that it is there")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(words)
    options.echod = shutil.which(options.echod) or parser.error(f"no executable: {options.echod}")
    if not 0 < options.active <= options.connections or options.connections < 2:
        parser.error("--connections must be 2 or more, and --active one of them or more")
    return options


def find_hold(options: argparse.Namespace, directory: Path) -> Path:
    """The one that was named, or made by make, or a fresh one in this directory."""
    made = Path(os.environ.get("BENCH_PROGRAMS", os.devnull)) / "hold"
    return options.hold or (made if made.exists() else build_hold(directory))


def make_plan(options: argparse.Namespace) -> Plan:
    most = min(PER_PROCESS, fds_of_a_process() * 3 // 4)
    processes = max(2, math.ceil(options.connections / most))
    return Plan(options.connections, max(10, min(1000, options.connections // 20)),
                options.workers or processes, options.clients or processes, options.per_source,
                BACKLOG)


def main(words: list[str]) -> int:
    options = parse(words)
    plan = make_plan(options)
    wrong = shortfalls(plan)
    too_much = memory_shortfall(plan)
    if too_much is not None:
        wrong.append(too_much)
    if wrong:
        print("\n".join(f"million: {sentence}" for sentence in wrong), file=sys.stderr)
        return NOT_HERE
    with tempfile.TemporaryDirectory(prefix="echod-hold-") as directory:
        million = Million(options, plan, find_hold(options, Path(directory)))
        million.run()
    million.figures["broken"] = million.broken
    print(report(million.figures))
    if options.json is not None:
        options.json.write_text(json.dumps(million.figures, indent=1) + "\n")
    for sentence in million.broken:
        print(f"NOT KEPT: {sentence}", file=sys.stderr)
    return 1 if million.broken else 0


def end_by_signal(number: int, _: object) -> None:
    """As by ^C: what was begun is ended first."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_by_signal)
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        sys.exit(f"million: {trouble}")
    except KeyboardInterrupt:
        sys.exit(130)
