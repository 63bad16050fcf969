"""
Busy polling (`busy_poll`): a worker that answered looks on for a moment before it sleeps. Whom it
must not cost anything: those who are idle, and those whose clients are slow.
"""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path

import pytest

from echod import Echod, seconds
from procfs import Process, wait_until
from test_datagrams import restart_by_hangup, udp

EXCHANGES = 500
PATIENCE = 10


def configure(echod: Echod, busy_poll: int) -> None:
    """Lines and datagrams at one port, by one worker."""
    listen = [f"{transport}:127.0.0.1:{echod.port}" for transport in ("tcp", "udp")]
    echod.configure(echod.service("line", workers=1, max_lines=0, max_datagram_rate=0,
                                  listen=listen, busy_poll=busy_poll))


def serve(echod: Echod, busy_poll: int) -> Process:
    configure(echod, busy_poll)
    echod.start()
    return worker_of(echod)


def worker_of(echod: Echod) -> Process:
    """The only one, once that of before a restart has gone."""
    wait_until(lambda: len(echod.ps()) == 1, seconds(PATIENCE), "one worker is there")
    return Process(echod.ps()[0]["pid"])


def client_of(echod: Echod, transport: str) -> socket.socket:
    client = udp(echod.port) if transport == "udp" else echod.connect()
    client.settimeout(seconds(PATIENCE))
    return client


def talk(client: socket.socket, times: int = EXCHANGES) -> None:
    """Each line is answered before the next one leaves."""
    for number in range(times):
        line = b"line %d\n" % number
        client.sendall(line)
        assert client.recv(100) == line


def await_sleep(worker: Process) -> None:
    wait_until(lambda: worker.state == "S", seconds(PATIENCE), f"{worker} sleeps")


def on_processor(worker: Process) -> float:
    """Seconds."""
    return int(Path(f"/proc/{worker.pid}/schedstat").read_text().split()[0]) / 1e9


def pass_time(length: float) -> None:
    """What is measured is what the worker does meanwhile."""
    select.select([], [], [], length)


both_transports = pytest.mark.parametrize("transport", ["tcp", "udp"])


@both_transports
def test_who_has_nothing_to_do_sleeps(echod: Echod, transport: str) -> None:
    """However busy he has been, and the next request wakes him."""
    worker = serve(echod, busy_poll=1000)
    with client_of(echod, transport) as client:
        for _ in range(3):
            talk(client)
            await_sleep(worker)
            before = on_processor(worker)
            pass_time(0.3)
            assert on_processor(worker) - before < seconds(0.03)
        talk(client, 1)


def cost_of_a_slow_client(echod: Echod, worker: Process, transport: str) -> float:
    with client_of(echod, transport) as client:
        talk(client, 1)
        before = on_processor(worker)
        for _ in range(200):
            talk(client, 1)
            pass_time(0.003)
        return on_processor(worker) - before


@both_transports
def test_slow_clients_are_not_waited_for(echod: Echod, transport: str) -> None:
    """Looking on after each of 200 lines would take a millisecond of the processor for each."""
    least = cost_of_a_slow_client(echod, serve(echod, busy_poll=0), transport)
    configure(echod, busy_poll=1000)
    restart_by_hangup(echod)
    assert cost_of_a_slow_client(echod, worker_of(echod), transport) < least + 0.1


class Talk(threading.Thread):
    """A client that never stops talking."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__()
        self.client, self.lines, self.enough = client, 0, False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.enough:
                talk(self.client, 10)
                self.lines += 10
        except (OSError, AssertionError) as error:
            self.error = error

    def await_lines(self) -> None:
        until = self.lines + EXCHANGES
        wait_until(lambda: self.lines >= until or self.error, seconds(PATIENCE), "the client talks")


@both_transports
def test_a_busy_worker_obeys(echod: Echod, transport: str) -> None:
    """Verbs, signals, restarts in place and a stop, while a client talks without a pause."""
    serve(echod, busy_poll=1000)
    with client_of(echod, transport) as client:
        talking = Talk(client)
        talking.start()
        try:
            for _ in range(3):
                talking.await_lines()
                assert echod.status()["services"][0]["name"] == "line"
                restart_by_hangup(echod)
                talking.await_lines()
            assert talking.error is None
        finally:
            talking.enough = True
            talking.join()
    with client_of(echod, transport) as client:
        client.settimeout(0.5)
        talking = Talk(client)
        talking.start()
        try:
            talking.await_lines()
            echod.run("stop", expect=0)
        finally:
            talking.enough = True
            talking.join()
