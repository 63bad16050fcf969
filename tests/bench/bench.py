#!/usr/bin/python3
"""
Measures echod beside others: `make bench` or contrib/bench.sh.

Rounds are interleaved: in each one, every row (rows.py) is measured for every server (servers.py), in
an order that is shuffled for each round, so that slow changes of the machine meet all alike. Each
measurement has a server that has just started, alone on a processor. At the end stand a table, plots,
results.json with every single measurement, and whether the project's own bars hold (verdicts.py).

A server that fails a row has a dash there, and the reason in results.json. Who interrupts a run (^C,
SIGTERM) gets the report of what was measured until then. Exit code: 0, or 1 when echod itself failed
a row, 2 for wrong usage, 128 and the signal's number when it was interrupted.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

import machine
import report
import rows
import servers
import stats
from client import Client, NoPerf, count_calls
from rows import Row
from servers import Failure, Place, Server

SOURCE = Path(__file__).resolve().parents[2]
GIVE_UP = 2  # so many failures in a row of rounds, and a server is left out of that row
FULL = {"rounds": 15, "seconds": 1.0, "warmup": 0.2}
QUICK = {"rounds": 3, "seconds": 0.3, "warmup": 0.05}


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
            self.syscalls.setdefault(row.name, {})[server.name] = self.calls_of(row, server)

    def calls_of(self, row: Row, server: Server) -> dict[str, Any]:
        """
        System calls a line: the difference of two runs, of which one is longer, so that what the
        connections themselves cost does not count.
        """
        short = self.options.seconds / 4
        try:
            first, second = (self.calls_in(row, server, length) for length in (short, 3 * short))
        except (Failure, NoPerf) as failure:
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
            "syscalls": self.syscalls,
            "histograms": histograms,
        }


# ---- The command --------------------------------------------------------------------------------

def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py", description="Measures echod beside others.", allow_abbrev=False)
    add = parser.add_argument
    add("--programs", type=Path, default=os.environ.get("BENCH_PROGRAMS") or "tests/bench",
        help="tests/bench of the build, with load and peers (default: $BENCH_PROGRAMS, or what is "
        "below this directory)")
    add("--echod", type=Path, default=os.environ.get("ECHOD"),
        help="the executable (default: $ECHOD, or that of the build)")
    add("--peers", type=Path, default=os.environ.get("ECHOD_PEERS") or SOURCE / "build-peers",
        help="the folder that contrib/peers.sh has filled (default: $ECHOD_PEERS, or build-peers)")
    add("--rounds", type=int, help="default: 15; quick: 3")
    add("--seconds", type=float, help="of each measurement (default: 1; quick: 0.3)")
    add("--warmup", type=float, help="before them, not counted (default: 0.2; quick: 0.05)")
    add("--quick", action="store_true", help="few rounds and rows, to see that it works")
    add("--only", action="append", default=[], metavar="ROW", help="this row, or 'udp-*'; repeatable")
    add("--servers", default="*", metavar="A,B", help="these servers, or 'floor-*'")
    add("--seed", type=int, default=random.SystemRandom().randrange(1 << 32),
        help="of the order (default: random; it is printed)")
    add("--results", type=Path, default=os.environ.get("BENCH_RESULTS"),
        help="where results.json, table.txt and the plots go (default: $BENCH_RESULTS, or "
        "tests/bench/results of the sources for a full run, else bench-results of the build)")
    add("--list", action="store_true", help="print the rows and servers that there are")
    options = parser.parse_args(words)
    try:
        options.row_list = rows.chosen(options.only, options.quick)
        options.server_list = chosen_servers(options.servers.split(","))
    except ValueError as error:
        parser.error(str(error))
    for key, value in (QUICK if options.quick else FULL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if options.rounds < 1 or options.seconds <= 0 or options.warmup < 0:
        parser.error("rounds and seconds must be more than 0")
    options.programs = Path(options.programs).resolve()
    options.build = options.programs.parents[1]
    options.echod = Path(options.echod or options.build / "src/echod").resolve()
    options.peers = Path(options.peers).resolve()
    return options


def chosen_servers(patterns: list[str]) -> list[Server]:
    for pattern in patterns:
        if not fnmatch.filter(servers.BY_NAME, pattern):
            raise ValueError(f"there is no server {pattern}; there are: {' '.join(servers.BY_NAME)}")
    return [one for one in servers.SERVERS
            if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns)]


def is_full(options: argparse.Namespace, interrupted: bool) -> bool:
    """Worth to take the place of the results in the source tree?"""
    return not (interrupted or options.quick or options.only or options.servers != "*"
                or options.rounds < FULL["rounds"] or options.seconds < FULL["seconds"])


def results_folder(options: argparse.Namespace, interrupted: bool) -> Path:
    if options.results:
        return Path(options.results)
    if is_full(options, interrupted):
        return SOURCE / "tests/bench/results"
    return options.build / "bench-results"


def prepare(options: argparse.Namespace, work: Path) -> tuple[Place, int]:
    """Processors, descriptors, network; the place, and the processor of the load."""
    cpus = sorted(os.sched_getaffinity(0))
    client_cpu = cpus[1] if len(cpus) > 1 else cpus[0]
    os.sched_setaffinity(0, {client_cpu})  # the runner, too, leaves the server alone
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    servers.adopt_orphans()
    private = servers.enter_private_network()
    return Place(options.echod, options.programs, options.peers, work, cpus[0], private), client_cpu


def missing_program(options: argparse.Namespace) -> str:
    for program in (options.echod, options.programs / "load"):
        if not os.access(program, os.X_OK):
            return f"{program} is missing: run 'make bench' in the build directory, or contrib/bench.sh"
    return ""


def measure_all(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    described = machine.describe(options.echod, options.build, SOURCE)
    if described["load_average_before"][0] > 0.5:
        print(f"bench: the load average is {described['load_average_before'][0]:g}: others use this "
              "machine, and figures will be of little worth", file=sys.stderr)
    place, client_cpu = prepare(options, work)
    bench = Bench(options, place, client_cpu)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, bench.interrupt)
    print(f"bench: {options.rounds} rounds, {len(bench.rows)} rows, {len(bench.servers)} servers, "
          f"seed {options.seed}; servers on processor {place.cpu}, the load on {client_cpu}",
          file=sys.stderr)
    before = machine.stolen_ticks()
    try:
        bench.run()
    except Interrupted:
        print(f"bench: {signal.Signals(bench.signal).name}: this is what was measured until now",
              file=sys.stderr)
    finally:
        servers.end_children()
    after = machine.stolen_ticks()
    stolen = (after[0] - before[0]) / max(after[1] - before[1], 1)
    return bench.document(described, stolen)


def print_list() -> None:
    print("rows:   ", " ".join(rows.BY_NAME))
    print("servers:", " ".join(servers.BY_NAME))


def main(words: list[str]) -> int:
    options = parse(words)
    if options.list:
        print_list()
        return 0
    if reason := missing_program(options):
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="echod-bench-"))
    try:
        document = measure_all(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    folder = results_folder(options, document["interrupted"] is not None)
    report.write(document, folder)
    if document["interrupted"]:
        return 128 + signal.Signals[document["interrupted"]]
    return 1 if report.failed("echod", document) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
