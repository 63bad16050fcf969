"""
The benchmark's report can be trusted: statistics and verdicts on figures that are known, what
becomes of a server that fails and of a run that is interrupted, and one real run, so short that its
figures mean nothing.

    BENCH_PROGRAMS  the folder tests/bench of a build, after "make bench-programs"; default: that of
                    the build in which ECHOD is. Without one, nothing really runs.

The plots need python3-matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import echod as driver
from echod import seconds
from procfs import processes_where, wait_until

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import bench  # noqa: E402  (they are not in this folder)
import client  # noqa: E402
import report  # noqa: E402
import rounds  # noqa: E402
import rows  # noqa: E402
import servers  # noqa: E402
import stats  # noqa: E402
import verdicts  # noqa: E402

FLOORS = ("floor-a", "floor-b")
PLOTS = ("throughput", "cpu", "udp", "latency", "memory")


# ---- Made-up measurements -----------------------------------------------------------------------

def measured(number: int, row: str, server: str, per_second: float = 100000.0, cpu_us: float = 7.0,
             p99: float = 500.0, rss_kb: float = 1000.0, lost: int = 0) -> stats.Measurement:
    """One that went well."""
    lines = int(per_second)
    return {"round": number, "row": row, "server": server, "lines": lines, "lost": lost,
            "per_second": per_second, "usage": {"cpu_ns": cpu_us * 1000 * lines, "rss_kb": rss_kb},
            "latency_us": {"p50": p99 / 4, "p99": p99, "p999": p99 * 3}}


def failed(number: int, row: str, server: str, reason: str = "it broke") -> stats.Measurement:
    return {"round": number, "row": row, "server": server, "failed": reason}


def document(measurements: list[stats.Measurement], **more: Any) -> dict[str, Any]:
    """What a run hands to the report."""
    used_rows = dict.fromkeys(one["row"] for one in measurements)
    used = {one["server"] for one in measurements}
    return {
        "schema": 1, "interrupted": None, "without_latency": None,
        "without_syscalls": None, "syscalls": {}, "histograms": {},
        "options": {"rounds": 3, "seconds": 1.0, "warmup": 0.2, "seed": 7, "quick": False},
        "machine": {
            "echod": "echod 0.1.0", "commit": "", "date": "2026-11-22T00:00:00Z", "processors": 2,
            "processor": "Any", "virtual": False, "memory_mb": 1, "distribution": "Debian",
            "kernel": "Linux", "compiler": "gcc", "libc": "glibc", "libevent": "2.1",
            "flags": "-O2", "load_average_before": [0, 0, 0], "mitigations": {}, "stolen": 0},
        "rows": {name: {"title": row.title, "group": row.group, "load": list(row.load),
                        "rate": 100000 * row.share or None, "idle": row.idle,
                        "datagrams": row.datagrams}
                 for name in used_rows for row in [rows.BY_NAME[name]]},
        "servers": {one.name: {"title": one.title, "version": "", "missing": None}
                    for one in servers.SERVERS if one.name in used},
        "measurements": measurements, **more}


def rounds_of(row: str, ours: dict[str, float], floor: dict[str, float] | None = None,
              **others: dict[str, float]) -> list[stats.Measurement]:
    """Three rounds in which nothing changes; others="uv" and such."""
    made = []
    for number in (1, 2, 3):
        made += [measured(number, row, name, **(floor or {})) for name in FLOORS]
        made.append(measured(number, row, "echod", **ours))
        made += [measured(number, row, name.replace("_", "-"), **figures)
                 for name, figures in others.items()]
    return made


def verdict(made: list[stats.Measurement], bar: str,
            subject: str | None = None) -> verdicts.Verdict:
    """The only one of that bar."""
    [found] = [one for one in verdicts.judge(document(made))
               if one.bar.startswith(bar) and subject in (None, one.subject)]
    return found


# ---- Statistics ---------------------------------------------------------------------------------

def test_a_summary_has_median_extremes_and_quartiles() -> None:
    assert stats.summary([5, 1, 3, 2, 4]) == {
        "n": 5, "median": 3, "min": 1, "max": 5, "q1": 2, "q3": 4}
    assert stats.summary([7]) == {"n": 1, "median": 7, "min": 7, "max": 7, "q1": 7, "q3": 7}


def test_servers_are_compared_within_a_round() -> None:
    """The machine slows down to a tenth; a median of each server's own would show it."""
    made = []
    for number, speed in ((1, 100.0), (2, 50.0), (3, 10.0)):
        made += [measured(number, "stream-50-32", name, speed * share)
                 for name, share in (("floor-a", 1.5), ("floor-b", 0.5), ("echod", 0.9))]
    made.append(measured(4, "stream-50-32", "echod", 1.0))  # alone in its round
    results = stats.Results(made)
    assert results.ratio_to_floor("stream-50-32", "echod", "per_second") == pytest.approx(0.9)
    assert results.ratio("stream-50-32", "echod", "floor-a", "per_second") == pytest.approx(0.6)
    assert results.floor("stream-50-32", "per_second") == {1: 100, 2: 50, 3: 10}


