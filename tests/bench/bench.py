#!/usr/bin/python3
"""
Measures echod beside others: `make bench` or contrib/bench.sh.

Rounds are interleaved: in each one, every row (rows.py) is measured for every server (servers.py),
in an order that is shuffled for each round, so that slow changes of the machine meet all alike.
Each measurement has a server that has just started, alone on a processor. At the end stand a
table, plots, results.json with every single measurement, and whether the project's own bars hold
(verdicts.py).

A server that fails a row has a dash there, and the reason in results.json. Who interrupts a run
(^C, SIGTERM) gets the report of what was measured until then. Exit code: 0, or 1 when echod itself
failed a row, 2 for wrong usage, 128 and the signal's number when it was interrupted.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import processes
import report
import rows
import servers
from rounds import Bench, Interrupted
from servers import Place, Server

SOURCE = Path(__file__).resolve().parents[2]
FULL = {"rounds": 15, "seconds": 1.0, "warmup": 0.2}
QUICK = {"rounds": 3, "seconds": 0.3, "warmup": 0.05}


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
    add("--only", action="append", default=[], metavar="ROW",
        help="this row, or 'udp-*'; repeatable")
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
            raise ValueError(f"there is no server {pattern}; "
                             f"there are: {' '.join(servers.BY_NAME)}")
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
    processes.adopt_orphans()
    private = processes.enter_private_network()
    return Place(options.echod, options.programs, options.peers, work, cpus[0], private), client_cpu


def missing_program(options: argparse.Namespace) -> str:
    for program in (options.echod, options.programs / "load"):
        if not os.access(program, os.X_OK):
            return f"{program} is missing: run 'make bench' in a build, or contrib/bench.sh"
    return ""


def measure_all(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    described = machine.describe(options.echod, options.build, SOURCE)
    if described["load_average_before"][0] > 0.5:
        print(f"bench: the load average is {described['load_average_before'][0]:g}: others use "
              "this machine, and figures will be of little worth", file=sys.stderr)
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
        processes.end_children()
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
