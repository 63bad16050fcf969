"""
The rows of the benchmark: what the load generator does, and which servers can be asked for it.

    stream-C-S      closed loop: C connections, lines of S bytes, each sent when the reply is whole
    pipeline-50-32  the same, with 16 lines under way on each connection
    once-C          connections that carry one line each, C at a time
    udp-S-NxW       N sockets with W datagrams of S bytes under way on each
    train-N         N sockets, 16 datagrams of 1400 bytes in one call of the client
    latency-P       open loop: 50 connections, P % of the floor's throughput, at intended times
    memory-N        N connections that are silent
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

LATENCY_BASE = "stream-50-32"  # the row whose throughput is the 100 % of the latency rows
TRAIN = 16


@dataclass(frozen=True)
class Row:
    """One scenario; `kind` is what a server must offer for it, see servers.py."""

    name: str
    title: str
    group: str
    kind: str
    load: tuple[str, ...]
    share: float = 0  # of the floor's throughput; 0: as fast as it goes
    idle: int = 0
    datagrams: int = 0  # under way at once, over all sockets


def _stream(connections: int, size: int) -> Row:
    return Row(f"stream-{connections}-{size}", f"{connections}x{size}", "stream", "stream",
               ("--connections", str(connections), "--size", str(size)))


def _once(at_once: int) -> Row:
    return Row(f"once-{at_once}", f"{at_once} at once", "once", "once",
               ("--once", "--connections", str(at_once), "--size", "32"))


def _datagrams(size: int, sockets: int, window: int) -> Row:
    return Row(f"udp-{size}-{sockets}x{window}", f"{sockets}x{window} {size} B", "udp", "datagram",
               ("--udp", "--connections", str(sockets), "--pipeline", str(window),
                "--size", str(size)), datagrams=sockets * window)


def _train(sockets: int) -> Row:
    return Row(f"train-{sockets}", f"trains, {sockets}", "udp", "datagram",
               ("--udp", "--connections", str(sockets), "--train", str(TRAIN), "--size", "1400"),
               datagrams=sockets * TRAIN)


def _latency(percent: int) -> Row:
    return Row(f"latency-{percent}", f"{percent} %", "latency", "paced",
               ("--connections", "50", "--size", "32"), share=percent / 100)


def _memory(idle: int) -> Row:
    return Row(f"memory-{idle}", f"{idle} idle", "memory", "idle",
               ("--connections", "1", "--size", "32", "--idle", str(idle)), idle=idle)


ROWS = (
    *(_stream(connections, size) for size in (32, 4096) for connections in (1, 50, 1000)),
    Row("pipeline-50-32", "50x32, 16 deep", "stream", "stream",
        ("--connections", "50", "--size", "32", "--pipeline", "16")),
    *(_once(at_once) for at_once in (1, 16)),
    *(_datagrams(size, sockets, window)
      for size in (32, 1400) for sockets in (1, 16) for window in (1, 16)),
    *(_train(sockets) for sockets in (1, 16)),
    *(_latency(percent) for percent in (20, 40, 60, 80)),
    *(_memory(idle) for idle in (0, 1000, 5000, 10000)),
)
BY_NAME = {row.name: row for row in ROWS}
QUICK = ("stream-1-32", "stream-50-32", "once-1", "udp-32-16x16", "latency-40", "memory-0",
         "memory-1000")


def chosen(patterns: list[str], quick: bool) -> list[Row]:
    """The rows that match one of the patterns ("udp-*"); none: all, or the few of a quick run."""
    for pattern in patterns:
        if not fnmatch.filter(BY_NAME, pattern):
            raise ValueError(f"there is no row {pattern}; there are: {' '.join(BY_NAME)}")
    if not patterns:
        return [row for row in ROWS if not quick or row.name in QUICK]
    return [row for row in ROWS if any(fnmatch.fnmatchcase(row.name, p) for p in patterns)]
