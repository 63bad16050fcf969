"""
Many connections at once, by the program that opens a million of them: tests/bench/million.py.

Here they are as many as every machine can bear. What the program notices when something goes wrong
is tested, too: else its word would be worth nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from echod import Echod, read_exactly, seconds
from procfs import wait_until

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))

from million import NOT_HERE  # noqa: E402
from million_clients import Clients, Sample, build_hold  # noqa: E402
from million_figures import quantiles, spread  # noqa: E402
from million_limits import Plan, shortfalls  # noqa: E402


def run_million(echod: Echod, *words: str) -> dict[str, Any]:
    """Its figures. Its daemon and its files are below the directory of `echod`, which cleans up."""
    figures = echod.dir / "figures.json"
    command = [sys.executable, str(BENCH / "million.py"), "--echod", str(echod.executable),
               "--json", str(figures), *words]
    done = subprocess.run(command, env={**echod.env, "TMPDIR": str(echod.dir)}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=seconds(100))
    if done.returncode == NOT_HERE:
        pytest.skip(done.stderr)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    print(done.stdout)
    return json.loads(figures.read_text())


# ---- What echod promises ------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.timeout(120)
def test_20000_connections_stay_through_a_restart(echod: Echod) -> None:
    """
    The active ones among them wait for nothing, the workers have equal shares, and a restart in
    place loses none: that each of them is answered afterwards the program itself insists on.
    """
    total = 20000
    figures = run_million(echod, "--connections", str(total), "--workers", "4", "--clients", "4",
                          "--seconds", "3", "--verify-rate", "5000",
                          "--p99", str(1000 * seconds(0.25)))
    assert figures["broken"] == []
    assert figures["survived"] == figures["survivors"]["answered"] == total
    assert figures["talk"]["answered"] == figures["talk"]["sent"] == 100 * 20 * 3
    assert figures["talk_over_restart"]["answered"] >= 100 * 20  # the new ones alone take a second
    assert figures["newcomers"]["answered"] == 1000
    assert figures["restart_seconds"] < seconds(10)
    # Dice are as uneven as that once in a million runs.
    assert figures["spread"]["chance"] > 1e-6, figures["spread"]


@pytest.mark.timeout(120)
def test_an_idle_connection_takes_at_most_104_bytes(echod: Echod) -> None:
    """Of user memory: what the workers' anonymous memory grows by, for each connection more."""
    if echod.sanitized:
        pytest.skip("a build with sanitizers takes what sanitizers take")
    figures = run_million(echod, "--connections", "12000", "--workers", "2", "--clients", "2",
                          "--seconds", "0.5", "--verify-rate", "12000",
                          "--p99", str(1000 * seconds(10)))
    size = figures["user"]["per_connection"]
    print(f"{size:.0f} bytes of user memory a connection")
    assert 40 < size <= 104


# ---- What the program notices -------------------------------------------------------------------

