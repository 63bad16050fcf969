"""
What a line costs: user-space instructions and system calls of a worker. Counts, not times: they do
not depend on what else the machine does. They do depend on compiler, C library and libevent, so
each test prints its figure (pytest -rP or -s).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter

import pytest

import echod as driver
from echod import Echod, read_exactly, read_to_end, seconds
from launching import ordinary
from procfs import Process, wait_until

CONNECTIONS = 50
LINE = b"0123456789abcdef0123456789abcde\n"

pytestmark = [
    pytest.mark.cost,
    pytest.mark.skipif(b"__asan_init" in driver.executable().read_bytes()
                       if os.environ.get("ECHOD") else False,
                       reason="a build with sanitizers costs what sanitizers cost"),
]
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def one_worker(echod: Echod, **settings: object) -> None:
    """A service with all that is on by default, and conversations of any length."""
    echod.settings.update({"services.line.workers": 1, "services.line.max_lines": 0})
    echod.settings.update({f"services.line.{key}": value for key, value in settings.items()})


def open_all(echod: Echod) -> list[socket.socket]:
    clients = [echod.connect() for _ in range(CONNECTIONS)]
    exchange(clients, 1)
    return clients


def exchange(clients: list[socket.socket], rounds: int, worker: Process | None = None) -> int:
    """
    In each round every client sends a line and then every client gets it back. With `worker`, it
    sees all of them at once: how many it finds ready does not depend on the scheduler.
    """
    for _ in range(rounds):
        if worker is not None:
            os.kill(worker.pid, signal.SIGSTOP)
            wait_until(lambda: worker.state == "T", seconds(10))
        for client in clients:
            client.sendall(LINE)
        if worker is not None:
            os.kill(worker.pid, signal.SIGCONT)
        for client in clients:
            assert read_exactly(client, len(LINE)) == LINE
    return rounds * len(clients)


# ---- Instructions -------------------------------------------------------------------------------

def instructions_of_worker(echod: Echod, rounds: int) -> tuple[int, int]:
    """Run the daemon under callgrind for so many rounds: instructions of its worker, lines."""
    out = echod.dir / f"callgrind.{rounds}"
    wrapper = ["valgrind", "--tool=callgrind", "--trace-children=yes", "--vgdb=no", "-q",
               f"--callgrind-out-file={out}.%p"]
    command = [*wrapper, str(echod.executable), *echod.options(), "-F",
               "-o", "start_timeout=120", "-o", "log.target=stderr"]
    with open(echod.dir / "stderr", "ab") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                                   **echod._popen({}))
    echod.process = process  # type: ignore[assignment]
    try:
        echod.await_ready(60)
        [worker] = echod.workers()
        clients = open_all(echod)
        lines = exchange(clients, rounds, worker)
        for client in clients:
            client.close()
        wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(30))
        echod.signal(signal.SIGUSR1)  # a polite end, in which callgrind writes what it has counted
        process.wait(seconds(60))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    text = (echod.dir / f"{out.name}.{worker.pid}").read_text()
    totals = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    assert totals is not None
    return int(totals[1]), lines


@needs_valgrind
@pytest.mark.timeout(180)
def test_instructions_for_a_line(echod: Echod) -> None:
    """At most 600 in user space, from the report of epoll to the next: the slope of two runs."""
    ordinary(echod)
    one_worker(echod)
    few, few_lines = instructions_of_worker(echod, 20)
    many, many_lines = instructions_of_worker(echod, 120)
    cost = (many - few) / (many_lines - few_lines)
    print(f"{cost:.0f} instructions for a line of {len(LINE)} bytes at {CONNECTIONS} connections")
    assert 40 < cost <= 600


# ---- System calls -------------------------------------------------------------------------------

class Trace:
    """strace on a worker: its system calls by name, from the beginning of the block to its end."""

    def __init__(self, echod: Echod, worker: Process) -> None:
        self.path = echod.dir / "strace"
        self.worker = worker
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> "Trace":
        self._strace = subprocess.Popen(["strace", "-qq", "-o", str(self.path), "-p",
                                         str(self.worker.pid)], stderr=subprocess.DEVNULL)
        wait_until(lambda: self.worker.status["TracerPid"] == str(self._strace.pid)
                   or self._strace.poll() is not None, seconds(10), "strace is attached")
        if self._strace.poll() is not None:
            pytest.skip("strace may not attach here")
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.terminate()
        self._strace.wait(seconds(10))
        for row in self.path.read_text().splitlines():
            if name := re.match(r"(\w+)\(", row):
                self.calls[name[1]] += 1


@needs_strace
def test_system_calls_for_a_line(echod: Echod) -> None:
    """One recv and one send each; one epoll_wait for all that is ready, and nothing else."""
    one_worker(echod)
    echod.start()
    [worker] = echod.workers()
    clients = open_all(echod)
    with Trace(echod, worker) as trace:
        lines = exchange(clients, 40)
    for client in clients:
        client.close()
    calls = trace.calls
    print(f"{lines} lines: {dict(calls)}")
    assert calls.pop("recvfrom") == lines
    assert calls.pop("sendto") == lines
    assert calls.pop("epoll_wait", 0) + calls.pop("epoll_pwait", 0) <= lines + 5
    assert sum(calls.values()) <= 5, calls  # the clock, once in a while, where it is no vDSO call


@needs_strace
@pytest.mark.parametrize("defer", ["0", "1s"], ids=["not deferred", "deferred"])
def test_system_calls_for_a_connection_of_one_line(echod: Echod, defer: str) -> None:
    """accept, recv, send, close; where accepting is deferred, epoll never knows the connection."""
    one_worker(echod, max_lines=1, defer_accept=defer)
    echod.start()
    [worker] = echod.workers()

    def talk() -> None:
        with echod.connect() as client:
            client.sendall(LINE)
            assert read_to_end(client) == LINE

    talk()
    with Trace(echod, worker) as trace:
        for _ in range(200):
            talk()
        wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(10))
    calls = trace.calls
    print(f"200 connections: {dict(calls)}; {sum(calls.values()) / 200:.2f} calls each")
    assert calls["recvfrom"] <= 200 * (1 if defer == "1s" else 2)
    assert calls["sendto"] == calls["close"] == 200
    assert 200 <= calls["accept4"] <= 400
    if defer == "1s":
        assert calls["epoll_ctl"] == 0
        assert sum(calls.values()) <= 200 * 6.1
    else:
        assert calls["epoll_ctl"] <= 400
