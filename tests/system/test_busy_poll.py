"""
Busy polling (`busy_poll`): a worker that answered looks on for a moment before it sleeps. Whom it
must not cost anything: those who are idle, and those whose clients are slow.
"""

from __future__ import annotations

import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from echod import Echod, seconds
from procfs import Process, wait_until
from test_datagrams import restart_by_hangup, udp

EXCHANGES = 500
PATIENCE = 10

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def serve(echod: Echod, **settings: object) -> Process:
    """Lines and datagrams at one port, by one worker."""
    listen = [f"{transport}:127.0.0.1:{echod.port}" for transport in ("tcp", "udp")]
    echod.configure(echod.service("line", workers=1, max_lines=0, max_datagram_rate=0,
                                  listen=listen, **settings))
    echod.start()
    return worker_of(echod)


def worker_of(echod: Echod) -> Process:
    (worker,) = (Process(row["pid"]) for row in echod.ps())
    return worker


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


@both_transports
def test_slow_clients_are_not_waited_for(echod: Echod, transport: str) -> None:
    """Looking on after each line would take a millisecond of the processor for each."""
    worker = serve(echod, busy_poll=1000)
    with client_of(echod, transport) as client:
        talk(client, 1)
        before = on_processor(worker)
        for _ in range(200):
            talk(client, 1)
            pass_time(0.003)
        assert on_processor(worker) - before < seconds(0.1)


@both_transports
def test_a_busy_worker_obeys(echod: Echod, transport: str) -> None:
    """Verbs, signals and a restart in place, while it never sleeps."""
    serve(echod, busy_poll=1000)
    with client_of(echod, transport) as client:
        for _ in range(3):
            talk(client)
            assert echod.status()["services"][0]["name"] == "line"
            talk(client, 50)
            restart_by_hangup(echod)
            talk(client)
    with client_of(echod, transport) as client:
        talk(client)
        echod.tell("stop", "line")
        echod.tell("start", "line")
    with client_of(echod, transport) as client:
        talk(client)
    echod.run("stop", expect=0)


def calls_meanwhile(echod: Echod, worker: Process, client: socket.socket) -> list[str]:
    """What the worker asks the kernel for while it talks with the client."""
    trace = echod.dir / "trace"
    with subprocess.Popen(["strace", "-qq", "-e", "trace=epoll_wait,epoll_ctl,epoll_pwait",
                           "-p", str(worker.pid), "-o", str(trace)]) as strace:
        tracer = f"TracerPid:\t{strace.pid}\n"
        status = Path(f"/proc/{worker.pid}/status")
        wait_until(lambda: tracer in status.read_text(), seconds(PATIENCE), "strace is there")
        talk(client)
        strace.send_signal(signal.SIGINT)
        strace.wait(seconds(PATIENCE))
    return trace.read_text().splitlines()


@needs_strace
@both_transports
def test_without_it_no_look_is_in_vain(echod: Echod, transport: str) -> None:
    worker = serve(echod, busy_poll=0)
    with client_of(echod, transport) as client:
        talk(client, 1)
        calls = calls_meanwhile(echod, worker, client)
    assert len(calls) >= EXCHANGES
    assert [call for call in calls if ", 0) = 0" in call or "epoll_ctl" in call] == []
