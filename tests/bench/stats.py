"""
What many measurements say together.

A measurement is the load generator's result with `round`, `row` and `server`; one that failed has
`failed`, the reason, in place of the figures. Servers are compared within a round, where they ran
right after each other: the ratio of a round, and of these the median over the rounds. The floor
runs twice in each round, as floor-a and floor-b, and is the mean of both.

The floor's spread is how far the same program strays from itself here: from the ratios a/b of the
rounds, half the distance of their quartiles, or that of their median from 1 if that is more. What
differs by less than this cannot be told apart on this machine.
"""

from __future__ import annotations

import statistics
from typing import Any, Callable, Iterable

FLOOR = ("floor-a", "floor-b")
Measurement = dict[str, Any]

METRICS: dict[str, Callable[[Measurement], float]] = {
    "per_second": lambda m: m["per_second"],
    "cpu_us": lambda m: m["usage"]["cpu_ns"] / m["lines"] / 1000,
    "p50_us": lambda m: m["latency_us"]["p50"],
    "p99_us": lambda m: m["latency_us"]["p99"],
    "p999_us": lambda m: m["latency_us"]["p999"],
    "rss_kb": lambda m: m["usage"]["rss_kb"],
}


def quartiles(values: Iterable[float]) -> tuple[float, float]:
    """The first and the third one, by linear interpolation."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return ordered[0], ordered[0]
    first, _, third = statistics.quantiles(ordered, n=4, method="inclusive")
    return first, third


def summary(values: Iterable[float]) -> dict[str, float]:
    """Count, median, smallest, largest and quartiles."""
    listed = list(values)
    first, third = quartiles(listed)
    return {"n": len(listed), "median": statistics.median(listed), "min": min(listed),
            "max": max(listed), "q1": first, "q3": third}


class Results:
    """Measurements, found by row and server."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.measurements = list(measurements)
        self._cells: dict[tuple[str, str], list[Measurement]] = {}
        for one in self.measurements:
            self._cells.setdefault((one["row"], one["server"]), []).append(one)

    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self._cells))

    def servers(self, row: str) -> list[str]:
        return [server for of_row, server in self._cells if of_row == row]

    def by_round(self, row: str, server: str, metric: str) -> dict[int, float]:
        """The figures of the rounds that did not fail."""
        return {one["round"]: METRICS[metric](one) for one in self._cells.get((row, server), [])
                if "failed" not in one}

    def summary(self, row: str, server: str, metric: str) -> dict[str, float] | None:
        values = self.by_round(row, server, metric).values()
        return summary(values) if values else None

    def median(self, row: str, server: str, metric: str) -> float | None:
        values = self.by_round(row, server, metric).values()
        return statistics.median(values) if values else None

    def failures(self, row: str, server: str) -> list[str]:
        """Why it failed, in the order of the rounds."""
        return [one["failed"] for one in self._cells.get((row, server), []) if "failed" in one]

    def floor(self, row: str, metric: str) -> dict[int, float]:
        """The mean of both floors, for the rounds that have both."""
        first, second = (self.by_round(row, name, metric) for name in FLOOR)
        return {r: (first[r] + second[r]) / 2 for r in first if r in second}

    def ratio_to_floor(self, row: str, server: str, metric: str) -> float | None:
        return median_ratio(self.by_round(row, server, metric), self.floor(row, metric))

    def ratio(self, row: str, server: str, other: str, metric: str) -> float | None:
        return median_ratio(self.by_round(row, server, metric), self.by_round(row, other, metric))

    def floor_spread(self, row: str, metric: str) -> float | None:
        """As a share: 0.02 is 2 %. None without two rounds that have both floors."""
        found = ratios(*(self.by_round(row, name, metric) for name in FLOOR))
        if len(found) < 2:
            return None
        first, third = quartiles(found)
        return max((third - first) / 2, abs(statistics.median(found) - 1))


def ratios(values: dict[int, float], base: dict[int, float]) -> list[float]:
    """Of the rounds that have both."""
    return [values[r] / base[r] for r in values if base.get(r, 0) > 0]


def median_ratio(values: dict[int, float], base: dict[int, float]) -> float | None:
    found = ratios(values, base)
    return statistics.median(found) if found else None


def add_histograms(histograms: Iterable[list[list[float]]]) -> list[list[float]]:
    """One histogram of all: [[upper end in microseconds, count], ...]."""
    total: dict[float, float] = {}
    for histogram in histograms:
        for upper, count in histogram:
            total[upper] = total.get(upper, 0) + count
    return [[upper, total[upper]] for upper in sorted(total)]


def quantile(histogram: list[list[float]], share: float) -> float:
    """The upper end of the bucket below which this share of the values lies."""
    wanted = share * sum(count for _, count in histogram)
    passed = 0.0
    for upper, count in histogram:
        passed += count
        if passed >= wanted:
            return upper
    raise ValueError("an empty histogram has no quantile")