def test_a_round_with_one_floor_has_none() -> None:
    results = stats.Results([measured(1, "stream-1-32", "echod"),
                             measured(1, "stream-1-32", "floor-a"),
                             failed(1, "stream-1-32", "floor-b")])
    assert results.floor("stream-1-32", "per_second") == {}
    assert results.ratio_to_floor("stream-1-32", "echod", "per_second") is None
    assert results.floor_spread("stream-1-32", "per_second") is None


@pytest.mark.parametrize("shares,spread", [
    ([1, 1, 1, 1, 1], 0),
    ([0.8, 0.9, 1, 1.1, 1.2], 0.1),      # half of the distance between 0.9 and 1.1
    ([1.05, 1.05, 1.05, 1.05, 1.05], 0.05),  # always the same, and beside itself
])
def test_the_floors_spread_is_of_its_quartiles_or_its_median(shares: list[float],
                                                             spread: float) -> None:
    made = []
    for number, share in enumerate(shares):
        made += [measured(number, "once-1", "floor-a", 1000 * share),
                 measured(number, "once-1", "floor-b", 1000)]
    assert stats.Results(made).floor_spread("once-1", "per_second") == pytest.approx(spread)


def test_processor_time_is_for_a_line() -> None:
    results = stats.Results([measured(1, "once-1", "echod", per_second=3000, cpu_us=25.5)])
    assert results.median("once-1", "echod", "cpu_us") == pytest.approx(25.5)


def test_histograms_are_added() -> None:
    total = stats.add_histograms([[[1.0, 2], [4.0, 1]], [[2.0, 5], [4.0, 2]]])
    assert total == [[1.0, 2], [2.0, 5], [4.0, 3]]
    assert [stats.quantile(total, share) for share in (0.1, 0.5, 0.7, 0.71, 1)] == [1, 2, 2, 4, 4]


# ---- Verdicts -----------------------------------------------------------------------------------

BARS = [
    ("throughput", "stream-50-32", {"per_second": 97100}, {"per_second": 96900}, {}),
    ("processor time a line", "stream-50-32", {"cpu_us": 7.34}, {"cpu_us": 7.36}, {}),
    ("processor time a connection", "once-16", {"cpu_us": 6.15}, {"cpu_us": 6.17}, {}),
    ("p99", "latency-40", {"p99": 500}, {"p99": 501}, {}),
    ("datagrams, of floor", "udp-32-1x16", {"per_second": 115100}, {"per_second": 114900},
     {"udp_pktinfo": {}}),
    ("datagrams in trains", "train-1", {"per_second": 200100}, {"per_second": 199900},
     {"udp_pktinfo": {}}),
    ("datagrams, of xinetd", "udp-32-16x1", {"per_second": 100100}, {"per_second": 99900},
     {"xinetd": {"per_second": 50000}}),
    ("ahead", "stream-50-32", {"per_second": 90100}, {"per_second": 89900},
     {"uv": {"per_second": 90000}}),
    ("ahead", "stream-50-32", {"per_second": 85100}, {"per_second": 84900},
     {"uring": {"per_second": 100000}}),
]


