#!/usr/bin/python3
"""
The report of a run: tables on the terminal and in table.txt, results.json, plots.

    report.py FOLDER      makes table.txt and the plots anew from the folder's results.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

import machine
import verdicts
from stats import METRICS, Results
from verdicts import Judge

COUNTED = ("stream", "once", "udp")  # the groups whose system calls are counted
NAME_WIDTH = 21

Cell = Callable[[str, str], str]


# ---- Tables -------------------------------------------------------------------------------------

def short(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    for digits, bound in ((0, 99.95), (1, 9.995), (2, 0)):
        if abs(value) >= bound:
            return f"{value:.{digits}f}"
    return f"{value:.2f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def grid(title: str, columns: Sequence[str], lines: dict[str, list[str]]) -> list[str]:
    """A table: names, then columns as wide as what they hold."""
    widths = [max(len(column), *(len(cells[i]) for cells in lines.values())) + 2
              for i, column in enumerate(columns)]
    text = ["", title, " " * NAME_WIDTH + "".join(c.rjust(w) for c, w in zip(columns, widths))]
    for name, cells in lines.items():
        text.append(name.ljust(NAME_WIDTH) + "".join(c.rjust(w) for c, w in zip(cells, widths)))
    return text


class Tables:
    """The tables of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.results = Results(document["measurements"])
        self.judge = Judge(self.results, document["rows"], document["servers"])

    def rows_of(self, *groups: str) -> list[str]:
        return [name for name, row in self.document["rows"].items() if row["group"] in groups]

    def servers_of(self, rows: list[str]) -> list[str]:
        """In the order of the document, those that were asked for one of the rows."""
        asked = {server for row in rows for server in self.results.servers(row)}
        return [name for name in self.document["servers"] if name in asked]

    def _table(self, title: str, rows: list[str], cell: Cell, spread: str = "") -> list[str]:
        """`spread`: the figure for which the floor's spread is a line of its own."""
        servers = self.servers_of(rows)
        if not servers:
            return []
        lines = {self.document["servers"][server]["title"]: [cell(row, server) for row in rows]
                 for server in servers}
        if spread and any(self.results.floor_spread(row, spread) is not None for row in rows):
            lines["the floor's spread"] = [percent(self.results.floor_spread(row, spread))
                                           for row in rows]
        return grid(title, [self.document["rows"][row]["title"] for row in rows], lines)

    def figure(self, title: str, rows: list[str], metric: str, unit: float = 1) -> list[str]:
        def cell(row: str, server: str) -> str:
            median = self.results.median(row, server, metric)
            return short(None if median is None else median / unit)
        return self._table(title, rows, cell, metric)

    def syscalls(self, title: str, rows: list[str]) -> list[str]:
        def cell(row: str, server: str) -> str:
            return short(self.document["syscalls"].get(row, {}).get(server, {}).get("calls"))
        return self._table(title, rows, cell) if self.document["syscalls"] else []

    def memory(self, rows: list[str]) -> list[str]:
        def cell(row: str, server: str) -> str:
            median = self.results.median(row, server, "rss_kb")
            each = self.judge.for_connection(row, server)
            total = "-" if median is None else f"{median:.0f} KiB"
            return total + (f", {round(each)} B each" if each is not None else "")
        return self._table("Memory of all processes, and for each idle connection", rows, cell)

    def all(self) -> list[str]:
        stream, once, udp = (self.rows_of(name) for name in ("stream", "once", "udp"))
        latency = self.rows_of("latency")
        return [
            *self.figure("TCP, connections x bytes of a line: thousand lines a second",
                         stream, "per_second", 1000),
            *self.figure("processor time of the server, microseconds a line", stream, "cpu_us"),
            *self.figure("99th percentile of the latency, microseconds", stream, "p99_us"),
            *self.syscalls("system calls a line", stream),
            *self.figure("One line a connection: thousand connections a second",
                         once, "per_second", 1000),
            *self.figure("processor time of the server, microseconds a connection", once, "cpu_us"),
            *self.syscalls("system calls a connection", once),
            *self.figure("UDP, sockets x window: thousand datagrams a second",
                         udp, "per_second", 1000),
            *self.figure("processor time of the server, microseconds a datagram", udp, "cpu_us"),
            *self.syscalls("system calls a datagram", udp),
            *self.figure("Latency under a given load, share of the floor's throughput, 50 "
                         "connections: median, microseconds", latency, "p50_us"),
            *self.figure("99th percentile", latency, "p99_us"),
            *self.figure("99.9th percentile", latency, "p999_us"),
            *self.memory(self.rows_of("memory")),
        ]

    # ---- Below the tables ------------------------------------------------------------------------

    def reasons(self) -> list[str]:
        """Why there are dashes: each reason once, with the rows that it explains."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, server in self.document["servers"].items():
            if server["missing"]:
                found[server["title"], server["missing"]] = ["all"]
            for row in self.document["rows"]:
                for reason in self.results.failures(row, name)[:1]:
                    found.setdefault((server["title"], reason), []).append(row)
        for row, counted in self.document["syscalls"].items():
            for name, one in counted.items():
                if "failed" in one:
                    title = f"{self.document['servers'][name]['title']}, system calls"
                    found.setdefault((title, one["failed"]), []).append(row)
        for what, key in (("latency", "without_latency"), ("system calls", "without_syscalls")):
            if self.document[key]:
                found[what, self.document[key]] = ["all"]
        lines = [f"  {title} ({', '.join(rows)}): {reason}"
                 for (title, reason), rows in found.items()]
        return ["", "What failed or is missing:", *lines] if lines else []

    def lost(self) -> list[str]:
        """Datagrams that did not come back, where it is more than one in a thousand."""
        lines = []
        for row in self.rows_of("udp"):
            for name in self.servers_of([row]):
                of_cell = [one for one in self.results.measurements if one["row"] == row
                           and one["server"] == name and "failed" not in one]
                sent = sum(one["lines"] + one["lost"] for one in of_cell)
                lost = sum(one["lost"] for one in of_cell)
                if lost * 1000 > sent:
                    lines.append(f"  {self.document['servers'][name]['title']}, {row}: "
                                 f"{percent(lost / sent)} of the datagrams")
        return ["", "Lost, each a time-out of the client:", *lines] if lines else []


def head(document: dict[str, Any]) -> list[str]:
    options = document["options"]
    rounds = max((one["round"] for one in document["measurements"]), default=0)
    lines = machine.text(document["machine"])
    lines.append(f"medians of {rounds} interleaved rounds of {options['seconds']:g} s, "
                 f"seed {options['seed']}")
    if document["machine"]["stolen"] > 0.01:
        lines.append("the hypervisor gave others "
                     f"{percent(document['machine']['stolen'])} of the time")
    if document["interrupted"]:
        lines.append(f"INTERRUPTED by {document['interrupted']}: {rounds} of {options['rounds']} "
                     "rounds were begun")
    return lines


def table(document: dict[str, Any]) -> str:
    """The whole text."""
    tables = Tables(document)
    lines = [*head(document), *tables.all(), *tables.lost(), *tables.reasons()]
    lines += ["", "The project's own bars: echod, median of the ratios of the rounds"]
    lines += verdicts.text(verdicts.judge(document), document["rows"])
    return "\n".join(lines) + "\n"


# ---- Files --------------------------------------------------------------------------------------

def complete(document: dict[str, Any]) -> dict[str, Any]:
    """With what is derived from the measurements."""
    results = Results(document["measurements"])
    summaries: dict[str, Any] = {}
    spreads: dict[str, Any] = {}
    for row in results.rows():
        spreads[row] = {metric: results.floor_spread(row, metric) for metric in METRICS}
        summaries[row] = {
            server: {metric: results.summary(row, server, metric) for metric in METRICS}
            | {"failed": results.failures(row, server)}
            for server in results.servers(row)}
    judged = [one.as_dict() for one in verdicts.judge(document)]
    return {**document, "summary": summaries, "floor_spread": spreads, "verdicts": judged}


def failed(server: str, document: dict[str, Any]) -> bool:
    """In any row, or is it missing?"""
    return any(one["server"] == server and "failed" in one for one in document["measurements"]) \
        or bool(document["servers"].get(server, {}).get("missing"))


def dump(document: dict[str, Any]) -> str:
    """JSON with a line for each measurement."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("  " + json.dumps(one) for one in value) + "\n ]"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _replace(path: Path, text: str) -> None:
    """As a whole, or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def write(document: dict[str, Any], folder: Path) -> None:
    """Print the tables; write results.json, table.txt and the plots."""
    text = table(document)
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.json", dump(complete(document)))
    _replace(folder / "table.txt", text)
    draw(document, folder)
    print(f"Results: {folder}")


def draw(document: dict[str, Any], folder: Path) -> None:
    try:
        import plots
    except ImportError as error:
        print(f"bench: no plots: {error}; on Debian: apt-get install python3-matplotlib",
              file=sys.stderr)
        return
    plots.draw(document, folder)


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        print("Usage: report.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(words[0])
    document = json.loads((folder / "results.json").read_text())
    write(document, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
