"""
The plots of a run, with python3-matplotlib: throughput, cpu, udp, latency and memory, each an SVG
of the width of a page. The floor is a grey band, from the lowest first to the highest third
quartile of its two runs; a dot is a median, a thick line the quartiles, a thin one all that was
measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice above)
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

from stats import FLOOR, Results  # noqa: E402
from verdicts import Judge  # noqa: E402

# Okabe and Ito: colours that can be told apart by all.
OURS, OTHER, BAND, MIDDLE = "#D55E00", "#0072B2", "#D0D0D0", "#808080"
LINES = {"bufferevent": ("#0072B2", "s", "--"), "uv": ("#009E73", "^", "-."),
         "uring": ("#CC79A7", "D", ":")}
UDP_FLOOR = ("udp-pktinfo",)
WIDTH = 7.2  # inches, both columns of a page
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 6.5, "axes.labelsize": 7,
    "xtick.labelsize": 6.5, "ytick.labelsize": 7, "legend.fontsize": 6.5, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "echod",
    "axes.axisbelow": True,
}
FLOOR_KEY = Patch(facecolor=BAND, label="floor: quartiles of its two runs")
# Panels in this order, four (UDP: five) to a line; what is not measured leaves no gap.
STREAMS = ("stream-1-32", "stream-50-32", "stream-1000-32", "pipeline-50-32",
           "stream-1-4096", "stream-50-4096", "stream-1000-4096", "once")
DATAGRAMS = ("udp-32-1x1", "udp-32-1x16", "udp-32-16x1", "udp-32-16x16", "train-1",
             "udp-1400-1x1", "udp-1400-1x16", "udp-1400-16x1", "udp-1400-16x16", "train-16")


class Plots:
    """Of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.rows, self.servers = document["rows"], document["servers"]
        self.results = Results(document["measurements"])
        self.judge = Judge(self.results, self.rows, self.servers)

    def title(self, server: str) -> str:
        return self.servers[server]["title"]

    def band(self, row: str, metric: str, unit: float,
             floor: Sequence[str] = FLOOR) -> tuple[float, float] | None:
        found = [s for name in floor if (s := self.results.summary(row, name, metric))]
        if not found:
            return None
        return min(s["q1"] for s in found) / unit, max(s["q3"] for s in found) / unit

    # ---- Dots: a panel for each row, a line for each server --------------------------------------

    def dot(self, axes: Axes, at: float, row: str, server: str, metric: str, unit: float) -> None:
        one = self.results.summary(row, server, metric)
        if one is None:
            axes.text(0.04, at, "failed", transform=axes.get_yaxis_transform(), va="center",
                      fontsize=6, style="italic", color=MIDDLE)
            return
        colour, size = (OURS, 5.5) if server == "echod" else (OTHER, 3.5)
        axes.plot([one["min"] / unit, one["max"] / unit], [at, at], color=colour, linewidth=0.7)
        axes.plot([one["q1"] / unit, one["q3"] / unit], [at, at], color=colour, linewidth=2.2,
                  solid_capstyle="butt")
        axes.plot(one["median"] / unit, at, "o", color=colour, markersize=size,
                  markeredgecolor="white", markeredgewidth=0.4)

    def panel(self, axes: Axes, row: str, servers: list[str], metric: str, unit: float,
              floor: Sequence[str]) -> None:
        if band := self.band(row, metric, unit, floor):
            axes.axvspan(*band, color=BAND, linewidth=0)
            axes.axvline(sum(band) / 2, color=MIDDLE, linewidth=0.6)
        for at, server in enumerate(servers):
            self.dot(axes, at, row, server, metric, unit)
        axes.set_yticks(range(len(servers)), [self.title(server) for server in servers])
        axes.set_ylim(len(servers) - 0.5, -0.5)
        self.embolden(axes)

    def once_panel(self, axes: Axes, rows: list[str], metric: str, unit: float) -> None:
        """One line a connection: echod and the floor alone, so all rows share a panel."""
        for at, row in enumerate(rows):
            if band := self.band(row, metric, unit):
                axes.fill_between(band, at - 0.3, at + 0.3, color=BAND, linewidth=0)
                axes.plot([sum(band) / 2] * 2, [at - 0.3, at + 0.3], color=MIDDLE, linewidth=0.6)
            self.dot(axes, at, row, "echod", metric, unit)
        axes.set_yticks(range(len(rows)), [self.rows[row]["title"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)

    @staticmethod
    def embolden(axes: Axes) -> None:
        for label in axes.get_yticklabels():
            if label.get_text() == "echod":
                label.set_fontweight("bold")
                label.set_color(OURS)

    def servers_of(self, rows: Sequence[str], hidden: Sequence[str]) -> list[str]:
        asked = {server for row in rows for server in self.results.servers(row)}
        return [name for name in self.servers if name in asked and name not in hidden]

    def dots(self, order: Sequence[str], columns: int, metric: str, unit: float, label: str,
             floor: Sequence[str] = FLOOR, log: bool = False) -> Figure | None:
        once = [row for row in self.rows if self.rows[row]["group"] == "once"]
        panels = [row for row in order if row in self.rows or (row == "once" and once)]
        if not panels:
            return None
        servers = self.servers_of([row for row in panels if row != "once"], floor)
        if not servers and panels != ["once"]:
            return None  # the floor alone
        columns = min(columns, len(panels))
        lines = -(-len(panels) // columns)
        width = min(WIDTH, max(WIDTH * columns / 4, 3.6))
        height = 0.55 + lines * (0.75 + 0.15 * max(len(servers), 3))
        figure, grid = plt.subplots(lines, columns, squeeze=False, layout="constrained",
                                    figsize=(width, height))
        for number, axes in enumerate(grid.flat):
            if number >= len(panels):
                axes.set_axis_off()
                continue
            row = panels[number]
            if row == "once":
                self.once_panel(axes, once, metric, unit)
            else:
                self.panel(axes, row, servers, metric, unit, floor)
                if number % columns:
                    axes.tick_params(labelleft=False)
            axes.set_title(panel_title(row, self.rows))
            scale(axes, log)
        figure.supxlabel(label, fontsize=7.5)
        return figure

    # ---- Curves ----------------------------------------------------------------------------------

    def curve(self, axes: Axes, server: str, rows: list[str], at: list[float], metric: str,
              unit: float, label: str = "") -> None:
        """Medians with quartiles, where there are any."""
        found = [(x, s) for x, row in zip(at, rows)
                 if (s := self.results.summary(row, server, metric))]
        if not found:
            return
        colour, marker, line = (OURS, "o", "-") if server == "echod" else LINES[server]
        errors = [[(s["median"] - s["q1"]) / unit for _, s in found],
                  [(s["q3"] - s["median"]) / unit for _, s in found]]
        axes.errorbar([x for x, _ in found], [s["median"] / unit for _, s in found], errors,
                      color=colour, marker=marker, linestyle=line, markersize=4, capsize=1.5,
                      linewidth=1.8 if server == "echod" else 1.1, elinewidth=0.8,
                      label=self.title(server) + label, zorder=3 if server == "echod" else 2)

    def floor_curve(self, axes: Axes, rows: list[str], at: list[float], metric: str,
                    unit: float) -> None:
        bands = [(x, band) for x, row in zip(at, rows) if (band := self.band(row, metric, unit))]
        if bands:
            axes.fill_between([x for x, _ in bands], [b[0] for _, b in bands],
                              [b[1] for _, b in bands], color=BAND, linewidth=0)
            axes.plot([x for x, _ in bands], [sum(b) / 2 for _, b in bands], color=MIDDLE,
                      linewidth=0.7)

    def latency(self) -> Figure | None:
        rows = [row for row in self.rows if self.rows[row]["group"] == "latency"]
        if not rows:
            return None
        servers = [name for name in self.servers_of(rows, FLOOR) if name in ("echod", *LINES)]
        loads = [self.rows[row]["rate"] / 1000 for row in rows]
        figure, grid = plt.subplots(1, 3, sharey=True, figsize=(WIDTH, 2.4), layout="constrained")
        for axes, (metric, title) in zip(grid, (("p50_us", "median"), ("p99_us", "99 %"),
                                                ("p999_us", "99.9 %"))):
            self.floor_curve(axes, rows, loads, metric, 1)
            for server in servers:
                self.curve(axes, server, rows, loads, metric, 1)
            axes.set_title(title)
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
            axes.set_xlim(0, max(loads) * 1.06)
            axes.grid(axis="y", which="both", color="#EEEEEE", linewidth=0.5)
        grid[0].set_ylabel("latency (µs)")
        grid[1].set_xlabel("offered load (thousand lines a second, 50 connections)")
        handles, _ = grid[0].get_legend_handles_labels()
        key_above(figure, [*handles, FLOOR_KEY])
        return figure

    def memory(self) -> Figure | None:
        rows = [row for row in self.rows if self.rows[row]["group"] == "memory"]
        if not rows:
            return None
        idle = [self.rows[row]["idle"] / 1000 for row in rows]
        figure, axes = plt.subplots(figsize=(WIDTH / 2, 2.8), layout="constrained")
        self.floor_curve(axes, rows, idle, "rss_kb", 1024)
        for server in self.servers_of(rows, FLOOR):
            each = self.judge.for_connection(rows[-1], server)
            self.curve(axes, server, rows, idle, "rss_kb", 1024,
                       "" if each is None else f", {round(each)} B a connection")
        axes.set_xlabel("idle connections (thousands)")
        axes.set_ylabel("resident memory of all processes (MiB)")
        axes.set_ylim(bottom=0)
        axes.set_xlim(-0.02 * max(idle), max(max(idle) * 1.05, 0.1))
        handles, _ = axes.get_legend_handles_labels()
        key_above(figure, [*handles, FLOOR_KEY], columns=2)
        return figure

    def all(self) -> dict[str, Figure | None]:
        return {
            "throughput": self.dots(STREAMS, 4, "per_second", 1000,
                                    "throughput (thousand lines, or connections, a second)"),
            "cpu": self.dots(STREAMS, 4, "cpu_us", 1, "processor time of the server "
                             "(µs a line, or connection; logarithmic)", log=True),
            "udp": self.dots(DATAGRAMS, 5, "per_second", 1000,
                             "throughput (thousand datagrams a second)", UDP_FLOOR),
            "latency": self.latency(),
            "memory": self.memory(),
        }


def panel_title(row: str, rows: dict[str, Any]) -> str:
    """As a caption has it; the tables have less room."""
    kind, *words = row.split("-")
    if kind == "stream":
        return f"{words[0]} connection{'s' if words[0] != '1' else ''}, {words[1]} B"
    if kind == "pipeline":
        return "50 connections, 32 B, 16 deep"
    if kind == "udp":
        sockets, window = words[1].split("x")
        plural = "s" if sockets != "1" else ""
        return f"{sockets} socket{plural}, window {window},\n{words[0]} B"
    if kind == "train":
        return f"{words[0]} socket{'s' if words[0] != '1' else ''},\ntrains of 16, 1400 B"
    return "one line a connection" if kind == "once" else rows[row]["title"]


def plain_numbers(axis: Axis) -> None:
    """100, not ten to the second; 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def scale(axes: Axes, log: bool) -> None:
    if log:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        first, last = axes.get_xlim()
        if last > 20 * first:  # then there is no room for more than the decades
            axes.xaxis.set_major_locator(LogLocator())
    else:
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.5)


def key_above(figure: Figure, handles: list[Artist], columns: int = 4) -> None:
    """A strip for the key, where no figure can lie behind it."""
    lines = -(-len(handles) // columns)
    strip = (0.08 + 0.14 * lines) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - strip))
    figure.legend(handles=handles, loc="upper right", ncol=columns, borderaxespad=0.2,
                  columnspacing=1.2, handlelength=1.7)


def add_key(figure: Figure, floor: str) -> None:
    """That of a figure of dots."""
    key_above(figure, [
        Line2D([], [], color=OURS, marker="o", markersize=5, linewidth=2.2, label="echod"),
        Line2D([], [], color=OTHER, marker="o", markersize=3.5, linewidth=2.2,
               label="others: median, quartiles, range"),
        Patch(facecolor=BAND, label=floor)])


def draw(document: dict[str, Any], folder: Path) -> None:
    """One file for each kind of row that was asked for."""
    with plt.rc_context(STYLE):
        for name, figure in Plots(document).all().items():
            if figure is None:
                continue
            if name in ("throughput", "cpu"):
                add_key(figure, FLOOR_KEY.get_label())
            if name == "udp":
                add_key(figure, "floor --udp --pktinfo: quartiles")
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