@contextlib.contextmanager
def server(answer: Callable[[int, bytes], bytes]) -> Iterator[int]:
    """
    Serves one connection after the other, line by line of 32 bytes: `answer` gets the connection's
    number and the line. Nothing: the end. Gives the port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve(number: int, client: socket.socket) -> None:
            with client, contextlib.suppress(ConnectionResetError):  # so the clients leave
                while line := read_exactly(client, 32):
                    reply = answer(number, line)
                    if not reply:
                        return
                    client.sendall(reply)

        def accept() -> None:
            for number in range(10):
                client = listener.accept()[0]
                threading.Thread(target=serve, args=(number, client), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(seconds(10))


@contextlib.contextmanager
def ten_clients(tmp_path: Path, port: int, patience: int = 30) -> Iterator[Clients]:
    with Clients(build_hold(tmp_path), port, 10, 2, patience=patience) as clients:
        clients.open(0.5, lambda _: None)
        clients.open(1, lambda _: None)
        assert clients.count() == (10, 0)
        yield clients


def test_every_line_is_timed(tmp_path: Path) -> None:
    with server(lambda number, line: line) as port, ten_clients(tmp_path, port) as clients:
        begun = time.monotonic_ns()
        clients.begin_talk(5, 20, 10)
        talk = clients.end_talk(0.5)
        took = time.monotonic_ns() - begun
        assert (talk.sent, talk.answered, len(talk.samples)) == (20, 20, 20)
        assert all(begun <= sample.at and 0 < sample.delay < took for sample in talk.samples)
        # At the rate, not faster.
        assert max(sample.at for sample in talk.samples) - begun >= 0.45e9
        assert clients.count() == (10, 0)


def test_a_stall_is_not_hidden(tmp_path: Path) -> None:
    """Lines that were to be sent while nothing came back have waited, too."""
    stalled = threading.Event()

    def answer(number: int, line: bytes) -> bytes:
        if not stalled.is_set():
            stalled.set()
            time.sleep(0.5)  # this is the stall
        return line

    with server(answer) as port, ten_clients(tmp_path, port) as clients:
        clients.begin_talk(10, 100, 50)
        talk = clients.end_talk(0.5)
        assert talk.answered == 50
        late = [sample for sample in talk.samples if sample.delay > 100_000_000]
        assert len(late) >= 35, quantiles(talk.samples)


@pytest.mark.parametrize("at", [0, 8, 31], ids=["first", "middle", "last"])
def test_a_wrong_byte_is_noticed(tmp_path: Path, at: int) -> None:
    def answer(number: int, line: bytes) -> bytes:
        return line[:at] + bytes([line[at] ^ 1]) + line[at + 1:] if number == 3 else line

    with server(answer) as port, ten_clients(tmp_path, port) as clients:
        clients.begin_talk(1, 10, 2)
        talk = clients.end_talk(1)
        assert (talk.sent, talk.answered) == (20, 18)
        assert clients.count() == (9, 1)
        [end] = clients.ends
        assert end.endswith(": it got other bytes than it had sent")


def test_a_line_of_another_connection_is_noticed(tmp_path: Path) -> None:
    swapped: list[bytes] = []

    def answer(number: int, line: bytes) -> bytes:
        swapped.append(line)
        return swapped[0]

    with server(answer) as port, ten_clients(tmp_path, port) as clients:
        clients.begin_talk(1, 10, 1)
        assert clients.end_talk(1).answered == 1
        assert clients.count() == (1, 9)


def test_bytes_that_nobody_asked_for_are_noticed(tmp_path: Path) -> None:
    with server(lambda number, line: line + line) as port, \
            ten_clients(tmp_path, port) as clients:
        clients.begin_talk(10, 10, 1)
        clients.end_talk(1)
        wait_until(lambda: clients.count() == (9, 1), seconds(10))


def test_an_end_is_told(tmp_path: Path) -> None:
    with server(lambda number, line: b"" if number == 3 else line) as port, \
            ten_clients(tmp_path, port) as clients:
        clients.begin_talk(1, 10, 3)
        talk = clients.end_talk(1)
        assert (talk.sent, talk.answered) == (30, 27)
        assert clients.count() == (9, 1)
        [end] = clients.ends
        assert end.endswith((": end of file", ": Connection reset by peer"))


def test_a_line_without_an_answer_is_waited_for_and_counted(tmp_path: Path) -> None:
    held = threading.Event()

    def answer(number: int, line: bytes) -> bytes:
        if number == 3:
            held.wait(seconds(60))
        return line

    with server(answer) as port, ten_clients(tmp_path, port, patience=1) as clients:
        clients.begin_talk(1, 10, 1)
        talk = clients.end_talk(1)
        assert (talk.sent, talk.answered) == (10, 9)
        held.set()
        clients.begin_talk(1, 10, 1)  # what comes too late does not count for another talk
        assert clients.end_talk(1)[:2] == (10, 10)
        assert clients.count() == (10, 0)


def test_what_the_machine_does_not_allow_is_said(echod: Echod) -> None:
    """In sentences, each limit with the command that changes it; and nothing is begun."""
    command = [sys.executable, str(BENCH / "million.py"), "--echod", str(echod.executable),
               "--connections", "2000000000", "--workers", "3"]
    done = subprocess.run(command, env=echod.env, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds(30))
    assert (done.returncode, done.stdout) == (NOT_HERE, "")
    assert "give --workers more than 3, or raise the limit with 'ulimit -Hn" in done.stderr
    assert "sysctl -w fs.epoll.max_user_watches='" in done.stderr
    assert "MiB are available: try --connections " in done.stderr


def test_a_small_plan_is_allowed() -> None:
    plan = Plan(connections=20, newcomers=10, workers=2, clients=2, per_source=500, backlog=16)
    assert shortfalls(plan) == []


def test_the_figures_are_right() -> None:
    assert quantiles([Sample(0, ms * 1_000_000) for ms in range(1000, 0, -1)]) == {
        "p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000}
    even = spread([100, 100, 100, 100])
    assert (even.least, even.most, even.chi_square) == (100, 100, 0)
    assert even.chance > 0.99
    # With 3 degrees of freedom, tables have 7.81 for 5 % and 16.27 for 0.1 %.
    uneven = spread([1000 + 62, 1000 - 62, 1000, 1000])
    assert uneven.chi_square == pytest.approx(7.69, abs=0.01)
    assert uneven.chance == pytest.approx(0.053, rel=0.05)
    assert spread([1000 + 90, 1000 - 90, 1000, 1000]).chance == pytest.approx(0.001, rel=0.2)
