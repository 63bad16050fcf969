"""Limits that all workers of a service, or all services, share: they hold whoever dies or restarts."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest

from echod import Echod, seconds
from procfs import wait_until


class Crowd:
    """Clients that stay; those that are refused are counted."""

    def __init__(self, echod: Echod, *ports: int) -> None:
        self._echod = echod
        self._ports = ports or (echod.port,)
        self._inside: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._inside)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self._inside:
            client.close()

    @staticmethod
    def _served(client: socket.socket) -> bool:
        try:
            client.sendall(b"x\n")
            return client.recv(2) != b""
        except (ConnectionResetError, BrokenPipeError):
            return False

    def enter(self, tries: int) -> int:
        """How many of so many were let in."""
        before = len(self)
        for number in range(tries):
            client = self._echod.connect(port=self._ports[number % len(self._ports)])
            if self._served(client):
                self._inside.append(client)
            else:
                client.close()
        return len(self) - before

    def leave(self, count: int) -> None:
        for _ in range(count):
            self._inside.pop().close()

    def forget_dead(self) -> int:
        """How many of them have lost their connection."""
        alive = [client for client in self._inside if self._served(client)]
        lost = len(self) - len(alive)
        self._inside = alive
        return lost


def let_in_in_the_end(crowd: Crowd, count: int) -> None:
    """What has just ended is given back a moment later."""
    reached = len(crowd) + count

    def all_inside() -> bool:
        crowd.enter(reached - len(crowd))
        return len(crowd) == reached
    wait_until(all_inside, seconds(10), f"{count} more are let in")


def echo_service(echod: Echod, name: str = "line", **keys: object) -> str:
    return echod.service(name, **{"protocol": "echo", "workers": 4, **keys})


def kill_one(echod: Echod, crowd: Crowd) -> int:
    """A worker that serves somebody; how many it took with it."""
    for worker in echod.workers():
        crowd.forget_dead()
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.await_end(seconds(5))
        wait_until(lambda: len(echod.workers()) == 4, seconds(10), "there is a successor")
        lost = crowd.forget_dead()
        if lost > 0:
            return lost
    raise AssertionError("no worker served anybody")


@pytest.mark.parametrize("scope", ["service", "daemon"])
def test_workers_share_a_limit_and_a_killed_one_gives_back(echod: Echod, scope: str) -> None:
    """The four of them never let in more than the eight that the configuration says."""
    own = {"max_connections_per_source": 8} if scope == "service" else {}
    everywhere = {} if scope == "service" else {"max_connections": 8}
    echod.configure(echo_service(echod, **own), **everywhere)
    echod.start()
    with Crowd(echod) as crowd:
        assert crowd.enter(20) == 8
        crowd.leave(3)
        let_in_in_the_end(crowd, 3)
        assert crowd.enter(20) == 0
        for _ in range(3):
            let_in_in_the_end(crowd, kill_one(echod, crowd))
            assert crowd.enter(20) == 0
    echod.expect_log(r"signal SIGKILL")


def test_services_share_what_is_set_for_all(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(echo_service(echod, "a", max_connections=5),
                    echo_service(echod, "b", listen=[f"127.0.0.1:{other}"]),
                    max_connections=9)
    echod.start()
    with Crowd(echod) as first, Crowd(echod, other) as second:
        assert first.enter(20) == 5
        assert second.enter(20) == 4
        first.leave(2)
        let_in_in_the_end(second, 2)
        assert first.enter(20) == 0
    # A service that is stopped holds nothing.
    with Crowd(echod, other) as second:
        let_in_in_the_end(second, 9)
        echod.tell("stop", "b")
        with Crowd(echod) as first:
            let_in_in_the_end(first, 5)


def test_a_restart_that_fails_goes_on_with_the_same_tables(echod: Echod) -> None:
    """Also for the successors of workers that die after it."""
    service = echo_service(echod, max_connections_per_source=8)
    echod.configure(service, max_connections=9)
    echod.start()
    with Crowd(echod) as crowd, socket.create_server(("127.0.0.1", 0)) as taken:
        assert crowd.enter(20) == 8
        port = taken.getsockname()[1]
        # Only the new image sees that the address is in use.
        echod.configure(service, echod.service("more", listen=[f"127.0.0.1:{port}"]),
                        max_connections=9)
        echod.restart(expect=1)
        assert crowd.forget_dead() == 0
        assert crowd.enter(20) == 0
        for _ in range(2):
            let_in_in_the_end(crowd, kill_one(echod, crowd))
            assert crowd.enter(20) == 0
    echod.expect_log(r"in use")
    echod.expect_log(r"signal SIGKILL")


def test_a_new_generation_counts_anew(echod: Echod) -> None:
    """Connections that retire are not counted by it, nor are there two tables for long."""
    echod.configure(echo_service(echod, max_connections=4))
    echod.start()

    def tables() -> int:
        return sum(1 for target in echod.supervisor.fds.values()
                   if re.search(r"memfd:echod-limits", target))
    assert tables() == 1
    with Crowd(echod) as old, Crowd(echod) as new:
        assert old.enter(20) == 4
        echod.restart()
        assert tables() == 1
        assert old.forget_dead() == 0
        assert new.enter(20) == 4
        old.leave(4)
        assert new.enter(20) == 0


def test_workers_keep_no_descriptor_of_a_table(echod: Echod) -> None:
    echod.configure(echo_service(echod, max_connections=4), max_connection_rate=1000)
    echod.start()
    for worker in echod.workers():
        assert not [target for target in worker.fds.values() if "memfd" in target]
