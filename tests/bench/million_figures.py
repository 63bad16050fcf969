"""What was measured: quantiles, shares, the load of the machine; and all of it for people."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

from million_clients import Sample
from million_memory import MIB


def quantiles(samples: list[Sample]) -> dict[str, float]:
    """Of the delays, in ms; exact."""
    delays = sorted(sample.delay for sample in samples)
    if not delays:
        return {}
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: delays[max(0, math.ceil(share * len(delays)) - 1)] / 1e6
            for name, share in points.items()}


@dataclass
class Spread:
    """
    How evenly connections lie on workers, against what dice would do (chi-square). `chance` is how
    often dice would be as uneven, or more: a hash that prefers some workers makes it tiny.
    """

    least: int
    most: int
    chi_square: float
    chance: float


def spread(counts: list[int]) -> Spread:
    mean = sum(counts) / len(counts)
    chi_square = sum((count - mean) ** 2 for count in counts) / mean
    degrees = len(counts) - 1
    if degrees == 0:
        return Spread(counts[0], counts[0], 0, 1)
    # Wilson and Hilferty, 1931: its cube root is nearly normal.
    part = 2 / (9 * degrees)
    normal = ((chi_square / degrees) ** (1 / 3) - (1 - part)) / math.sqrt(part)
    return Spread(min(counts), max(counts), chi_square, math.erfc(normal / math.sqrt(2)) / 2)


def _ticks_of_all() -> int:
    """What all processors have worked, idle time and waiting apart (proc_stat(5))."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def _ticks_of(pids: Iterable[int]) -> int:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


class Busy:
    """How busy the processors are, and how much of that is these processes, since it was made."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._begun = time.monotonic()
        self._all, self._ours = _ticks_of_all(), _ticks_of(self._pids)

    def shares(self) -> dict[str, float]:
        """Of what all processors could do: 1 is everything."""
        whole = ((time.monotonic() - self._begun) * os.sysconf("SC_CLK_TCK")
                 * (os.cpu_count() or 1))
        return {"busy": (_ticks_of_all() - self._all) / whole,
                "busy_with_this": (_ticks_of(self._pids) - self._ours) / whole}


class Progress:
    """One line that is written over, on a terminal; elsewhere one each few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._tty = sys.stderr.isatty()
        self._said = 0.0

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self._said < (0.2 if self._tty else 5) and count != self._total:
            return
        self._said = now
        end = "\r" if self._tty and count != self._total else "\n"
        print(f"  {count:,} of {self._total:,} are open", end=end, file=sys.stderr, flush=True)


# ---- For people --------------------------------------------------------------------------------

def _points(delays: dict[str, float]) -> str:
    return ", ".join(f"{name} {delays[name]:.2f}"
                     for name in ("p50", "p90", "p99", "p999", "max") if name in delays)


def _latency(name: str, talk: dict[str, Any]) -> str:
    return (f"{name:<22}{talk['answered']:,} of {talk['sent']:,} lines answered; ms: "
            + _points(talk))


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    total = figures["connections"]
    user, kernel, even = figures["user"], figures["kernel"], figures["spread"]
    used = kernel["available_before"] - kernel["available"]
    lines = [
        f"{'connections':<22}{total:,} open in {figures['open_seconds']:.1f} s, "
        f"{total / figures['open_seconds']:,.0f} a second",
        f"{'spread':<22}{even['least']:,} to {even['most']:,} on {figures['workers']} workers; "
        f"chi-square {even['chi_square']:.1f}, chance {even['chance']:.3g}",
        f"{'user memory':<22}{user['per_connection']:.0f} bytes a connection; workers: "
        f"{user['anonymous'] / MIB:,.1f} MiB anonymous, {user['pss'] / MIB:,.1f} MiB Pss",
        f"{'memory of all':<22}{used / MIB:,.0f} MiB less available (from "
        f"{kernel['available_before'] / MIB:,.0f}; in the end "
        f"{kernel['available_after'] / MIB:,.0f}), {used / total:,.0f} bytes a connection",
        f"{'kernel':<22}TCP sockets {kernel['sockstat'].get('inuse', 0):,}, their buffers "
        f"{kernel['sockstat'].get('mem', 0) * os.sysconf('SC_PAGE_SIZE') / MIB:,.1f} MiB",
    ]
    for name, size in sorted((kernel["slabs"] or {}).items(), key=lambda slab: -slab[1]):
        if size > 0.001 * max(1, used):
            lines.append(f"{'  ' + name:<22}{size / MIB:,.1f} MiB, {size / total:,.0f} bytes "
                         f"a connection")
    lines += [
        _latency("active ones", figures["talk"]),
        f"{'  meanwhile':<22}{figures['talk']['busy']:.0%} of the processors busy, "
        f"{figures['talk']['busy_with_this']:.0%} with this",
        _latency("  over the restart", figures["talk_over_restart"]),
        f"{'restart in place':<22}{figures['restart_seconds']:.2f} s; lines of that time, ms: "
        + _points(figures["talk_over_restart"]["during"]),
        _latency("new ones", figures["newcomers"]),
        f"{'survived':<22}{figures['survived']:,} of {total:,}; "
        f"{figures['survivors']['answered']:,} answered a line",
    ]
    return "\n".join(lines)
