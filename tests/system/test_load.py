"""
The benchmarks' load generator (tests/bench) can be trusted: it finds what a server does wrong,
hides no stall, and counts what others count, too.

    BENCH_PROGRAMS      the folder where tests/bench is built, with load in it; default: beside the
                        echod of ECHOD where that is a build directory, and built there if need be
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest

import echod as driver
from echod import Echod, seconds
from procfs import Process, wait_until
from wrongservers import (HOST, DatagramBehaviour, DatagramServer, StreamBehaviour, StreamServer,
                          lines_of, reset)

TICK = 1 / os.sysconf("SC_CLK_TCK")


# ---- The program --------------------------------------------------------------------------------

def built_beside(executable: Path) -> Path | None:
    """The program in the build directory of this echod, made if need be; None: it is in none."""
    build = executable.parent.parent
    if not (build / "Makefile").exists() or executable != build / "src" / "echod":
        return None
    with open(build / "Makefile", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other tests may look at the same time
        subprocess.run(["make", "-s", "-C", str(build), "tests/bench/load"], check=True,
                       stdout=subprocess.DEVNULL)
    return build / "tests" / "bench" / "load"


@pytest.fixture(scope="session")
def load_program() -> Path:
    folder = os.environ.get("BENCH_PROGRAMS", "")
    path = Path(folder) / "load" if folder else built_beside(driver.executable())
    if path is None:
        pytest.skip("ECHOD is installed and BENCH_PROGRAMS is not set: where load is, is not known")
    assert os.access(path, os.X_OK), f"there is no {path}: make bench-programs"
    return path


@dataclass
class Result:
    """What one run of load has said."""

    code: int
    said: dict[str, Any]
    usage: resource.struct_rusage  # of the whole process
    elapsed: float                 # seconds from its begin to its end

    def __getattr__(self, name: str) -> Any:
        return self.said[name]

    def slower_than(self, limit_us: float) -> int:
        """How many lines took longer."""
        return sum(count for upper, count in self.histogram if upper > limit_us)


class Generator:
    """load, against one port."""

    def __init__(self, program: Path, port: int) -> None:
        self.program = program
        self.port = port

    def command(self, *words: object) -> list[str]:
        return [str(self.program), *map(str, words), HOST, str(self.port)]

    def __call__(self, *words: object, expect: int | None = 0) -> Result:
        """One run, a short one unless told; `expect` is the exit code it must have."""
        command = self.command("--warmup", 0, "--seconds", 0.3, *words)
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        code = process.returncode
        assert code in ((0, 1) if expect is None else (expect,)), (command, code, text)
        assert text.endswith("}\n") and text.count("\n") == 1, text
        result = Result(code, json.loads(text), usage, time.monotonic() - begun)
        assert (result.errors == 0) == (result.first_error is None) == (code == 0), result.said
        assert sum(count for _, count in result.histogram) == result.lines
        return result

    def finds(self, pattern: str, *words: object) -> Result:
        """There is an error, and the first one is described so."""
        result = self(*words, expect=1)
        assert re.search(pattern, result.first_error), result.first_error
        return result


@pytest.fixture
def load(load_program: Path) -> Generator:
    """To be told a port."""
    return Generator(load_program, 0)


def serve(echod: Echod, load: Generator, *listen: str, **settings: Any) -> None:
    """A line service without limits; `load` is told its port."""
    places = listen or (f"{HOST}:{echod.port}",)
    given = {"max_lines": 0, "workers": 2, **settings}
    echod.configure(echod.service("line", listen=list(places), **given))
    echod.start()
    load.port = echod.port


def echo_lines(_server: StreamServer, conn: socket.socket, _number: int) -> None:
    for line in lines_of(conn):
        conn.sendall(line)


# ---- A right server -----------------------------------------------------------------------------

STREAMS: dict[str, list[object]] = {
    "one connection": [],
    "many": ["--connections", 100],
    "pipelined": ["--connections", 10, "--pipeline", 50],
    "two bytes": ["--size", 2, "--pipeline", 7],
    "numbers only": ["--size", 17, "--pipeline", 7],
    "long lines": ["--size", 65000, "--connections", 4, "--pipeline", 9],
    "from several addresses": ["--connections", 20, "--sources", 7],
    "at a rate": ["--connections", 10, "--rate", 2000],
    "at a rate, pipelined": ["--connections", 3, "--pipeline", 4, "--rate", 5000],
}
DATAGRAMS: dict[str, list[object]] = {
    "one socket": [],
    "a window": ["--connections", 5, "--pipeline", 20],
    "long": ["--size", 60000],
    "trains": ["--connections", 2, "--train", 20, "--pipeline", 2],
    "trains of long ones": ["--size", 1400, "--train", 40],
    "at a rate": ["--connections", 5, "--rate", 2000],
    "trains at a rate": ["--connections", 5, "--train", 10, "--rate", 5000],
}
ONE_LINE: dict[str, list[object]] = {
    "one after the other": [],
    "many at a time": ["--connections", 50],
    "long lines": ["--connections", 4, "--size", 65000],
    "from several addresses": ["--connections", 20, "--sources", 7],
    "at a rate": ["--connections", 20, "--rate", 1000],
}


def assert_plausible(result: Result) -> None:
    assert result.seconds >= 0.3 and result.server is None
    if result.lines == 0:
        # The daemon got no processor for so long; what it did afterwards is not counted here.
        assert result.unfinished["oldest_us"] >= 0.29e6, result.said
        return
    latency = result.latency_us
    order = [latency[key] for key in ("min", "p50", "p90", "p99", "p999", "max")]
    assert 0 < order[0] and order == sorted(order), result.said
    assert latency["min"] <= latency["mean"] <= latency["max"]
    assert result.per_second == pytest.approx(result.lines / result.seconds, rel=1e-3)


def counter(echod: Echod, name: str) -> int:
    return echod.service_status()["counters"][name]


def assert_counted(echod: Echod, name: str, result: Result) -> None:
    """
    The daemon has answered what came back in time and what was awaited afterwards, nothing else. At
    a rate, some that were due may not have been sent.
    """
    most = result.lines + result.unfinished["lines"]
    least = most if result.client["issue_delay_us"] is None else result.lines
    wait_until(lambda: counter(echod, name) >= least, seconds(10), "the daemon has counted")
    assert least <= counter(echod, name) <= most


def assert_latency_fills_the_time(result: Result, places: int, least: float) -> None:
    """
    In closed loop each place has always a line under way: all latencies together, and the age of
    what is not finished, make up the time (Little's law). A datagram begins when it is sent, a bit
    after the reply to the one before.
    """
    whole = places * result.seconds * 1e6
    found = result.latency_us["mean"] * result.lines
    assert result.unfinished["lines"] == places
    assert found + places * result.unfinished["oldest_us"] >= least * whole
    assert found <= 1.5 * whole  # the first ones began a moment before


@pytest.mark.parametrize("words", [[], ["--connections", 7, "--pipeline", 5]], ids=["one", "many"])
@pytest.mark.parametrize("kind", [[], ["--udp"]], ids=["lines", "datagrams"])
def test_latencies_fill_the_time(echod: Echod, load: Generator, kind: list[object],
                                 words: list[object]) -> None:
    serve(echod, load, f"tcp:{HOST}:{echod.port}", f"udp:{HOST}:{echod.port}", max_datagram_rate=0)
    result = load(*kind, *words, "--timeout", seconds(5))
    assert_latency_fills_the_time(result, 35 if words else 1, 0.8 if kind else 0.99)


@pytest.mark.parametrize("words", STREAMS.values(), ids=STREAMS)
def test_all_lines_come_back(echod: Echod, load: Generator, words: list[object]) -> None:
    serve(echod, load)
    result = load(*words)
    assert_plausible(result)
    size = words[words.index("--size") + 1] if "--size" in words else 32
    assert result.bytes == result.lines * size
    assert_counted(echod, "requests", result)


@pytest.mark.parametrize("words", ONE_LINE.values(), ids=ONE_LINE)
def test_all_connections_of_one_line_are_served(echod: Echod, load: Generator,
                                                words: list[object]) -> None:
    serve(echod, load, max_lines=1)
    result = load("--once", *words)
    assert_plausible(result)
    assert_counted(echod, "requests", result)
    assert echod.status()["connections"]["total"] == counter(echod, "requests")


@pytest.mark.parametrize("words", DATAGRAMS.values(), ids=DATAGRAMS)
def test_all_datagrams_come_back(echod: Echod, load: Generator, words: list[object]) -> None:
    """Or are lost; so many are not under way at once that a buffer would be full."""
    serve(echod, load, f"udp:{HOST}:{echod.port}", max_datagram_rate=0, workers=1)
    result = load("--udp", "--timeout", seconds(5), *words)
    assert_plausible(result)
    assert result.lost == result.late == 0
    assert_counted(echod, "datagram_replies", result)


# ---- Wrong servers ------------------------------------------------------------------------------

WRONG_LINE = 7  # of the first connection


def spoilt(change: Any) -> StreamBehaviour:
    """Echoes line after line, but one as `change` makes it."""
    def behave(_server: StreamServer, conn: socket.socket, number: int) -> None:
        for count, line in enumerate(lines_of(conn)):
            conn.sendall(change(line) if (number, count) == (0, WRONG_LINE) else line)
    return behave


def swap_lines(_server: StreamServer, conn: socket.socket, number: int) -> None:
    """The replies to two lines that are under way at the same time."""
    held = b""
    for count, line in enumerate(lines_of(conn)):
        if (number, count) == (0, WRONG_LINE):
            held = line
            continue
        conn.sendall(line + held)
        held = b""


def swap_clients(server: StreamServer, conn: socket.socket, number: int) -> None:
    """Two clients' third lines: each gets the reply of the other one."""
    for count, line in enumerate(lines_of(conn)):
        if number <= 1 and count == 2:
            server.shared[number] = line
            server.met.wait()
            line = server.shared[1 - number]
        conn.sendall(line)


def ends(how: Any, part: int) -> StreamBehaviour:
    """Sends so much of one reply and ends the connection."""
    def behave(_server: StreamServer, conn: socket.socket, number: int) -> None:
        for count, line in enumerate(lines_of(conn)):
            if (number, count) == (0, WRONG_LINE):
                conn.sendall(line[:part])
                how(conn)
                return
            conn.sendall(line)
    return behave


def end_reading_all(conn: socket.socket) -> None:
    """The end of file, and no RST: nothing is left unread."""
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(65536):
        pass


def keep_silent(server: StreamServer, conn: socket.socket, number: int) -> None:
    """From one line on, nothing comes back, and the connection stays."""
    for count, line in enumerate(lines_of(conn)):
        if (number, count) == (0, WRONG_LINE):
            server.ended.wait()
            return
        conn.sendall(line)


WRONG: dict[str, tuple[StreamBehaviour, str]] = {
    "a byte dropped": (spoilt(lambda line: line[:20] + line[21:]),
                       r"connection 0, line 7: byte (2\d|3[01]) of 32 in the reply is 0x"),
    "a byte changed": (spoilt(lambda line: line[:20] + bytes([line[20] ^ 1]) + line[21:]),
                       r"connection 0, line 7: byte 20 of 32 in the reply is 0x"),
    "the end changed": (spoilt(lambda line: line[:-1] + b"\r"),
                        r"connection 0, line 7: byte 31 of 32 in the reply is 0x0d, and 0x0a was"),
    "CR LF for LF": (spoilt(lambda line: line[:-1] + b"\r\n"), r"connection 0, line 7: byte 31 of"),
    "a byte more": (spoilt(lambda line: line + b"\0"),
                    r"connection 0(, line 8: byte 0 of|: 1 bytes more than were sent)"),
    "a line left out": (spoilt(lambda line: b""), r"connection 0, line 7: byte 0 of 32"),
    "a line twice": (spoilt(lambda line: line * 2),
                     r"connection 0(, line 8: byte 0 of|: 32 bytes more than were sent)"),
    "a line too many": (spoilt(lambda line: line + b"hello\n"),
                        r"connection 0(, line 8: byte 0 of|: 6 bytes more than were sent)"),
    "two lines swapped": (swap_lines, r"connection 0, line 7: byte 0 of 32 in the reply is 0x69"),
    "two clients swapped": (swap_clients, r"connection [01], line 2: byte 8 of 32 in the reply"),
    # Whichever call is the next one is told.
    "reset": (ends(reset, 0), r"connection 0: (it broke off in the reply to line 7, at byte 0 of "
                              r"32|cannot send line \d+): Connection reset by peer"),
    "end before a reply": (ends(end_reading_all, 0),
                           r"connection 0: the server ended it in the reply to line 7, at byte 0"),
    "end within a reply": (ends(end_reading_all, 11),
                           r"connection 0: the server ended it in the reply to line 7, at byte 11"),
    "silence": (keep_silent, r"connection 0: the reply to line 7 has not come, but for 0 bytes"),
}


def provoke(load: Generator, server: Callable[[], StreamServer | DatagramServer], described: str,
            *words: object, least: int = 0) -> Result:
    """
    Let a wrong server be found out, after at least so many right lines. One that gets no processor
    has no time to be wrong: then the same again, for longer.
    """
    for time_limit in (0.3, 2, 10):
        with server() as running:
            load.port = running.port
            result = load("--seconds", time_limit, *words, expect=None)
        if result.errors > 0 and result.lines >= least:
            break
    assert result.errors > 0 and result.lines >= least, result.said
    assert re.search(described, result.first_error), result.first_error
    return result


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_server_does_wrong_is_found(load: Generator, wrong: str) -> None:
    """The connection that met it is done with; the other ones go on."""
    behaviour, described = WRONG[wrong]
    result = provoke(load, lambda: StreamServer(behaviour), described, "--connections", 3,
                     "--pipeline", 4, "--patience", 1, least=2 * WRONG_LINE)
    # Of the clients, only the two that got each other's reply may both be hit.
    assert result.errors <= (2 if wrong == "two clients swapped" else 1)


@pytest.mark.parametrize("size", [2, 9, 16, 17, 18, 33, 5000, 100000])
def test_each_byte_of_a_line_is_looked_at(load: Generator, size: int) -> None:
    """Its first, its last, and some between."""
    for place in sorted({0, size // 3, size // 2, size - 2, size - 1}):
        def change(line: bytes, at: int = place) -> bytes:
            return line[:at] + bytes([line[at] ^ 0x80]) + line[at + 1:]
        provoke(load, functools.partial(StreamServer, spoilt(change)),
                rf"connection 0, line 7: byte {place} of {size} in", "--size", size)


def test_nobody_listens(load: Generator) -> None:
    with socket.create_server((HOST, 0)) as unused:
        load.port = unused.getsockname()[1]
    load.finds(r"cannot connect number 0 to 127\.0\.0\.1 port \d+: Connection refused")
    load.finds(r"Connection refused", "--once")
    load.finds(r"Connection refused", "--udp")


def one_line(reply: Any, how: Any = end_reading_all) -> StreamBehaviour:
    """Connections of one line; the sixth one gets another reply, or another end."""
    def behave(_server: StreamServer, conn: socket.socket, number: int) -> None:
        line = next(lines_of(conn), b"")
        wrong = number == 5
        conn.sendall(reply(line) if wrong else line)
        (how if wrong else end_reading_all)(conn)
    return behave


ONCE_WRONG: dict[str, tuple[StreamBehaviour, str]] = {
    "nothing": (one_line(lambda line: b""), r"the server ended it at byte 0 of 32"),
    "a part": (one_line(lambda line: line[:31]), r"the server ended it at byte 31 of 32"),
    "too much": (one_line(lambda line: line + b"\n"), r"\b1 bytes more than were sent"),
    "another byte": (one_line(lambda line: b"\0" + line[1:]), r"byte 0 of 32 in the reply is 0x00"),
    "reset behind it": (one_line(lambda line: line, reset), r"broke off at byte \d+ of 32.*reset"),
    "no end": (one_line(lambda line: line, lambda conn: conn.recv(1)),
               r"32 bytes of 32 have come, and not its end"),
}


@pytest.mark.parametrize("wrong", ONCE_WRONG)
def test_a_wrong_connection_of_one_line_is_found(load: Generator, wrong: str) -> None:
    behaviour, described = ONCE_WRONG[wrong]
    result = provoke(load, lambda: StreamServer(behaviour), described, "--once",
                     "--connections", 3, "--patience", 1, least=3)
    assert result.errors == 1


# ---- Wrong servers of datagrams -----------------------------------------------------------------

def spoilt_datagram(*replies: Any) -> DatagramBehaviour:
    """Echoes each datagram; the eighth one as these make it, each for one reply."""
    def behave(server: DatagramServer, data: bytes, peer: tuple[str, int]) -> None:
        if server.received == 8:
            for reply in replies:
                server.send(reply(data), peer)
        else:
            server.send(data, peer)
    return behave


def cross(server: DatagramServer, data: bytes, peer: tuple[str, int]) -> None:
    """Once datagrams of two sockets are there, each gets the other one's reply."""
    if len(server.kept) == 2:
        server.send(data, peer)
        return
    if server.kept and server.kept[0][1] == peer:
        server.send(data, peer)
        return
    server.kept.append((data, peer))
    if len(server.kept) == 2:
        (one, its), (other, others) = server.kept
        server.send(one, others)
        server.send(other, its)


def unchanged(data: bytes) -> bytes:
    return data


WRONG_DATAGRAMS: dict[str, tuple[DatagramBehaviour, str]] = {
    "shorter": (spoilt_datagram(lambda data: data[:-1]), r"a reply of 31 bytes arrived"),
    "longer": (spoilt_datagram(lambda data: data + b"\n"), r"a reply of 33 bytes arrived"),
    "changed": (spoilt_datagram(lambda data: data[:31] + b"\0"), r"byte 31 of 32 .* is 0x00"),
    "no number": (spoilt_datagram(lambda data: b"\0" + data[1:]),
                  r"does not begin with the number"),
    "twice": (spoilt_datagram(unchanged, unchanged),
              r"socket \d: a reply to datagram \d+, which is not under way"),
    "another client's": (cross, r"connection \d, line \d+: byte 8 of 32 in the reply"),
}


@pytest.mark.parametrize("wrong", WRONG_DATAGRAMS)
@pytest.mark.parametrize("window", [1, 4])
def test_a_wrong_datagram_is_found(load: Generator, wrong: str, window: int) -> None:
    behaviour, described = WRONG_DATAGRAMS[wrong]
    result = provoke(load, lambda: DatagramServer(behaviour), described, "--udp",
                     "--connections", 2, "--pipeline", window)
    assert result.errors <= 2


def test_lost_datagrams_are_counted_and_no_error(load: Generator) -> None:
    lost = 5

    def lose_some(server: DatagramServer, data: bytes, peer: tuple[str, int]) -> None:
        if server.received not in range(20, 20 + lost):
            server.send(data, peer)

    with DatagramServer(lose_some) as server:
        load.port = server.port
        result = load("--udp", "--pipeline", 8, "--timeout", seconds(2), "--seconds", 1)
    assert result.lines >= 20
    # Those that only took long, on a machine with too much to do, came late.
    assert result.lost - result.late == lost


def delays_one(times: int) -> DatagramBehaviour:
    """The tenth datagram is answered, so many times, when the one has come that took its place."""
    def behave(server: DatagramServer, data: bytes, peer: tuple[str, int]) -> None:
        if server.received == 10:
            server.kept.append((data, peer))
            return
        server.send(data, peer)
        if server.received == 11:
            for _ in range(times):
                server.send(*server.kept[0])
    return behave


def test_a_late_datagram_is_lost_and_late_and_no_error(load: Generator) -> None:
    """Its place is taken by the next one after the time-out."""
    with DatagramServer(delays_one(1)) as server:
        load.port = server.port
        result = load("--udp", "--timeout", 0.1, "--seconds", 1)
    assert result.lines >= 10
    assert 1 <= result.late <= result.lost


def test_a_late_datagram_that_comes_twice_is_an_error(load: Generator) -> None:
    provoke(load, lambda: DatagramServer(delays_one(2)),
            r"socket 0: a reply to datagram \d+, which is not under way", "--udp", "--timeout", 0.1)


# ---- Stalls -------------------------------------------------------------------------------------

STALL = 0.3  # seconds


def stall_once(_server: StreamServer, conn: socket.socket, _number: int) -> None:
    """The defect itself: for 300 ms this server does nothing."""
    for count, line in enumerate(lines_of(conn)):
        if count == 100:
            time.sleep(STALL)
        conn.sendall(line)


def test_at_a_rate_a_stall_shows_in_the_percentiles(load: Generator) -> None:
    """
    Of 1000 lines a second, those of 300 ms wait; each counts from when it was due. In closed loop
    one line waits, and the others, which would have come meanwhile, do not show at all.
    """
    with StreamServer(stall_once) as server:
        load.port = server.port
        result = load("--rate", 1000, "--seconds", 1)
        closed = load("--seconds", 1)
    for found in (result, closed):
        assert found.latency_us["max"] >= STALL * 1e6
    assert result.slower_than(100e3) >= 195
    assert result.latency_us["p99"] >= 0.9 * STALL * 1e6
    assert result.latency_us["p90"] >= 0.5 * STALL * 1e6
    assert closed.slower_than(100e3) <= 10


def test_connections_at_a_rate_count_from_when_they_were_due(load: Generator) -> None:
    """Where there is but one place, those that are due wait for the one that is stalled."""
    def stall(server: StreamServer, conn: socket.socket, number: int) -> None:
        if number == 50:
            time.sleep(STALL)
        one_line(unchanged)(server, conn, number)

    with StreamServer(stall) as server:
        load.port = server.port
        result = load("--once", "--rate", 200, "--seconds", 1)
    assert result.latency_us["max"] >= STALL * 1e6
    assert result.slower_than(100e3) >= 35


@pytest.mark.parametrize("words", [[], ["--rate", 500]], ids=["closed loop", "at a rate"])
def test_a_stall_at_the_end_shows_as_unfinished(load: Generator, words: list[object]) -> None:
    """No line came back, so no latency could tell of it."""
    def stall_first(_server: StreamServer, conn: socket.socket, _number: int) -> None:
        for count, line in enumerate(lines_of(conn)):
            if count == 0:
                time.sleep(2 * STALL)
            conn.sendall(line)

    with StreamServer(stall_first) as server:
        load.port = server.port
        result = load("--seconds", STALL, *words)
    assert result.lines == 0
    assert result.unfinished["oldest_us"] >= 0.99 * STALL * 1e6
    assert result.unfinished["lines"] >= (145 if words else 1)


def test_datagrams_at_a_rate_count_from_when_they_were_due(load: Generator) -> None:
    def stall(server: DatagramServer, data: bytes, peer: tuple[str, int]) -> None:
        if server.received == 100:
            time.sleep(STALL)
        server.send(data, peer)

    with DatagramServer(stall) as server:
        load.port = server.port
        result = load("--udp", "--rate", 1000, "--seconds", 1, "--timeout", seconds(5))
    assert result.slower_than(100e3) >= 195
    assert result.latency_us["p99"] >= 0.9 * STALL * 1e6


@pytest.mark.parametrize("words", [[], ["--once"], ["--udp"], ["--udp", "--train", 10]],
                         ids=["lines", "connections", "datagrams", "trains"])
def test_at_a_rate_all_that_was_due_is_accounted_for(echod: Echod, load: Generator,
                                                     words: list[object]) -> None:
    """Came back, or is not finished: together it is what the rate says, and the time."""
    rate, train = 1000, 10 if "--train" in words else 1
    serve(echod, load, f"tcp:{HOST}:{echod.port}", f"udp:{HOST}:{echod.port}",
          max_lines=1 if "--once" in words else 0, max_datagram_rate=0)
    result = load("--rate", rate, "--connections", 4, "--timeout", seconds(5), *words)
    found = result.lines + result.unfinished["lines"]
    # The first one was due a moment before the measured time began.
    assert result.seconds * rate - train <= found <= result.elapsed * rate + train
    assert result.client["issue_delay_us"]["max"] >= 0


# ---- What it says of the server -----------------------------------------------------------------

def family(echod: Echod) -> list[Process]:
    return [echod.supervisor, *echod.workers()]


def cpu_of(processes: list[Process]) -> float:
    return sum(process.cpu_ticks_of_all for process in processes) * TICK


def test_processor_time_of_a_server(echod: Echod, load: Generator) -> None:
    """No more than its processes have used meanwhile, and most of that."""
    serve(echod, load)
    processes = family(echod)
    before = cpu_of(processes)
    result = load("--connections", 20, "--seconds", 1, "--server", echod.pid)
    used = cpu_of(processes) - before
    slack = 2 * len(processes) * TICK
    found = result.server["cpu_ns"] / 1e9
    assert result.server["processes"] == result.server["processes_before"] == len(processes)
    assert found > 0
    assert 0.8 * used - slack <= found <= used + slack


FORKING = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
print(listener.getsockname()[1], flush=True)
while True:
    conn, _ = listener.accept()
    if os.fork() == 0:
        line = conn.recv(1000)
        while time.process_time() < 0.02:
            pass
        conn.sendall(line)
        os._exit(0)
    conn.close()
    os.wait()
"""


def test_children_that_have_ended_count(load: Generator) -> None:
    """A server with a process for each connection, which uses 20 ms and ends."""
    with subprocess.Popen([sys.executable, "-S", "-c", FORKING], stdout=subprocess.PIPE,
                          text=True) as server:
        try:
            assert server.stdout is not None
            load.port = int(server.stdout.readline())
            result = load("--once", "--connections", 2, "--seconds", 1, "--server", server.pid)
        finally:
            server.kill()
    assert result.lines >= 1
    # A child begins with some time of its own: process_time() of a forked one starts at 0.
    used = result.lines * 0.02
    assert used - 0.04 <= result.server["cpu_ns"] / 1e9 <= 2 * used + 0.1


HOLDING = """
import subprocess, sys
memory = bytearray(b"x") * (int(sys.argv[1]) << 20)
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-S", "-c", sys.argv[2], "8"],
                             stdout=subprocess.PIPE)
    child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
"""


def rss_anon_kb(process: Process) -> int:
    return int(process.status["RssAnon"].split()[0])


def test_memory_of_a_process_and_its_children(load: Generator) -> None:
    """Of two that do nothing but hold 40 MiB in all: it is what /proc says of them."""
    with StreamServer(echo_lines) as server, \
         subprocess.Popen([sys.executable, "-S", "-c", HOLDING, "32", HOLDING],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        load.port = server.port
        result = load("--server", holder.pid)
        [child] = Process(holder.pid).children
        expected = rss_anon_kb(Process(holder.pid)) + rss_anon_kb(child)
    assert result.server["processes"] == 2
    assert result.server["rss_kb"] == result.server["rss_kb_before"] == expected
    assert 40 << 10 <= expected <= 80 << 10
    assert result.server["cpu_ns"] < 0.05e9


def test_a_server_that_is_not_there(load: Generator) -> None:
    """The rest of the result holds."""
    with StreamServer(echo_lines) as server:
        load.port = server.port
        result = load.finds(r"--server: .* process 2147483647", "--server", 2147483647)
    assert result.server is None and result.lines > 0


# ---- The client itself --------------------------------------------------------------------------

def test_processor_time_of_its_own(echod: Echod, load: Generator) -> None:
    serve(echod, load)
    result = load("--connections", 20, "--seconds", 0.5)
    found = result.client["cpu_ns"] / 1e9
    used = result.usage.ru_utime + result.usage.ru_stime
    assert 0 < found <= used + 2 * TICK
    assert found <= result.seconds * 1.01
    assert found >= 0.5 * used - 2 * TICK


def test_it_runs_on_one_processor(load: Generator) -> None:
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    with StreamServer(echo_lines) as server:
        load.port = server.port
        with subprocess.Popen(load.command("--seconds", 60, "--cpu", cpu),
                              stdout=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: server.peers, seconds(10), "it has connected")
                assert os.sched_getaffinity(process.pid) == {cpu}
            finally:
                process.kill()


def test_warming_up_is_not_counted(echod: Echod, load: Generator) -> None:
    serve(echod, load)
    result = load("--connections", 5, "--warmup", 0.5, "--seconds", 0.1)
    all_lines = counter(echod, "requests")
    assert 0.1 <= result.seconds
    assert result.lines < all_lines


def test_the_sources_take_turns(load: Generator) -> None:
    with StreamServer(echo_lines) as server:
        load.port = server.port
        load("--connections", 10, "--sources", 5)
    assert sorted(server.peers) == sorted(f"127.0.0.{1 + i % 5}" for i in range(10))


def test_silent_connections_are_there(echod: Echod, load: Generator) -> None:
    serve(echod, load)
    load("--connections", 3, "--idle", 40)
    wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(10))
    assert echod.status()["connections"]["total"] == 43


@pytest.mark.parametrize("wrong", ["ended", "answered"])
def test_a_silent_connection_that_is_not_left_alone_is_an_error(load: Generator,
                                                               wrong: str) -> None:
    def behave(server: StreamServer, conn: socket.socket, number: int) -> None:
        if number != 4:
            echo_lines(server, conn, number)
        elif wrong == "answered":
            conn.sendall(b"?")
            server.ended.wait()

    with StreamServer(behave) as server:
        load.port = server.port
        load.finds("silent connection 4: the server (ended it|sent something)", "--idle", 9)


# ---- Mistakes in its usage ----------------------------------------------------------------------

MISTAKES: list[list[object]] = [
    ["--size", 1], ["--size", "x"], ["--size", "32 "], ["--connections", 0], ["--rate", -1],
    ["--seconds", 0], ["--seconds", "soon"], ["--unknown"], ["--size"], ["--cpu", 100000],
    ["--once", "--pipeline", 2], ["--once", "--udp"], ["--train", 2],
    ["--udp", "--size", 8], ["--udp", "--size", 60000, "--train", 2], ["--udp", "--idle", 1],
]


@pytest.mark.parametrize("words", MISTAKES, ids=lambda words: " ".join(map(str, words)))
def test_a_mistake_is_told_in_one_sentence(load: Generator, words: list[object]) -> None:
    done = subprocess.run(load.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=seconds(10), check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"load: [^\n]+\n", done.stderr)


@pytest.mark.parametrize("place", [["localhost", "7"], ["127.0.0.1", "echo"], ["127.0.0.1"], [],
                                   ["127.0.0.1", "7", "8"], ["--sources", "2", "::1", "7"]])
def test_a_wrong_place_is_a_mistake(load_program: Path, place: list[str]) -> None:
    done = subprocess.run([str(load_program), *place], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=seconds(10), check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"load: [^\n]+\n", done.stderr)