@pytest.mark.parametrize("bar,row,good,bad,others", BARS)
def test_a_bar_holds_on_one_side_only(bar: str, row: str, good: dict[str, float],
                                      bad: dict[str, float], others: dict[str, Any]) -> None:
    assert verdict(rounds_of(row, good, **others), bar).holds is True
    assert verdict(rounds_of(row, bad, **others), bar).holds is False


def test_what_the_floor_itself_strays_is_no_fault() -> None:
    """0.9 of the floor is too little, unless the floor is 10 % beside itself."""
    quiet = rounds_of("stream-50-32", {"per_second": 90000})
    assert verdict(quiet, "throughput").holds is False
    for one in quiet:
        if one["server"] == "floor-a":
            one["per_second"] = (80000, 100000, 120000)[one["round"] - 1]
    restless = verdict(quiet, "throughput")
    assert restless.limit == pytest.approx(0.97 - 0.1)
    assert restless.holds is True


def test_a_restless_floor_is_no_yardstick() -> None:
    """It is 50 % beside itself: only what holds, or fails, without that is judged."""
    made = rounds_of("stream-50-32", {"per_second": 90000})
    for one in made:
        if one["server"] == "floor-a":
            one["per_second"] = (1, 100000, 200000)[one["round"] - 1]
    one = verdict(made, "throughput")
    assert one.limit == pytest.approx(0.47, abs=0.01)
    assert one.holds is None and "50 %" in one.reason
    for speed, holds in ((100000, True), (40000, False)):
        for ours in (one for one in made if one["server"] == "echod"):
            ours["per_second"] = speed
        assert verdict(made, "throughput").holds is holds


def test_one_datagram_at_a_time_is_not_compared_with_the_floor() -> None:
    made = rounds_of("udp-32-1x1", {}, udp_pktinfo={}, xinetd={"per_second": 90000})
    bars = {one.bar: one.holds for one in verdicts.judge(document(made))}
    assert bars == {"ahead in every row, closest": True}


def test_one_lost_row_is_enough_not_to_be_ahead() -> None:
    made = (rounds_of("stream-1-32", {}, uv={"per_second": 50000})
            + rounds_of("stream-50-32", {}, uv={"per_second": 100100}))
    one = verdict(made, "ahead", "libuv")
    assert one.holds is False
    assert one.details == pytest.approx({"stream-1-32": 2.0, "stream-50-32": 0.999}, abs=1e-3)


def test_memory_is_compared_by_what_a_connection_adds() -> None:
    """echod begins with more than libuv, and adds less."""
    made = (rounds_of("memory-0", {"rss_kb": 2000}, uv={"rss_kb": 100})
            + rounds_of("memory-1000", {"rss_kb": 2250}, uv={"rss_kb": 600}))
    one = verdict(made, "ahead", "libuv")
    assert one.details["memory-1000"] == pytest.approx(2.0)


# ---- Failures and interruptions -----------------------------------------------------------------

def test_a_bar_does_not_hold_where_echod_failed() -> None:
    made = rounds_of("stream-50-32", {"per_second": 200000}, uv={})
    made.append(failed(4, "stream-50-32", "echod", "1 errors; the first: reset"))
    for one in verdicts.judge(document(made)):
        assert one.holds is False
    assert "reset" in verdict(made, "throughput").reason
    assert report.failed("echod", document(made))


def test_a_peer_that_failed_is_a_dash_with_its_reason() -> None:
    made = [one for one in rounds_of("stream-50-32", {}, uv={}) if one["server"] != "uv"]
    made += [failed(1, "stream-50-32", "uv"), failed(2, "stream-50-32", "uv", "it broke again")]
    text = report.table(document(made))
    [row] = [line for line in text.splitlines() if line.startswith("libuv")][:1]
    assert row.split() == ["libuv", "-"]
    assert "libuv (stream-50-32): it broke" in text
    assert verdict(made, "ahead").holds is None
    assert not report.failed("echod", document(made))


def test_a_server_that_is_missing_is_told() -> None:
    one = document(rounds_of("stream-50-32", {}, uring={}))
    one["servers"]["uring"]["missing"] = "peers/uring is missing"
    assert "io_uring (all): peers/uring is missing" in report.table(one)


