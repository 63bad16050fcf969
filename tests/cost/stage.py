"""
The daemon that is measured, its workers and its clients.

- A worker calls shutdown(2) when it has said all. A line that is too long makes it do so wherever a
  mark is wanted: callgrind writes down there what it has counted, and the record of strace shows the
  call. No signal, debugger or clock decides what belongs to what.
- No turn begins before the worker sleeps in epoll_wait. Where many speak in one turn it is stopped
  while they do, and finds all of them at once.
- The daemon's timers are never due (still.c): how often a worker wakes up for them depends on how
  long a test takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from typing import Iterator

from echod import Echod, read_to_end, seconds
from procfs import Process, wait_until

PATIENCE = 60.0  # seconds for one step of a daemon under valgrind on a busy machine

MAX_LINE = 8192
TOO_LONG = b"x" * (MAX_LINE + 100)  # still one segment on loopback, and one recv


class Stage:
    """A daemon under a tool: its workers, its clients, and how often each worker's count is cut."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.ports = {"line": echod.port, "once": echod.another_port(),
                      "prompt": echod.another_port()}
        self.workers: dict[str, Process] = {}
        self.cuts: Counter[str] = Counter()
        self.connections = 0
        self.serial = 0

    def configure(self) -> None:
        """
        All that is on by default, but for what depends on time: what happens by itself, and looks
        for more before the worker sleeps (busy_poll).
        """
        def service(name: str, *transports: str, **settings: int) -> str:
            listen = [f"{transport}:127.0.0.1:{self.ports[name]}" for transport in transports]
            return self.echod.service(name, workers=1, busy_poll=0, max_line=MAX_LINE,
                                      listen=listen, **settings)
        self.echod.configure(
            service("line", "tcp", "udp", max_lines=0, defer_accept=0), service("once", "tcp"),
            service("prompt", "tcp", defer_accept=0), watchdog=0, start_timeout=120)

    def know_workers(self) -> None:
        self.workers = {row["service"]: Process(row["pid"]) for row in self.echod.ps()}

    def connect(self, service: str) -> socket.socket:
        client = self.echod.connect(port=self.ports[service])
        client.settimeout(seconds(PATIENCE))
        return client

    def settle(self, service: str) -> None:
        """
        Wait until the worker sleeps. To be called when the clients have all their answers: then it
        has woken up for the last of them, and there is nothing else it could sleep for.
        """
        worker = self.workers[service]
        wait_until(lambda: worker.state == "S", seconds(PATIENCE), f"{worker} waits for events")

    def await_connections(self, service: str, more: int = 0) -> None:
        """Wait until the worker has seen who came and who closed, and sleeps."""
        open_now = self.connections + more
        wait_until(lambda: self.echod.status()["connections"]["now"] == open_now,
                   seconds(PATIENCE), f"{open_now} connections are open")
        self.settle(service)

    @contextlib.contextmanager
    def halted(self, service: str) -> Iterator[None]:
        """What is sent meanwhile the worker finds at once."""
        worker = self.workers[service]
        self.settle(service)
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            # "t" under strace. It has left epoll_wait, so all that comes now is for the next one.
            wait_until(lambda: worker.state in "Tt", seconds(PATIENCE), f"{worker} stands still")
            yield
        finally:
            os.kill(worker.pid, signal.SIGCONT)

    def mark(self, service: str) -> int:
        """Cut the worker's count here; the number of the cut."""
        self.settle(service)
        with self.connect(service) as client:
            client.sendall(TOO_LONG)
            assert read_to_end(client) == b""
        self.await_connections(service)
        self.cuts[service] += 1
        return self.cuts[service]
