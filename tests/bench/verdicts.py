"""
The project's own bars, each judged by the median of the ratios of the rounds.

Against the floor, which is the mean of both floors of the same round, "spread" is the floor's
spread against itself (stats.py) in that row and figure:

    throughput      at least 0.97 of the floor, less the spread
    processor time  at most 1.05 of the floor's for a line, and the spread
    p99             at most the floor's, and the spread, at 50 connections
    one line        at most 0.88 of the processor time of floor --once for a connection
    datagrams       at least 1.15 times floor --udp --pktinfo, where 16 or more are under way;
                    trains twice that floor
    xinetd          twice its datagrams, where 16 or more are under way

Where the floor strays by more than 25 % from itself, a bar that holds only for that is not judged.

And ahead of every other server in every row: of throughput, and of memory for a connection.
io_uring may be ahead by 15 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Iterator

from stats import FLOOR, Results

OURS = "echod"
MANY = 16  # datagrams under way at once: with fewer, nobody can take several at a time
NOT_PEERS = (OURS, "echod-sleeps", *FLOOR, "udp-floor", "udp-pktinfo", "udp-gro")
URING_LEAD = 0.15
RESTLESS = 0.25  # a floor's spread that is no yardstick any more


@dataclass
class Verdict:
    """One bar; `holds` is None where it was not measured, for the reason given."""

    bar: str
    subject: str
    value: float | None
    limit: float | None
    at_least: bool = True
    holds: bool | None = None
    reason: str = ""
    details: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Judge:
    """`rows` and `servers` are those of the document (results.json)."""

    def __init__(self, results: Results, rows: dict[str, Any], servers: dict[str, Any]) -> None:
        self.results, self.rows, self.servers = results, rows, servers

    def _verdict(self, bar: str, subject: str, row: str, value: float | None, limit: float | None,
                 at_least: bool) -> Verdict:
        verdict = Verdict(bar, subject, value, limit, at_least)
        failures = self.results.failures(row, OURS)
        if failures:
            verdict.holds, verdict.reason = False, f"echod failed it: {failures[0]}"
        elif value is None:
            verdict.reason = "not measured"
        elif limit is None:
            verdict.reason = "two rounds with both floors are needed"
        else:
            verdict.holds = value >= limit if at_least else value <= limit
        return verdict

    def against_floor(self, bar: str, row: str, metric: str, share: float,
                      with_spread: bool = True) -> Verdict:
        """More than the floor's is better for throughput, less for all others."""
        at_least = metric == "per_second"
        spread = self.results.floor_spread(row, metric) if with_spread else 0.0
        limit = None if spread is None else share - spread if at_least else share + spread
        value = self.results.ratio_to_floor(row, OURS, metric)
        verdict = self._verdict(bar, self.rows[row]["title"], row, value, limit, at_least)
        if verdict.holds and spread > RESTLESS and (value < share if at_least else value > share):
            verdict.holds = None
            verdict.reason = f"the floor itself strays by {100 * spread:.0f} %"
        return verdict

    def times(self, bar: str, row: str, other: str, factor: float) -> Verdict:
        """So many times the throughput of another."""
        value = self.results.ratio(row, OURS, other, "per_second")
        return self._verdict(bar, self.rows[row]["title"], row, value, factor, True)

    def _of_group(self, group: str) -> list[str]:
        return [name for name, row in self.rows.items() if row["group"] == group]

    def _tcp(self) -> Iterator[Verdict]:
        for row in self._of_group("stream"):
            yield self.against_floor("throughput, of the floor's", row, "per_second", 0.97)
        for row in self._of_group("stream"):
            yield self.against_floor("processor time a line, of the floor's", row, "cpu_us", 1.05)
        for row in self._of_group("once"):
            yield self.against_floor("processor time a connection of one line, of floor --once's",
                                     row, "cpu_us", 0.88, with_spread=False)

    def _latency(self) -> Iterator[Verdict]:
        closed = [row for row in self.rows if row == "stream-50-32"]
        for row in closed + self._of_group("latency"):
            yield self.against_floor("p99 at 50 connections, of the floor's", row, "p99_us", 1)

    def _datagrams(self) -> Iterator[Verdict]:
        many = [row for row in self._of_group("udp") if self.rows[row]["datagrams"] >= MANY]
        trains = [row for row in many if row.startswith("train-")]
        floor = "floor --udp --pktinfo's"
        for row in many:
            if row not in trains:
                yield self.times(f"datagrams, of {floor}", row, "udp-pktinfo", 1.15)
        for row in trains:
            yield self.times(f"datagrams in trains, of {floor}", row, "udp-pktinfo", 2)
        for row in many:
            yield self.times("datagrams, of xinetd's", row, "xinetd", 2)

    # ---- Others ----------------------------------------------------------------------------------

    def lead(self, row: str, other: str) -> float | None:
        """How far echod is ahead; above 1: it is."""
        group = self.rows[row]["group"]
        if group == "memory":
            mine, theirs = (self.for_connection(row, name) for name in (OURS, other))
            return theirs / mine if mine and theirs else None
        return None if group == "latency" else self.results.ratio(row, OURS, other, "per_second")

    def for_connection(self, row: str, server: str) -> float | None:
        """Bytes for an idle connection: what there is more than without them."""
        idle = self.rows[row]["idle"]
        with_idle, without = (self.results.median(one, server, "rss_kb")
                              for one in (row, "memory-0"))
        if not idle or with_idle is None or without is None:
            return None
        return (with_idle - without) * 1024 / idle

    def _peers(self) -> Iterator[Verdict]:
        for name, server in self.servers.items():
            if name in NOT_PEERS:
                continue
            limit = 1 - URING_LEAD if name == "uring" else 1.0
            leads = {row: lead for row in self.rows if (lead := self.lead(row, name)) is not None}
            lost = [row for row in self.rows if self.results.by_round(row, name, "per_second")
                    and self.results.failures(row, OURS)]
            verdict = Verdict("ahead in every row, closest", server["title"],
                              min(leads.values(), default=None), limit, details=leads)
            if lost:
                verdict.holds, verdict.reason = False, f"echod failed {', '.join(lost)}"
            elif not leads:
                verdict.reason = server["missing"] or "not measured"
            else:
                verdict.holds = verdict.value >= limit
            yield verdict

    def all(self) -> list[Verdict]:
        return [*self._tcp(), *self._latency(), *self._datagrams(), *self._peers()]


def judge(document: dict[str, Any]) -> list[Verdict]:
    results = Results(document["measurements"])
    return Judge(results, document["rows"], document["servers"]).all()


def text(verdicts: list[Verdict], rows: dict[str, Any]) -> list[str]:
    """One line each, below the name of its bar."""
    lines: list[str] = []
    bar = ""
    for one in verdicts:
        if one.bar != bar:
            lines += ["", f"  {one.bar}"]
            bar = one.bar
        measured = "-" if one.value is None else f"{one.value:.{3 if one.value < 100 else 0}f}"
        relation = "at least" if one.at_least else "at most"
        limit = "" if one.limit is None else f"{relation} {one.limit:.3f}"
        outcome = {True: "holds", False: "does not hold", None: "not judged"}[one.holds]
        where = ""
        if one.details:
            closest = min(one.details, key=lambda row: one.details[row])
            ahead = sum(lead >= one.limit for lead in one.details.values())
            where = f"{ahead} of {len(one.details)} rows; {rows[closest]['title']}"
        lines.append(f"    {one.subject:<22} {measured:>7}   {limit:<15}  {outcome:<13}  "
                     f"{one.reason or where}".rstrip())
    return lines
