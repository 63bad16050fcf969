"""What a service manager is told: the protocol of sd_notify(3), under -F."""

from __future__ import annotations

import re
import signal
import socket
import time
from typing import Iterator

import pytest

from echod import Echod, seconds
from procfs import wait_until


class Manager:
    """The service manager's side of NOTIFY_SOCKET."""

    def __init__(self, address: str):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(seconds(10))

    def receive(self) -> dict[str, str]:
        """The next message, as a dictionary."""
        message = self.socket.recv(8192).decode()
        return dict(line.split("=", 1) for line in message.splitlines())

    def receive_until(self, key: str) -> dict[str, str]:
        while key not in (message := self.receive()):
            pass
        return message


@pytest.fixture
def manager(echod: Echod) -> Iterator[Manager]:
    address = str(echod.dir / "notify")
    manager = Manager(address)
    echod.env["NOTIFY_SOCKET"] = address
    yield manager
    manager.socket.close()


def test_ready_when_it_serves(echod: Echod, manager: Manager) -> None:
    """READY=1 comes when a client is answered, not before."""
    echod.foreground(ready=False)
    message = manager.receive_until("READY")
    assert message["READY"] == "1"
    echod.assert_serves()


def test_ready_says_the_main_pid_of_a_daemon(echod: Echod, manager: Manager) -> None:
    """Without -F nothing may confuse the manager: READY=1, if sent, comes from the daemon."""
    echod.start()
    echod.assert_serves()


def test_stopping(echod: Echod, manager: Manager) -> None:
    """STOPPING=1 at the beginning of both kinds of end."""
    for sig in (signal.SIGTERM, signal.SIGUSR1):
        process = echod.foreground()
        manager.receive_until("READY")
        echod.signal(sig)
        assert manager.receive_until("STOPPING")["STOPPING"] == "1"
        assert process.wait(seconds(10)) == 0
        process.stderr.close()


def test_reloading_with_its_time_then_ready(echod: Echod, manager: Manager) -> None:
    """RELOADING=1 carries MONOTONIC_USEC of that very moment; READY=1 comes after it."""
    echod.foreground()
    manager.receive_until("READY")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    echod.signal(signal.SIGHUP)
    message = manager.receive_until("RELOADING")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= after
    message = manager.receive_until("READY")
    assert message["READY"] == "1"
    assert echod.status()["restarts"]["ended"] == 1


def test_refused_restart_is_ready_with_a_status(echod: Echod, manager: Manager) -> None:
    """The manager must not believe that it reloads for ever; STATUS says what was wrong."""
    echod.configure()
    echod.foreground()
    manager.receive_until("READY")
    echod.configure(extra="nonsense = 1;\n")
    echod.expect_log("nonsense")
    echod.signal(signal.SIGHUP)
    manager.receive_until("RELOADING")
    message = manager.receive_until("READY")
    assert message["READY"] == "1"
    assert "nonsense" in message["STATUS"]
    echod.assert_serves()
    # The next one succeeds, and the status is a good one again.
    echod.configure()
    echod.signal(signal.SIGHUP)
    manager.receive_until("RELOADING")
    assert "refused" not in manager.receive_until("READY").get("STATUS", "")


def test_failed_start_is_never_ready(echod: Echod, manager: Manager) -> None:
    """A port in use: the manager sees the exit code, and no READY=1."""
    echod.expect_log("cannot start: ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", echod.port))
        taken.listen()
        process = echod.foreground(ready=False)
        assert process.wait(seconds(15)) == 1
    manager.socket.setblocking(False)
    said = []
    while True:
        try:
            said.append(manager.receive())
        except BlockingIOError:
            break
    assert not any("READY" in message for message in said)
    assert re.search(r"in use", process.stderr.read())


def test_abstract_socket(echod: Echod) -> None:
    """The address may begin with @."""
    address = f"@echod-test-{echod.port}"
    manager = Manager(address)
    echod.env["NOTIFY_SOCKET"] = address
    echod.foreground(ready=False)
    assert manager.receive_until("READY")
    manager.socket.close()


@pytest.mark.parametrize("address", ["/nonexistent/socket", "relative", "", "/" + "x" * 200])
def test_manager_that_is_not_there(echod: Echod, address: str) -> None:
    """A wrong NOTIFY_SOCKET is no reason not to serve."""
    echod.env["NOTIFY_SOCKET"] = address
    echod.foreground()
    echod.assert_serves()
    echod.restart()
    echod.assert_serves()


def test_manager_that_does_not_read(echod: Echod, manager: Manager) -> None:
    """Its queue is full: nothing blocks."""
    echod.foreground()
    for _ in range(15):
        echod.signal(signal.SIGHUP)
        wait_until(lambda: (r := echod.status()["restarts"])["begun"] == r["ended"], seconds(15))
    echod.restart()
    echod.assert_serves()


def test_workers_do_not_speak_to_the_manager(echod: Echod, manager: Manager) -> None:
    """Only the main process is believed; SCM_CREDENTIALS show who sent each message."""
    manager.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    process = echod.foreground()
    echod.restart()
    echod.signal(signal.SIGTERM)
    process.wait(seconds(10))
    manager.socket.setblocking(False)
    senders = set()
    while True:
        try:
            _, ancillary, _, _ = manager.socket.recvmsg(8192, 256)
        except BlockingIOError:
            break
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                senders.add(int.from_bytes(data[:4], "little"))
    assert senders == {echod.pid}


def test_notify_socket_survives_strange_surroundings(echod: Echod, manager: Manager) -> None:
    """The short list of kept names has it, so a restart can still say READY=1."""
    echod.env["ANYTHING"] = "1"
    echod.foreground()
    manager.receive_until("READY")
    echod.restart()
    manager.receive_until("RELOADING")
    assert manager.receive_until("READY")
    assert "ANYTHING" not in echod.supervisor.environ
