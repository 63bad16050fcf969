"""
One run: the rounds, then the system calls. What was measured until then is kept, whatever happens.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import time
from typing import Any, Iterator

import report
import rows
import servers
import stats
from client import Client, NoPerf, count_calls
from rows import Row
from servers import Failure, Place, Server

GIVE_UP = 2  # so many failures one after the other, and a server is left out of that row


class Interrupted(Exception):
    """A signal asked for the end."""


class Progress:
    """One line on standard error: on a terminal it is written over, else one for each round."""

    def __init__(self, rounds: int, steps: int) -> None:
        self.rounds, self.steps, self.done = rounds, steps, 0
        self.begun = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.said = ""

    def left(self) -> str:
        if self.done == 0:
            return "?"
        rest = (time.monotonic() - self.begun) / self.done * (self.steps - self.done)
        return f"{int(rest // 60)}:{int(rest % 60):02d}"

    def step(self, what: str, row: str, server: str) -> None:
        """Called before each measurement."""
        if self.terminal:
            line = f"{what}  {row}  {server}  {self.left()} left"
            sys.stderr.write(f"\r{line:<78.78}")
            sys.stderr.flush()
        elif what != self.said:
            print(f"{what}, {self.left()} left", file=sys.stderr, flush=True)
        self.said = what
        self.done += 1

    def end(self) -> None:
        if self.terminal:
            sys.stderr.write(f"\r{'':78}\r")
            sys.stderr.flush()


class Bench:
    """One run; what it has measured is in `document`, whatever happens."""

    def __init__(self, options: argparse.Namespace, place: Place, client_cpu: int) -> None:
        self.options, self.place = options, place
        self.client = Client(place.programs / "load", client_cpu)
        self.rows: list[Row] = options.row_list
        self.measurements: list[stats.Measurement] = []
        self.syscalls: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, float] = {}
        self.without_latency: str | None = None
        self.without_syscalls: str | None = None
        self.signal = 0
        self.missing = {one.name: reason for one in options.server_list
                        if (reason := one.missing(place))}
        self.servers = [one for one in options.server_list if one.name not in self.missing]

    # ---- One measurement -------------------------------------------------------------------------

    def interrupt(self, number: int, _frame: object) -> None:
        """The handler: what is under way ends at once, the report follows."""
        self.signal = number
        self.client.cancel()

    def check_signal(self) -> None:
        if self.signal:
            raise Interrupted

    def load_options(self, row: Row) -> tuple[str, ...]:
        rate = ("--rate", f"{self.rates[row.name]:.0f}") if row.share else ()
        return row.load + rate

    def measure(self, row: Row, server: Server) -> dict[str, Any]:
        """The load's result, or {"failed": reason}."""
        self.check_signal()
        try:
            running = server.start(row.kind, self.place)
            try:
                result = self.client.run(running, self.load_options(row), self.options.warmup,
                                         self.options.seconds)
            finally:
                running.stop()
        except Failure as failure:
            self.check_signal()  # it was we who ended the load
            return {"failed": str(failure)}
        self.check_signal()
        return result

    # ---- The rounds ------------------------------------------------------------------------------

    def of_row(self, row: Row, order: list[Server]) -> Iterator[Server]:
        """Those that offer it and have not failed too often."""
        for server in order:
            if row.kind in server.kinds and not self.has_given_up(row, server):
                yield server

    def has_given_up(self, row: Row, server: Server) -> bool:
        latest = [one for one in self.measurements
                  if (one["row"], one["server"]) == (row.name, server.name)][-GIVE_UP:]
        return len(latest) == GIVE_UP and all("failed" in one for one in latest)

    def steps(self) -> int:
        """How many measurements there will be."""
        return sum(row.kind in one.kinds for row in self.rows for one in self.servers)

    def calibrate(self) -> None:
        """The rates of the latency rows: shares of what the floor does here and now."""
        paced = [row for row in self.rows if row.share]
        if not paced:
            return
        base, floor = rows.BY_NAME[rows.LATENCY_BASE], servers.BY_NAME[stats.FLOOR[0]]
        done = [self.measure(base, floor) for _ in range(3)]
        failed = [one["failed"] for one in done if "failed" in one]
        if failed:
            self.without_latency = f"the floor failed {base.name}: {failed[0]}"
            self.rows = [row for row in self.rows if not row.share]
            print(f"bench: no latency rows: {self.without_latency}", file=sys.stderr)
            return
        full = statistics.median(one["per_second"] for one in done)
        self.rates = {row.name: full * row.share for row in paced}

    def run(self) -> None:
        """All rounds, then the system calls; Interrupted leaves what was measured until then."""
        shuffle = random.Random(self.options.seed)
        self.calibrate()
        progress = Progress(self.options.rounds, self.steps() * self.options.rounds)
        try:
            for number in range(1, self.options.rounds + 1):
                order = list(self.servers)
                shuffle.shuffle(order)
                self.run_round(number, order, progress)
            self.run_syscalls(progress)
        finally:
            progress.end()

    def run_round(self, number: int, order: list[Server], progress: Progress) -> None:
        for row in self.rows:
            for server in self.of_row(row, order):
                progress.step(f"round {number}/{self.options.rounds}", row.name, server.name)
                result = self.measure(row, server)
                self.measurements.append({"round": number, "row": row.name, "server": server.name,
                                          **result})

    # ---- System calls ----------------------------------------------------------------------------

    def run_syscalls(self, progress: Progress) -> None:
        """Apart from the rounds: who counts slows down."""
        counted = [(row, one) for row in self.rows if row.group in report.COUNTED
                   for one in self.of_row(row, self.servers)]
        progress.steps = progress.done + len(counted)
        for row, server in counted:
            progress.step("system calls", row.name, server.name)
            try:
                calls = self.calls_of(row, server)
            except NoPerf as reason:  # nor will it for the others
                self.without_syscalls = str(reason)
                return
            self.syscalls.setdefault(row.name, {})[server.name] = calls

    def calls_of(self, row: Row, server: Server) -> dict[str, Any]:
        """
        System calls a line: the difference of two runs, of which one is longer, so that what the
        connections themselves cost does not count.
        """
        short = self.options.seconds / 4
        try:
            first, second = (self.calls_in(row, server, length) for length in (short, 3 * short))
        except Failure as failure:
            self.check_signal()
            return {"failed": str(failure)}
        if second[0] <= first[0]:
            return {"failed": "a longer run had no more lines"}
        return {"calls": (second[1] - first[1]) / (second[0] - first[0])}

    def calls_in(self, row: Row, server: Server, seconds: float) -> tuple[int, int]:
        self.check_signal()
        running = server.start(row.kind, self.place)
        try:
            return count_calls(self.client, running, self.place, self.load_options(row), seconds)
        finally:
            running.stop()

    # ---- The document ----------------------------------------------------------------------------

    def document(self, described: dict[str, Any], stolen: float) -> dict[str, Any]:
        """All that results.json has; histograms are merged, for the latency rows."""
        histograms: dict[str, dict[str, list[list[float]]]] = {}
        listed = []
        for one in self.measurements:
            if "failed" not in one and rows.BY_NAME[one["row"]].group == "latency":
                of_row = histograms.setdefault(one["row"], {})
                of_row[one["server"]] = stats.add_histograms(
                    [of_row.get(one["server"], []), one["histogram"]])
            listed.append({key: value for key, value in one.items() if key != "histogram"})
        return {
            "schema": 1,
            "interrupted": signal.Signals(self.signal).name if self.signal else None,
            "options": {key: getattr(self.options, key)
                        for key in ("rounds", "seconds", "warmup", "seed", "quick")},
            "machine": {**described, "stolen": stolen, "private_network": self.place.private},
            "rows": {row.name: {"title": row.title, "group": row.group, "load": list(row.load),
                                "rate": self.rates.get(row.name), "idle": row.idle,
                                "datagrams": row.datagrams} for row in self.rows},
            "servers": {one.name: {"title": one.title, "version": one.version(self.place),
                                   "missing": self.missing.get(one.name)}
                        for one in self.options.server_list},
            "measurements": listed,
            "without_latency": self.without_latency,
            "without_syscalls": self.without_syscalls,
            "syscalls": self.syscalls,
            "histograms": histograms,
        }