def test_an_interrupted_round_counts_as_far_as_it_went() -> None:
    made = rounds_of("stream-50-32", {"per_second": 98000})
    made += [measured(4, "stream-50-32", "echod", 1.0)]  # then came the signal
    one = document(made, interrupted="SIGINT")
    text = report.table(one)
    assert "INTERRUPTED by SIGINT: 4 of 3 rounds" in text
    assert verdict(made, "throughput").value == pytest.approx(0.98)


def test_nothing_measured_is_a_report_too(tmp_path: Path) -> None:
    report.write(document([], interrupted="SIGTERM"), tmp_path)
    assert "INTERRUPTED by SIGTERM" in (tmp_path / "table.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["measurements"] == []


# ---- The files ----------------------------------------------------------------------------------

def everything() -> dict[str, Any]:
    """A document with all rows and servers, one of which has failed in one row."""
    made = [measured(number, row.name, one.name, rss_kb=1000 + row.idle)
            for number in (1, 2, 3) for row in rows.ROWS for one in servers.SERVERS
            if row.kind in one.kinds]
    made = [failed(one["round"], one["row"], "ncat")
            if (one["row"], one["server"]) == ("stream-1000-32", "ncat") else one for one in made]
    return document(made, syscalls={"stream-1-32": {"echod": {"calls": 3.0},
                                                    "uv": {"failed": "no perf"}}})


def texts_of(path: Path) -> str:
    """What an SVG says, if it is one; letters are drawn, and named in comments only."""
    root = xml.etree.ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return path.read_text()


def test_the_report_is_a_table_json_and_plots(tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    one = everything()
    report.write(one, tmp_path)
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["measurements"] == one["measurements"]
    assert written["summary"]["stream-1-32"]["echod"]["per_second"]["median"] == 100000
    assert written["summary"]["stream-1000-32"]["ncat"]["failed"] == ["it broke"] * 3
    assert written["summary"]["stream-1000-32"]["ncat"]["per_second"] is None
    assert written["floor_spread"]["once-1"]["cpu_us"] == 0
    assert len(written["verdicts"]) == len(verdicts.judge(one))
    assert said.startswith((tmp_path / "table.txt").read_text())
    assert "3.00" in said and "no perf" in said
    for name in PLOTS:
        assert "echod" in texts_of(tmp_path / f"{name}.svg")


def test_the_report_can_be_made_anew(tmp_path: Path) -> None:
    report.write(everything(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "table.txt").unlink()
    (tmp_path / "cpu.svg").unlink()
    assert report.main([str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_matplotlib_there_are_no_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "plots", None)
    report.write(everything(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "table.txt"]
    assert "python3-matplotlib" in capsys.readouterr().err


def test_only_a_full_run_replaces_the_results_in_the_sources(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCH_RESULTS", "BENCH_PROGRAMS", "ECHOD"):
        monkeypatch.delenv(name, raising=False)
    inside = BENCH / "results"
    assert bench.results_folder(bench.parse([]), interrupted=False) == inside
    assert bench.results_folder(bench.parse(["--rounds", "20"]), interrupted=False) == inside
    assert bench.results_folder(bench.parse([]), interrupted=True) != inside
    for words in (["--quick"], ["--rounds", "14"], ["--only", "once-1"], ["--servers", "echod"]):
        assert bench.results_folder(bench.parse(words), interrupted=False) != inside


# ---- The rounds, with servers that are none -----------------------------------------------------

class FakeServer(servers.Server):
    kinds = ("stream", "paced", "once")

    def __init__(self, name: str) -> None:
        self.name = self.title = name

    def missing(self, place: servers.Place) -> str:
        return ""

    def start(self, kind: str, place: servers.Place) -> Any:
        return argparse.Namespace(name=self.name, stop=lambda: None)


class FakeBench(rounds.Bench):
    """Notes who was asked for what; `answer` is the load."""

    def __init__(self, row_names: list[str], server_names: list[str], number: int,
                 answer: Callable[[str], dict[str, Any]], seed: int = 1) -> None:
        options = argparse.Namespace(
            row_list=[rows.BY_NAME[name] for name in row_names], rounds=number, seconds=0.1,
            server_list=[FakeServer(name) for name in server_names], warmup=0.0, seed=seed,
            quick=False)
        super().__init__(options, servers.Place(*[Path("/nowhere")] * 4, 0, False), 0)
        self.client = argparse.Namespace(  # type: ignore[assignment]
            run=lambda server, *_: answer(server.name), cancel=lambda: None)
        self.counted: list[tuple[str, str]] = []

    def calls_of(self, row: rows.Row, server: servers.Server) -> dict[str, Any]:
        self.counted.append((row.name, server.name))
        return {"calls": 2.0}

    def asked(self) -> list[tuple[int, str, str]]:
        return [(one["round"], one["row"], one["server"]) for one in self.measurements]


def test_rounds_are_complete_interleaved_and_shuffled_by_the_seed() -> None:
    names, row_names = [f"s{i}" for i in range(8)], ["stream-1-32", "once-1"]
    runs = [FakeBench(row_names, names, 4, lambda _: {}, seed) for seed in (1, 1, 2)]
    for run in runs:
        run.run()
    assert runs[0].asked() == runs[1].asked() != runs[2].asked()
    orders = set()
    for number in range(4):
        part = runs[0].asked()[number * 16:(number + 1) * 16]
        assert [one[:2] for one in part] == [(number + 1, row) for row in row_names
                                             for _ in names]
        assert sorted(one[2] for one in part[:8]) == sorted(one[2] for one in part[8:]) == names
        orders.add(tuple(one[2] for one in part[:8]))
    assert len(orders) > 1
    assert sorted(runs[0].counted) == sorted((row, name) for row in row_names for name in names)


def test_a_server_that_fails_twice_is_left_out_of_that_row() -> None:
    def answer(name: str) -> dict[str, Any]:
        if name == "bad":
            raise servers.Failure("no")
        return {}
    run = FakeBench(["once-1"], ["good", "bad"], 5, answer)
    run.run()
    asked = [server for _, _, server in run.asked()]
    assert (asked.count("good"), asked.count("bad")) == (5, rounds.GIVE_UP)
    assert run.counted == [("once-1", "good")]


def test_without_perf_the_run_goes_on_without_system_calls() -> None:
    run = FakeBench(["once-1"], ["a", "b"], 1, lambda _: {})

    def calls_of(row: rows.Row, server: servers.Server) -> dict[str, Any]:
        run.counted.append((row.name, server.name))
        raise client.NoPerf("there is none")
    run.calls_of = calls_of  # type: ignore[method-assign]
    run.run()
    assert len(run.counted) == 1  # the others would hear the same
    said = run.document({}, 0)["without_syscalls"]
    assert said == "there is none"
    text = report.table(document(rounds_of("once-1", {}), without_syscalls=said))
    assert "system calls (all): there is none" in text


def test_a_signal_keeps_what_was_measured() -> None:
    calls = []

    def answer(name: str) -> dict[str, Any]:
        calls.append(name)
        if len(calls) == 5:
            run.interrupt(signal.SIGTERM, None)
            raise servers.Failure("it was killed")  # as the load is, by the handler
        return {}
    run = FakeBench(["once-1"], ["a", "b"], 9, answer)
    with pytest.raises(rounds.Interrupted):
        run.run()
    assert len(run.measurements) == 4
    assert not any("failed" in one for one in run.measurements)
    assert run.document({}, 0)["interrupted"] == "SIGTERM"


def test_rates_are_shares_of_the_floors_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter((90.0, 200.0, 100.0))
    monkeypatch.setitem(servers.BY_NAME, "floor-a", FakeServer("floor-a"))
    run = FakeBench(["latency-20", "latency-80"], [], 1, lambda _: {"per_second": next(figures)})
    run.run()
    assert run.rates == pytest.approx({"latency-20": 20, "latency-80": 80})


def test_without_a_floor_there_are_no_latency_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str) -> dict[str, Any]:
        if name == "floor-a":
            raise servers.Failure("no")
        return {}
    monkeypatch.setitem(servers.BY_NAME, "floor-a", FakeServer("floor-a"))
    run = FakeBench(["once-1", "latency-20"], ["a"], 1, answer)
    run.run()
    assert run.asked() == [(1, "once-1", "a")]
    assert "the floor failed" in run.document({}, 0)["without_latency"]


# ---- Real runs ----------------------------------------------------------------------------------

@pytest.fixture
def programs() -> Path:
    given = os.environ.get("BENCH_PROGRAMS")
    folder = Path(given) if given else driver.executable().parents[1] / "tests" / "bench"
    if not given and not (folder / "load").exists():
        pytest.skip("BENCH_PROGRAMS is not set, and there are none beside ECHOD")
    for program in ("load", "peers/floor"):
        assert os.access(folder / program, os.X_OK), f"no {folder / program}: make bench-programs"
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path stands in the command lines of what is started there, and is short: sockets."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    yield path
    shutil.rmtree(path)


def start(programs: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCH / "bench.py"), "--echod", str(driver.executable()),
               "--programs", str(programs), "--results", str(folder / "results"),
               "--servers", "echod,floor-*", *words]
    return subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def left_behind(folder: Path) -> list[Any]:
    return processes_where(lambda p: any(str(folder) in word for word in p.cmdline))


def test_a_short_run_measures_and_reports(programs: Path, folder: Path) -> None:
    chosen = ("stream-50-32", "once-1", "memory-0", "memory-1000")
    with start(programs, folder, "--quick", "--rounds", "2", "--seconds", "0.1", "--seed", "42",
               *(word for row in chosen for word in ("--only", row))) as process:
        said, errors = process.communicate(timeout=seconds(50))
    assert process.returncode == 0, said + errors
    assert "seed 42" in errors and "round 2/2" in errors
    written = json.loads((folder / "results/results.json").read_text())
    found = sorted((one["round"], one["row"], one["server"]) for one in written["measurements"])
    assert found == sorted((number, row, server) for number in (1, 2) for row in chosen
                           for server in ("echod", *FLOORS))
    for one in written["measurements"]:
        assert one["errors"] == 0 and one["lines"] > 0 and one["per_second"] > 0, one
        assert one["usage"]["cpu_ns"] > 0 and one["usage"]["rss_kb"] > 0, one
    each = verdicts.Judge(stats.Results(written["measurements"]), written["rows"],
                          written["servers"]).for_connection("memory-1000", "echod")
    assert each is not None and each > 0
    if not written["without_syscalls"]:  # as without the right to use perf
        for row in ("stream-50-32", "once-1"):
            for server, calls in written["syscalls"][row].items():
                # Each reply leaves by a call of its own.
                assert calls["calls"] >= 1 if "calls" in calls else calls["failed"], (server, calls)
    assert "thousand lines a second" in said and (folder / "results/table.txt").read_text() in said
    for name in ("throughput", "cpu", "memory"):
        assert "echod" in texts_of(folder / f"results/{name}.svg")
    assert sorted(path.name for path in folder.iterdir()) == ["results"]
    assert left_behind(folder) == []


def test_sigterm_ends_a_run_with_its_report(programs: Path, folder: Path) -> None:
    with start(programs, folder, "--rounds", "1000", "--seconds", "0.05", "--warmup", "0",
               "--only", "once-1") as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("round 2/"):
                    break
            process.send_signal(signal.SIGTERM)
            said, errors = process.communicate(timeout=seconds(50))
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, said + errors
    written = json.loads((folder / "results/results.json").read_text())
    assert written["interrupted"] == "SIGTERM"
    assert {one["server"] for one in written["measurements"]} == {"echod", *FLOORS}
    assert "INTERRUPTED by SIGTERM" in said
    wait_until(lambda: not left_behind(folder), seconds(5), "nothing is left")


def test_wrong_words_are_told(programs: Path, folder: Path) -> None:
    for words, told in ((["--only", "nothing"], "there is no row nothing"),
                        (["--servers", "nobody"], "there is no server nobody"),
                        (["--rounds", "0"], "more than 0")):
        with start(programs, folder, *words) as process:
            _, errors = process.communicate(timeout=seconds(20))
        assert process.returncode == 2 and told in errors, errors
