"""
The supervisor of services: what dies or hangs is replaced, clients wait for it, and `ps` and
`status` say how things stand.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from clients import Load, LoadProcess, say
from echod import Echod, read_exactly, read_to_end, seconds
from launching import refuses
from procfs import Process, tcp_sockets, wait_until, waiting_clients

TICKS = os.sysconf("SC_CLK_TCK")
LOOPBACK = "127.0.0.1"


def pids_of(echod: Echod) -> dict[str, int]:
    """The process of each place."""
    return {row["name"]: row["pid"] for row in echod.ps() if row["state"] == "running"}


def watch_for(echod: Echod, span: float) -> None:
    """Time in which nothing may happen to any worker: not an event to wait for."""
    before = echod.ps()
    time.sleep(span)
    facts = [[(r["name"], r["pid"], r["restarts"], r["state"]) for r in rows]
             for rows in (before, echod.ps())]
    assert facts[0] == facts[1]


def stop_process(pid: int) -> None:
    """SIGSTOP, and wait until it has taken effect."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Process(pid).state == "T", seconds(5), f"{pid} is stopped")


def many(echod: Echod, count: int, line: bytes = b"a line\n",
         port: int | None = None) -> list[socket.socket]:
    """Clients that have connected and sent a line; nobody has read yet."""
    clients = [echod.connect(port=port) for _ in range(count)]
    for client in clients:
        client.sendall(line)
    return clients


def answered(clients: list[socket.socket]) -> int:
    """How many have something to read."""
    return len(select.select(clients, [], [], 0)[0])


def take_answers(clients: list[socket.socket], line: bytes = b"a line\n") -> None:
    for client in clients:
        assert read_exactly(client, len(line)) == line


def close_all(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


class Sickness:
    """Within the block every process of the daemon, those spared apart, dies as soon as it is."""

    def __init__(self, echod: Echod, *spare: int, sig: int = signal.SIGSEGV) -> None:
        echod.expect_log("fatal signal")
        self._supervisor = Process(echod.pid)
        self._spare = set(spare)
        self._sig = sig
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sickness")

    def __enter__(self) -> "Sickness":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        struck: set[int] = set()
        while not self._over.wait(0.005):
            children = self._supervisor.child_pids() - self._spare
            for pid in children - struck:
                try:
                    os.kill(pid, self._sig)
                except ProcessLookupError:
                    pass
            struck = children


# ---- Deaths -------------------------------------------------------------------------------------

def held_by(pid: int, ports: list[int]) -> set[int]:
    """The ports of the clients whose connections this process, which is stopped, holds."""
    links = Process(pid).fds.values()
    inodes = {int(link[8:-1]) for link in links if link.startswith("socket:[")}
    return {s.peer_port for port in ports for s in tcp_sockets(port) if s.inode in inodes
            and s.state != s.LISTEN}


def kill_and_await_successor(echod: Echod, name: str, pid: int) -> float:
    """Seconds from a kill -9 until the next process of this place serves."""
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while True:  # without a pause: the time is what is measured
        row = echod.row(name)
        if row["state"] == "running" and row["pid"] != pid:
            return time.monotonic() - begun
        assert time.monotonic() < begun + seconds(10), row


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_100_kills_of_workers_under_1000_clients(echod: Echod) -> None:
    """
    kill -9 of a random worker every 100 ms: nobody is refused or waits too long, no byte is wrong,
    the connections of the killed workers break and no others, and a successor serves within 20 ms.
    """
    talk_port = echod.another_port()
    ports = [echod.port, talk_port]
    echod.configure(echod.service(workers=3), echod.service(
        "talk", max_lines=0, workers=3, listen=[f"{LOOPBACK}:{talk_port}"]))
    echod.start()
    choose = random.Random(7)
    times: list[float] = []
    kills: list[tuple[float, float, set[int], str]] = []  # from when, until when, whose, where

    with LoadProcess(("one_line", echod.port, 500), ("conversations", talk_port, 500),
                     pace=1, may_break=True) as load:
        following = time.monotonic()
        for _ in range(100):
            name, pid = choose.choice(list(pids_of(echod).items()))
            # Stopped for a moment, it holds the same connections when they are listed and when it
            # is killed.
            stop_process(pid)
            begun = time.monotonic()
            held = held_by(pid, ports)
            times.append(kill_and_await_successor(echod, name, pid))
            kills.append((begun, time.monotonic(), held, name))
            following += 0.1
            time.sleep(max(0.0, following - time.monotonic()))

        def breaks_of(kind: str) -> int:
            return sum(one.kind.startswith(kind) for one in load.breaks)

        def all_noticed() -> bool:
            load.report()
            return breaks_of("conversation") >= talking
        talking = sum(len(held) for _, _, held, name in kills if name.startswith("talk"))
        wait_until(all_noticed, seconds(20), "the broken conversations have noticed")
    for one in load.breaks:
        assert any(one.port in held and one.begun < until and begun < one.ended
                   for begun, until, held, _ in kills), f"{one}: its worker was not killed"
    assert breaks_of("conversation") == talking
    assert "starts in" not in echod.log_text(), "no back-off"
    assert len(re.findall("was ended by signal SIGKILL", echod.log_text())) == 100
    services = echod.status()["services"]
    assert sum(service["restarts"] for service in services) == 100
    assert [service["running"] for service in services] == [3, 3]
    ms = sorted(1000 * t for t in times)
    print(f"\n100 kills under 1000 clients: {load.connections} connections, {load.lines} lines, "
          f"{talking} conversations and {breaks_of('one line')} one-line connections broken with "
          f"their workers; successor after {ms[50]:.1f} ms (median), {ms[90]:.1f} (90 %), "
          f"{ms[-1]:.1f} (most)")
    assert statistics.median(times) < seconds(0.02), ms


# ---- The watchdog -------------------------------------------------------------------------------

@pytest.mark.parametrize("workers", [1, 3])
def test_stopped_worker_is_replaced_within_the_watchdogs_time(echod: Echod, workers: int) -> None:
    """Its waiting clients are served, its siblings go on, and the log says why."""
    echod.configure(echod.service(workers=workers), watchdog=3)
    echod.start()
    before = pids_of(echod)
    victim = before["line/0"]
    stop_process(victim)
    begun = time.monotonic()
    clients = many(echod, 20)
    wait_until(lambda: answered(clients) + waiting_clients(echod.port) == 20, seconds(2),
               "each is answered by a sibling, or waits in the queue")
    assert answered(clients) < 20
    assert Process(victim).await_end(seconds(10))
    took = time.monotonic() - begun
    for client in clients:
        assert read_to_end(client) == b"a line\n"
        client.close()
    assert took < seconds(3)
    row = echod.await_state("line/0", but=victim)
    assert row["restarts"] == 1
    after = pids_of(echod)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != "line/0")
    echod.await_log(rf"warning: line/0\[{victim}\] gives no sign of life \(watchdog of 3 s\)")
    assert "starts in" not in echod.log_text(), "the first time there is no pause"


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_watchdog_is_10_seconds_by_default_and_0_is_off(make_echod) -> None:
    """A stopped worker of one daemon is replaced; the other's is left alone as long and longer."""
    daemons = make_echod("default"), make_echod("off")
    daemons[1].settings["watchdog"] = 0
    victims = []
    for echod in daemons:
        echod.settings["services.line.workers"] = 1
        echod.start()
        victims.append(echod.row("line/0")["pid"])
    begun = time.monotonic()
    for pid in victims:
        stop_process(pid)
    wait_until(lambda: not Process(victims[0]).alive, seconds(15))
    took = time.monotonic() - begun
    assert 5 < took < seconds(10)
    daemons[0].await_state("line/0", but=victims[0])
    daemons[0].await_log(r"gives no sign of life \(watchdog of 10 s\)")
    watch_for(daemons[1], 5)
    assert Process(victims[1]).state == "T"
    os.kill(victims[1], signal.SIGCONT)
    daemons[1].assert_serves()


def test_watchdog_0_leaves_a_stopped_worker_alone(echod: Echod) -> None:
    """Off is off, not the shortest time; the worker goes on where it was."""
    echod.settings.update({"watchdog": 0, "services.line.workers": 1})
    echod.start()
    pid = echod.row("line/0")["pid"]
    stop_process(pid)
    [client] = many(echod, 1)
    watch_for(echod, 2)
    os.kill(pid, signal.SIGCONT)
    assert read_to_end(client) == b"a line\n"
    client.close()


def test_stopped_retiring_worker_is_ended_without_a_successor(echod: Echod) -> None:
    """It serves its last clients for ever otherwise; the generation that serves is not touched."""
    echod.configure(echod.service(max_lines=0, workers=1), watchdog=1)
    echod.start()
    old = echod.row("line/0")["pid"]
    with echod.connect() as client:
        say(client)
        echod.restart()
        new = echod.row("line/0")
        stop_process(old)
        assert Process(old).await_end(seconds(5))
        with pytest.raises(ConnectionError):  # or the end of file
            if client.recv(1) == b"":
                raise ConnectionResetError
    echod.await_log(rf"line/0\[{old}\] gives no sign of life")
    wait_until(lambda: len(echod.ps()) == 1, seconds(5), "it has left the table")
    watch_for(echod, 0.5)
    row = echod.row("line/0")
    assert (row["pid"], row["restarts"]) == (new["pid"], 0)


def test_healthy_workers_are_left_alone_idle_and_busy(echod: Echod) -> None:
    """For several of the watchdog's times, as short as they can be, under load and without."""
    busy_port, queue_port = echod.another_port(), echod.another_port()
    echod.configure(
        echod.service("idle", workers=2),
        echod.service("busy", max_lines=0, workers=1, listen=[f"{LOOPBACK}:{busy_port}"]),
        echod.service("queue", workers=1, listen=[f"{LOOPBACK}:{queue_port}"]), watchdog=1)
    echod.start()
    with Load() as load, echod.connect(port=busy_port) as greedy:
        load.one_line(queue_port, clients=50)
        load.conversations(busy_port, clients=50)
        load.await_all()
        greedy.setblocking(False)
        ended = time.monotonic() + 3
        before = pids_of(echod)
        while time.monotonic() < ended:  # as fast as it can
            ready, writable, _ = select.select([greedy], [greedy], [], 0.1)
            if ready:
                assert greedy.recv(1 << 20)
            if writable:
                greedy.send(b"x" * 1000 + b"\n")
        assert pids_of(echod) == before
        load.assert_flows()
    assert "watchdog" not in echod.log_text()


def test_short_stops_of_a_worker_are_forgiven(echod: Echod) -> None:
    """Each shorter than the watchdog's time, together longer: one answer, and all is well again."""
    echod.configure(echod.service(max_lines=0, workers=1), watchdog=2)
    echod.start()
    pid = echod.row("line/0")["pid"]
    with echod.connect() as client:
        for _ in range(5):
            stop_process(pid)
            time.sleep(0.6)  # the length of the stop
            os.kill(pid, signal.SIGCONT)
            say(client)  # its loop runs: it has read its orders, too
            time.sleep(0.1)
        assert echod.row("line/0")["pid"] == pid
    assert "watchdog" not in echod.log_text()


def limit_descriptors(pid: int, soft: str) -> None:
    """By a process of the worker's own user: root without all of its rights may not."""
    worker = Process(pid)
    whom = {"user": worker.uids[0], "group": worker.gids[0], "extra_groups": []}
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={soft}:"], check=True,
                   **(whom if worker.uids[0] != os.geteuid() else {}))


def test_worker_without_descriptors_is_left_alone(echod: Echod) -> None:
    """It has said that it cannot accept: a successor could not, either, and clients would break."""
    echod.configure(echod.service(max_lines=0, workers=1), watchdog=1)
    echod.start()
    pid = echod.row("line/0")["pid"]
    served = [echod.connect() for _ in range(3)]
    for client in served:
        say(client)
    before = Process(pid).limit("Max open files")[0]
    # The highest number in use counts: nothing beyond it may be opened.
    limit_descriptors(pid, str(max(Process(pid).fds) + 1))
    waiting = many(echod, 20)
    wait_until(lambda: echod.status()["counters"]["accept_pauses"] > 0, seconds(5))
    wait_until(lambda: answered(waiting) + waiting_clients(echod.port) == 20, seconds(5))
    assert answered(waiting) < 20
    watch_for(echod, 2.5)
    assert waiting_clients(echod.port) > 0, "they have waited all the time"
    for client in served:
        say(client)
    limit_descriptors(pid, before)
    take_answers(waiting)
    close_all(served + waiting)
    assert "watchdog" not in echod.log_text()


# Takes a listening socket out of a worker's epoll, from outside: by borrowed copies of both, the
# socket under its own number, as epoll knows it by both. The worker is healthy, and never hears of
# a client again.
_DEAFEN = """
import ctypes, fcntl, os, select, sys
pid, epoll, *sockets = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
def borrow(number):  # pidfd_getfd(2), into a number that is in nobody's way
    fd = libc.syscall(438, worker, number, 0)
    if fd < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return fcntl.fcntl(fd, fcntl.F_DUPFD, 1000)
worker = fcntl.fcntl(os.pidfd_open(pid), fcntl.F_DUPFD, 1000)
epoll = select.epoll.fromfd(borrow(epoll))
for number in sockets:
    os.dup2(borrow(number), number)
    epoll.unregister(number)
"""


# What a worker that was taken over could do to the sockets that it shares with its siblings.
_BREAK = """
import ctypes, fcntl, os, socket, sys
how, pid, *sockets = sys.argv[1:]
worker = os.pidfd_open(int(pid))
libc = ctypes.CDLL(None, use_errno=True)
for number in map(int, sockets):
    fd = libc.syscall(438, worker, number, 0)  # pidfd_getfd(2)
    if fd < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    if how == "shut":
        socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)
    else:
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
"""


def break_sockets(how: str, pid: int, port: int) -> None:
    """Shut down, or make blocking, all listening sockets that this worker shares."""
    listening = {f"socket:[{s.inode}]" for s in tcp_sockets(port) if s.state == s.LISTEN}
    sockets = [fd for fd, link in Process(pid).fds.items() if link in listening]
    assert sockets
    done = subprocess.run([sys.executable, "-c", _BREAK, how, *map(str, (pid, *sockets))],
                          capture_output=True, text=True, timeout=seconds(20), check=False)
    if "not permitted" in done.stderr:
        pytest.skip("this kernel lends nobody's descriptors")
    assert done.returncode == 0, done.stderr


@pytest.mark.needs_root
@pytest.mark.parametrize("how", ["shut", "block"])
def test_broken_sockets_are_healed(echod: Echod, how: str) -> None:
    """A worker that was taken over does not end the service for its siblings, or its successor."""
    echod.expect_log("healed")
    echod.expect_log("watchdog")
    echod.expect_log("SIGABRT")
    echod.expect_log("cannot accept a connection")
    echod.settings.update({"watchdog": 2, "services.line.workers": 3})
    echod.start()
    echod.assert_serves()
    break_sockets(how, echod.row("line/1")["pid"], echod.port)
    echod.await_log("was broken by a process that shares it: healed", timeout=10)
    for _ in range(30):
        echod.assert_serves()
    wait_until(lambda: len(echod.workers()) == 3, seconds(10), "all are there")


@pytest.mark.needs_root
def test_broken_sockets_are_healed_for_the_successor_at_once(echod: Echod) -> None:
    """The worker breaks them and dies: nobody waits for the next look of the supervisor."""
    echod.expect_log("healed")
    echod.expect_log("cannot accept a connection")
    echod.settings["services.line.workers"] = 3
    echod.start()
    victim = echod.row("line/1")["pid"]
    break_sockets("shut", victim, echod.port)
    os.kill(victim, signal.SIGKILL)
    echod.await_state("line/1", but=victim)
    begun = time.monotonic()
    for _ in range(30):
        echod.assert_serves()
    assert time.monotonic() - begun < seconds(3)


def watches(pid: int, epoll: int, fd: int) -> bool:
    """Is it in that epoll set? (proc(5), /proc/PID/fdinfo)"""
    lines = Path(f"/proc/{pid}/fdinfo/{epoll}").read_text().splitlines()
    return any(line.split()[:2] == ["tfd:", str(fd)] for line in lines)


def deafen(pid: int, port: int) -> None:
    """The worker's loop goes on, but nothing tells it of new clients any more."""
    listening = {s.inode for s in tcp_sockets(port) if s.state == s.LISTEN}
    links = Process(pid).fds
    sockets = [fd for fd, link in links.items()
               if link in {f"socket:[{inode}]" for inode in listening}]
    [epoll] = [fd for fd, link in links.items()
               if link == "anon_inode:[eventpoll]" and watches(pid, fd, sockets[0])]
    done = subprocess.run([sys.executable, "-c", _DEAFEN, *map(str, (pid, epoll, *sockets))],
                          capture_output=True, text=True, timeout=seconds(20), check=False)
    if "not permitted" in done.stderr:
        pytest.skip("this kernel lends nobody's descriptors")
    assert done.returncode == 0, done.stderr


@pytest.mark.needs_root
def test_worker_that_lives_but_does_not_accept_is_replaced(echod: Echod) -> None:
    """
    Nothing is wrong while nobody waits; then it is told apart from one that gives no sign of life,
    it records its own end, and its successor serves those who have waited.
    """
    echod.configure(echod.service(max_lines=0, workers=1), watchdog=2)
    echod.start()
    echod.expect_log("fatal signal SIGABRT")
    pid = echod.row("line/0")["pid"]
    with echod.connect() as former:
        say(former)
        deafen(pid, echod.port)
        watch_for(echod, 2.5)  # nobody waits
        begun = time.monotonic()
        clients = many(echod, 5)
        for _ in range(3):
            say(former)  # it lives
        take_answers(clients)
        assert time.monotonic() - begun < seconds(2)
    close_all(clients)
    assert echod.await_state("line/0", but=pid)["restarts"] == 1
    echod.await_log(rf"line/0\[{pid}\] does not accept clients who wait \(watchdog of 2 s\)")
    echod.await_log(rf"line/0\[{pid}\]: fatal signal SIGABRT in line/0")
    echod.await_log(rf"line/0\[{pid}\] was ended by signal SIGABRT")
    assert "no sign of life" not in echod.log_text()


def test_hanging_is_the_workers_own_fault(echod: Echod) -> None:
    """One that hangs again and again is slowed down like one that keeps dying."""
    echod.settings.update({"watchdog": 1, "services.line.workers": 1})
    echod.start()
    former = 0
    for _ in range(3):
        former = echod.await_state("line/0", but=former)["pid"]
        stop_process(former)
        assert Process(former).await_end(seconds(5))
    echod.await_log(r"a new line/0 starts in 0\.2 s")
    assert re.findall(r"starts in ([\d.]+) s", echod.log_text()) == ["0.1", "0.2"]
    assert echod.await_state("line/0", but=former)["restarts"] == 3


@pytest.mark.slow
def test_turns_of_a_stopped_supervisor_are_not_counted(echod: Echod) -> None:
    """
    Worker and supervisor do not run, as when the machine sleeps again and again: nobody is to
    blame. Only when the supervisor does run is the worker's time counted.
    """
    echod.configure(echod.service(workers=1), watchdog=4)
    echod.start()
    pid = echod.row("line/0")["pid"]
    stop_process(pid)
    for _ in range(8):
        stop_process(echod.pid)
        time.sleep(0.8)  # longer than a turn, which is half a second
        os.kill(echod.pid, signal.SIGCONT)
        echod.ask("ps")  # it runs, and has had its turn
    assert Process(pid).state == "T" and "watchdog" not in echod.log_text()
    assert Process(pid).await_end(seconds(8))
    echod.await_log("gives no sign of life")


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(1, 4), (8, 2), (0, 2)])
def test_watchdogs_time_changes_with_a_restart(echod: Echod, before: int, after: int) -> None:
    """A stopped worker is given as long as the new configuration says: no less, and no more."""
    echod.configure(echod.service(workers=1), watchdog=before)
    echod.start()
    echod.configure(echod.service(workers=1), watchdog=after)
    echod.restart()
    wait_until(lambda: len(echod.ps()) == 1, seconds(5), "the former worker is gone")
    pid = echod.row("line/0")["pid"]
    stop_process(pid)
    begun = time.monotonic()
    assert Process(pid).await_end(seconds(12)), "the watchdog does not work"
    took = time.monotonic() - begun
    echod.await_log(rf"no sign of life \(watchdog of {after} s\)")
    assert after / 2 < took < seconds(after)


# ---- The supervisor stops or dies ---------------------------------------------------------------

def test_service_goes_on_while_the_supervisor_is_stopped(echod: Echod) -> None:
    """For longer than the watchdog's time; afterwards no worker is blamed for it."""
    talk_port = echod.another_port()
    echod.configure(echod.service(workers=2), echod.service(
        "talk", max_lines=0, workers=2, listen=[f"{LOOPBACK}:{talk_port}"]), watchdog=1)
    echod.start()
    before = pids_of(echod)
    with Load() as load:
        load.one_line(echod.port, clients=20)
        load.conversations(talk_port, clients=20)
        load.await_all()
        stop_process(echod.pid)
        ended = time.monotonic() + 3
        while time.monotonic() < ended:
            load.assert_flows(20)
        assert Process(echod.pid).state == "T"
        os.kill(echod.pid, signal.SIGCONT)
        assert pids_of(echod) == before
        ended = time.monotonic() + 1.5
        while time.monotonic() < ended:
            load.assert_flows(20)
    assert pids_of(echod) == before
    assert "watchdog" not in echod.log_text()


@pytest.mark.slow
def test_service_goes_on_while_the_supervisor_is_stopped_for_12_seconds(echod: Echod) -> None:
    """The same with the settings that users have."""
    echod.start()
    before = pids_of(echod)
    with Load() as load:
        load.one_line(echod.port, clients=10)
        load.await_all()
        stop_process(echod.pid)
        ended = time.monotonic() + 12
        while time.monotonic() < ended:
            load.assert_flows(20)
        os.kill(echod.pid, signal.SIGCONT)
        watch_for(echod, 4)
        load.assert_flows()
    assert pids_of(echod) == before


def test_killed_supervisor_leaves_conversations_to_their_ends(echod: Echod) -> None:
    """
    New clients are refused, a new start takes lock and port at once, and the former workers serve
    those they have until these end.
    """
    echod.configure(echod.service(max_lines=0, workers=2))
    echod.start()
    killed, former = echod.pid, set(pids_of(echod).values())
    clients = [echod.connect() for _ in range(12)]
    for client in clients:
        say(client)
        client.sendall(b"half ")
    echod.signal(signal.SIGKILL)
    echod.await_end()
    wait_until(lambda: refuses(echod), seconds(2), "nobody accepts any more")
    for client in clients:
        client.sendall(b"and whole\n")
        assert read_exactly(client, 15) == b"half and whole\n"
    begun = time.monotonic()
    echod.start()
    assert time.monotonic() - begun < seconds(2)
    assert echod.pid != killed
    echod.await_log("stale|former|taken over|left behind")
    assert former.isdisjoint(pids_of(echod).values())
    for client in clients:
        say(client)
    with echod.connect() as late:
        say(late)
        assert sum(row["connections"] for row in echod.ps()) == 1, "the others are not its own"
    assert all(Process(pid).alive for pid in former)
    close_all(clients)
    for pid in former:
        assert Process(pid).await_end(seconds(5)), "its last client has gone"
    wait_until(lambda: {p.pid for p in echod.processes()} ==
               {echod.pid, *pids_of(echod).values()}, seconds(5), "nobody else is left")


def test_clients_in_the_queue_of_a_killed_supervisor_are_served(echod: Echod) -> None:
    """
    They were not refused: the workers accept who is there before they let the sockets go, also more
    than they accept in one turn.
    """
    echod.configure(echod.service(workers=2))
    echod.start()
    workers = pids_of(echod).values()
    for pid in workers:
        stop_process(pid)
    clients = many(echod, 400)
    wait_until(lambda: waiting_clients(echod.port) == 400, seconds(5), "all wait in the queues")
    echod.signal(signal.SIGKILL)
    echod.await_end()
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert read_to_end(client) == b"a line\n"
        client.close()
    for pid in workers:
        assert Process(pid).await_end(seconds(5))
    echod.start()
    echod.assert_serves()


def test_workers_of_a_killed_supervisor_end_within_drain_timeout(echod: Echod) -> None:
    """A client that never ends does not keep them."""
    echod.configure(echod.service(max_lines=0, workers=1), drain_timeout="500ms")
    echod.start()
    [worker] = echod.workers()
    with echod.connect() as client:
        say(client)
        begun = time.monotonic()
        echod.signal(signal.SIGKILL)
        while time.monotonic() < begun + 0.3:
            say(client)
        assert worker.await_end(seconds(5))
        assert 0.4 < time.monotonic() - begun < seconds(3)
        assert client.recv(1) == b""
    echod.await_end()
    assert echod.processes() == []
    echod.start()


# ---- Back-off -----------------------------------------------------------------------------------

def test_worker_that_keeps_dying_is_told_by_ps_and_hurts_nobody(echod: Echod) -> None:
    """Slower each time, with reason and count; other services serve; the log stays short."""
    other_port = echod.another_port()
    echod.configure(echod.service("ill", workers=1), echod.service(
        "well", workers=1, listen=[f"{LOOPBACK}:{other_port}"]))
    echod.start()
    well = echod.row("well/0")["pid"]
    with Sickness(echod, well):
        for count, pause in enumerate(("0.1", "0.2", "0.4", "0.8"), 1):
            echod.await_log(rf"a new ill/0 starts in {re.escape(pause)} s")
            assert echod.echo(port=other_port) == b"hello\n"
            row = echod.await_state("ill/0", "backing off")
            assert row["pid"] is None and row["connections"] is None
            assert row["restarts"] >= count
            assert "SIGSEGV" in row["text"]
        status = echod.service_status("ill")
        assert (status["state"], status["running"]) == ("backing off", 0)
        assert echod.service_status("well")["state"] == "running"
        text = echod.run("ps", expect=0).stdout
        assert re.search(r"^ill/0 .*backing off.*SIGSEGV", text, re.MULTILINE), text
    pauses = re.findall(r"starts in ([\d.]+) s", echod.log_text())
    assert pauses[:4] == ["0.1", "0.2", "0.4", "0.8"]
    deaths = len(pauses) + 1
    said = len(re.findall(r"ill/0", echod.log_text()))
    assert said <= 4 * deaths, echod.log_text()
    row = echod.await_state("ill/0")
    assert row["restarts"] == deaths and row["text"] is None
    echod.assert_serves()
    assert echod.row("well/0")["pid"] == well


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_pauses_grow_to_10_seconds_and_cost_nothing(echod: Echod) -> None:
    """0.1 s, doubled each time, never longer; ten seconds in which nobody works."""
    echod.settings["services.line.workers"] = 1
    echod.start()
    with Sickness(echod):
        echod.await_log(r"starts in 3\.2 s", timeout=15)
        ticks, begun = echod.supervisor.cpu_ticks_of_all, time.monotonic()
        lines = echod.log_text().count("\n")
        echod.await_log(r"starts in 10\.0 s", timeout=20)
        echod.await_log(r"starts in 10\.0 s", timeout=20, count=2)
        used, took = echod.supervisor.cpu_ticks_of_all - ticks, time.monotonic() - begun
        lines = echod.log_text().count("\n") - lines
    assert used <= 0.005 * took * TICKS, f"{used} ticks in {took:.1f} s"
    assert lines <= 4 * 4
    pauses = re.findall(r"starts in ([\d.]+) s", echod.log_text())
    assert pauses == ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "10.0", "10.0"]
    print(f"\na worker that keeps dying: {1000 * used / TICKS:.0f} ms of processor time "
          f"in {took:.1f} s")
    assert echod.row("line/0")["state"] == "backing off"
    times = [datetime.fromisoformat(t) for t in
             re.findall(r"^(\S+) .* a new line/0 starts in", echod.log_text(), re.MULTILINE)]
    for pause, one, following in zip(pauses, times, times[1:]):
        real = (following - one).total_seconds()
        assert float(pause) - 0.05 <= real <= float(pause) + seconds(0.5), (pause, real)


def test_sibling_serves_while_a_worker_backs_off(echod: Echod) -> None:
    """Clients of the missing worker's socket do not wait; when it is back, they are its own."""
    echod.configure(echod.service(max_lines=0, workers=2))
    echod.start()
    sibling = echod.row("line/1")["pid"]
    with Sickness(echod, sibling):
        echod.await_log(r"a new line/0 starts in 1\.6 s")
    begun = time.monotonic()
    clients = many(echod, 40)
    take_answers(clients)
    took = time.monotonic() - begun
    rows = {row["name"]: row for row in echod.ps()}
    assert rows["line/0"]["state"] == "backing off"
    assert rows["line/1"]["connections"] == 40
    assert took < seconds(1)
    assert echod.service_status()["state"] == "degraded"

    back = echod.await_state("line/0")["pid"]
    for client in clients:
        say(client)  # they stay where they are
    assert echod.row("line/1")["connections"] == 40
    # Whoever comes to a socket that only it serves must wait for it now.
    stop_process(back)
    late = many(echod, 40)
    wait_until(lambda: answered(late) + waiting_clients(echod.port) == 40, seconds(5))
    own = waiting_clients(echod.port)
    assert 0 < own < 40
    time.sleep(0.2)  # a sibling that still looked after them would have had time enough
    assert waiting_clients(echod.port) == own
    os.kill(back, signal.SIGCONT)
    take_answers(late)
    assert (echod.row("line/0")["connections"], echod.row("line/1")["connections"]) == \
        (own, 80 - own)
    close_all(clients + late)
    assert echod.row("line/1")["pid"] == sibling


def test_last_worker_serves_for_all_and_so_does_its_successor(echod: Echod) -> None:
    """Two of three back off; the third is killed: whoever takes its place serves everybody, too."""
    echod.configure(echod.service(max_lines=0, workers=3))
    echod.start()
    last = echod.row("line/2")["pid"]
    with Sickness(echod, last):
        echod.await_log(r"a new line/0 starts in 3\.2 s")
        echod.await_log(r"a new line/1 starts in 3\.2 s")

    def connections() -> dict[str, int | None]:
        return {row["name"]: row["connections"] for row in echod.ps()}
    clients = many(echod, 40)
    take_answers(clients)
    assert connections() == {"line/0": None, "line/1": None, "line/2": 40}
    os.kill(last, signal.SIGKILL)
    close_all(clients)
    clients = many(echod, 40)
    take_answers(clients)
    assert connections() == {"line/0": None, "line/1": None, "line/2": 40}
    close_all(clients)


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "done"])
def test_restart_while_a_sibling_serves_for_another(echod: Echod, refused: bool) -> None:
    """
    Refused after the new image has begun: the sibling helps on until the missing one is back, whose
    pause is as long as it was. Done: all are new, and the former sibling only ends.
    """
    other = echod.another_port()
    here, there = f"{LOOPBACK}:{echod.port}", f"{LOOPBACK}:{other}"
    echod.configure(echod.service(max_lines=0, workers=2))
    echod.start()
    sibling = echod.row("line/1")["pid"]
    with Sickness(echod, sibling):
        echod.await_log(r"a new line/0 starts in 1\.6 s")
        begun = time.monotonic()
    if refused:
        echod.configure(echod.service(max_lines=0, workers=2, listen=[here, there]))
        echod.expect_log("restart|in use")
        with socket.socket() as taken:
            taken.bind((LOOPBACK, other))
            taken.listen()
            echod.restart(expect=1)
        clients = many(echod, 40)
        take_answers(clients)
        rows = {row["name"]: row for row in echod.ps()}
        assert rows["line/0"]["state"] == "backing off" and "SIGSEGV" in rows["line/0"]["text"]
        assert (rows["line/1"]["pid"], rows["line/1"]["connections"]) == (sibling, 40)
        back = echod.await_state("line/0")
        assert 1 < time.monotonic() - begun < seconds(2.5)
        assert back["restarts"] == 6
    else:
        with echod.connect() as kept:
            say(kept)
            echod.restart()
            assert set(pids_of(echod)) == {"line/0", "line/1"}
            say(kept)
        assert Process(sibling).await_end(seconds(5)), "it retires"
        clients = many(echod, 40)
        take_answers(clients)
    stop_process(echod.row("line/0")["pid"])
    late = many(echod, 40)
    wait_until(lambda: answered(late) + waiting_clients(echod.port) == 40, seconds(5))
    assert 0 < waiting_clients(echod.port) < 40, "each serves its own"
    os.kill(echod.row("line/0")["pid"], signal.SIGCONT)
    take_answers(late)
    close_all(clients + late)


def test_clients_wait_while_all_workers_back_off(echod: Echod) -> None:
    """Nobody is refused; the first worker that comes back serves them all."""
    echod.configure(echod.service(workers=2))
    echod.start()
    with Sickness(echod):
        echod.await_log(r"a new line/0 starts in 0\.8 s")
        echod.await_log(r"a new line/1 starts in 0\.8 s")
    status = echod.service_status()
    assert (status["state"], status["running"]) == ("backing off", 0)
    clients = many(echod, 30)
    assert waiting_clients(echod.port) == 30
    for client in clients:
        assert read_to_end(client) == b"a line\n"
        client.close()
    wait_until(lambda: echod.service_status()["running"] == 2, seconds(5), "both are back")


@pytest.mark.slow
def test_ten_seconds_of_health_are_a_new_beginning(echod: Echod) -> None:
    """The next death after that is the first one again: no pause; nine seconds are not enough."""
    echod.expect_log("fatal signal")
    echod.settings["services.line.workers"] = 2
    echod.start()
    former = {"line/0": 0, "line/1": 0}

    def die(name: str) -> None:
        pid = echod.await_state(name, but=former[name])["pid"]
        os.kill(pid, signal.SIGSEGV)
        Process(pid).await_end(seconds(5))
        former[name] = pid
    for name in former:
        for _ in range(3):
            die(name)
        echod.await_log(rf"a new {name} starts in 0\.2 s")
    for name in former:
        echod.await_state(name, but=former[name])
    wait_until(lambda: echod.row("line/0")["seconds"] >= 8, seconds(12))
    die("line/0")
    echod.await_log(r"a new line/0 starts in 0\.4 s")
    wait_until(lambda: echod.row("line/1")["seconds"] >= 10.1, seconds(5))
    die("line/1")
    echod.await_state("line/1", but=former["line/1"])
    assert re.findall(r"a new line/1 starts in ([\d.]+) s", echod.log_text()) == ["0.1", "0.2"]


def test_worker_that_was_killed_by_somebody_does_not_back_off(echod: Echod) -> None:
    """Nor does that wipe out its own faults, or count as one."""
    echod.expect_log("fatal signal")
    echod.settings["services.line.workers"] = 1
    echod.start()
    former = 0
    for sig in (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL, signal.SIGSEGV):
        former = echod.await_state("line/0", but=former)["pid"]
        os.kill(former, sig)
    echod.await_state("line/0", but=former)
    assert re.findall(r"starts in ([\d.]+) s", echod.log_text()) == ["0.1"]
    assert echod.row("line/0")["restarts"] == 5


# ---- ps and status ------------------------------------------------------------------------------

def three_services(echod: Echod, ports: dict[str, int], *order: str) -> None:
    echod.configure(*(echod.service(name, max_lines=0, workers=2 if name == "zebra" else 1,
                                    listen=[f"{LOOPBACK}:{ports[name]}"]) for name in order))


def test_ps_has_the_order_of_the_configuration(echod: Echod) -> None:
    """By whatever came and went since; with a new order after a restart."""
    ports = {"zebra": echod.port, "ant": echod.another_port(), "mole": echod.another_port()}

    def names(echod: Echod) -> list[str]:
        return [row["name"] for row in echod.ps()]
    three_services(echod, ports, "zebra", "mole", "ant")
    echod.start()
    assert names(echod) == ["zebra/0", "zebra/1", "mole/0", "ant/0"]
    for name in ("zebra/0", "mole/0"):
        pid = echod.row(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        echod.await_state(name, but=pid)
    assert names(echod) == ["zebra/0", "zebra/1", "mole/0", "ant/0"]
    with echod.connect(port=ports["mole"]) as client:
        say(client)
        three_services(echod, ports, "ant", "mole", "zebra")
        echod.restart()
        wait_until(lambda: len(echod.ps()) == 5, seconds(5), "only one retires")
        assert names(echod) == ["ant/0", "mole/0", "mole/0", "zebra/0", "zebra/1"]
        assert [row["state"] for row in echod.ps() if row["name"] == "mole/0"] == \
            ["retiring", "running"]
    assert [s["name"] for s in echod.status()["services"]] == ["ant", "mole", "zebra"]


def test_ps_says_what_each_process_has_and_does(echod: Echod) -> None:
    """Pid, state, since when, restarts, connections, processor time, memory: as the kernel says."""
    echod.configure(echod.service(max_lines=0, workers=1))
    echod.start()
    row = echod.row("line/0")
    assert (row["service"], row["kind"], row["state"]) == ("line", "worker", "running")
    assert (row["restarts"], row["generation"], row["connections"]) == (0, 1, 0)
    assert row["text"] is None
    assert Process(row["pid"]).ppid == echod.pid
    for count in (1, 2):
        os.kill(row["pid"], signal.SIGKILL)
        row = echod.await_state("line/0", but=row["pid"])
        assert row["restarts"] == count
    since = datetime.fromisoformat(row["since"].replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - since).total_seconds()) < seconds(5)
    assert 0 <= row["seconds"] < seconds(5)
    begun, first = time.monotonic(), row["seconds"]
    clients = [echod.connect() for _ in range(7)]
    for client in clients:
        say(client)
    assert echod.row("line/0")["connections"] == 7
    worker = Process(row["pid"])
    clients[0].setblocking(False)
    while worker.cpu_ticks < 0.2 * TICKS:  # work for it
        ready, writable, _ = select.select(clients[:1], clients[:1], [], seconds(5))
        if ready:
            assert clients[0].recv(1 << 20)
        if writable:
            clients[0].send(b"x\n" * 1000)
    close_all(clients)
    wait_until(lambda: echod.row("line/0")["connections"] == 0, seconds(5), "all have gone")
    row = echod.row("line/0")
    assert abs(row["cpu_seconds"] - worker.cpu_ticks / TICKS) < 0.05
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int((worker.path / "statm").read_text().split()[1]) * page
    assert 0.5 < row["memory"] / resident < 2
    assert abs((row["seconds"] - first) - (time.monotonic() - begun)) < 0.5
    before = row["seconds"]
    echod.restart()
    assert echod.row("line/0")["restarts"] == 2, "the place's count goes on"
    assert echod.row("line/0")["generation"] == 2
    assert echod.row("line/0")["seconds"] < before + 1


@pytest.mark.slow
@pytest.mark.parametrize("watchdog", [1, 0, 3600])
def test_ps_says_how_many_requests_a_second(echod: Echod, watchdog: int) -> None:
    """
    Over the last five to ten seconds, or since its beginning, of this worker; however often the
    watchdog looks, and if it never does.
    """
    other_port = echod.another_port()
    echod.configure(echod.service(max_lines=0, workers=1), echod.service(
        "other", workers=1, listen=[f"{LOOPBACK}:{other_port}"]), watchdog=watchdog)
    echod.start()
    assert echod.row("line/0")["requests_per_second"] == 0
    begun, lines, rates = time.monotonic(), 0, []
    with echod.connect() as client:
        while time.monotonic() < begun + 12:
            for _ in range(5):
                say(client)
            lines += 5
            if time.monotonic() > begun + 2:
                rates.append(echod.row("line/0")["requests_per_second"])
            time.sleep(0.05)
    ended = time.monotonic()
    true = lines / (ended - begun)
    print(f"\nps says {min(rates):.1f} to {max(rates):.1f} lines a second, true are {true:.1f}")
    assert 0.8 * true < min(rates) and max(rates) < 1.25 * true
    assert echod.row("other/0")["requests_per_second"] == 0
    wait_until(lambda: echod.row("line/0")["requests_per_second"] == 0, seconds(15), "it is past")
    assert 4.5 < time.monotonic() - ended < seconds(10.5)


def test_status_sums_up_each_service(echod: Echod) -> None:
    """What killed, retired and stopped processes have counted stays in the sum of their service."""
    other_port = echod.another_port()
    echod.configure(echod.service("one", max_lines=0, workers=2), echod.service(
        "two", workers=1, listen=[f"{LOOPBACK}:{other_port}"]))
    echod.start()

    def facts(name: str) -> tuple:
        s = echod.service_status(name)
        return (s["state"], s["processes"], s["running"], s["restarts"], s["connections"],
                s["requests"])

    def talk(lines: int) -> None:
        with echod.connect() as client:
            for _ in range(lines):
                say(client)
        wait_until(lambda: echod.service_status("one")["connections"] == 0, seconds(5))
    assert facts("one") == ("running", 2, 2, 0, 0, 0)
    assert echod.echo(port=other_port) == b"hello\n"
    talk(10)
    with echod.connect() as client:
        say(client)
        wait_until(lambda: facts("one") == ("running", 2, 2, 0, 1, 11), seconds(5), "one talks")
    for name, pid in pids_of(echod).items():
        if name.startswith("one"):
            os.kill(pid, signal.SIGKILL)
            echod.await_state(name, but=pid)
    wait_until(lambda: facts("one") == ("running", 2, 2, 2, 0, 11), seconds(5), "kept")
    talk(5)
    with echod.connect() as client:
        say(client)
        echod.restart()
        say(client)
        assert facts("one") == ("running", 2, 2, 2, 1, 18), "retiring ones count"
    wait_until(lambda: len(echod.ps()) == 3, seconds(5), "the retired are gone")
    assert facts("one") == ("running", 2, 2, 2, 0, 18)
    echod.run("stop", "one", expect=0)
    assert facts("one") == ("stopped", 2, 0, 2, 0, 18)
    echod.start_service("one")
    talk(2)
    assert facts("one")[5] == 20
    wait_until(lambda: facts("two") == ("running", 1, 1, 0, 0, 1), seconds(5), "untouched")


# ---- Many services, and what is their own -------------------------------------------------------

@pytest.mark.needs_root
def test_services_run_as_their_own_users_at_their_own_priority(echod: Echod) -> None:
    """Of each, where it says so; successors and the next generation, too."""
    ports = [echod.port, echod.another_port(), echod.another_port()]
    daemon, nobody, bin_ = map(pwd.getpwnam, ("daemon", "nobody", "bin"))
    wanted = {"own": (daemon.pw_uid, daemon.pw_gid, 7), "group": (nobody.pw_uid, daemon.pw_gid, -3),
              "all": (bin_.pw_uid, bin_.pw_gid, 4)}
    echod.configure(
        echod.service("own", user="daemon", nice=7, workers=1),
        echod.service("group", user="nobody", group="daemon", nice=-3, workers=1,
                      listen=[f"{LOOPBACK}:{ports[1]}"]),
        echod.service("all", workers=1, listen=[f"{LOOPBACK}:{ports[2]}"]),
        user="bin", nice=4)
    echod.start()

    def check() -> None:
        for name, (uid, gid, nice) in wanted.items():
            worker = Process(echod.await_state(f"{name}/0")["pid"])
            assert worker.uids == [uid] * 4, name
            assert worker.gids == [gid] * 4, name
            assert worker.status["Groups"] in ("", str(gid)), name
            assert int(worker.status["CapEff"], 16) == 0, name
            assert worker.nice == nice, name
        for port in ports:
            assert echod.echo(port=port) == b"hello\n"
    check()
    assert echod.supervisor.nice == 4 and echod.supervisor.uids == [0] * 4
    for name, pid in pids_of(echod).items():
        os.kill(pid, signal.SIGKILL)
        echod.await_state(name, but=pid)
    check()
    echod.restart()
    check()


def line_of(path: os.PathLike, text: str) -> int:
    """The number of the line that holds this text."""
    with open(path, encoding="ascii") as file:
        [number] = [n for n, line in enumerate(file, 1) if text in line]
    return number


@pytest.mark.parametrize("verb", ["check", "start", "restart"])
def test_names_and_addresses_used_twice_are_refused(echod: Echod, verb: str) -> None:
    """Each with both places, all at once; a daemon that serves is not touched."""
    port = echod.another_port()
    echod.configure()
    if verb == "restart":
        echod.start()
    here, there = f"{LOOPBACK}:{echod.port}", f"{LOOPBACK}:{port}"
    path = echod.configure(
        echod.service("first", listen=[here], max_lines=11),
        echod.service("second", listen=[there], max_lines=12),
        echod.service("first", listen=[f"{LOOPBACK}:1"], max_lines=13),
        echod.service("fourth", listen=[f"127.0.0.2:{port}", here], max_lines=14),
        echod.service("fifth", listen=[f"127.0.0.3:{port}", there], max_lines=15))
    lines = [line_of(path, f"max_lines = {n};") for n in (11, 12, 13, 14, 15)]
    echod.expect_log("first|restart")
    if verb == "start":
        done = echod.start(expect=6)
    else:
        done = echod.run(verb, expect=6)
    problems = (done.stdout + done.stderr).splitlines()
    where = [(path, lines[n]) for n in range(5)]

    def said(at: int, former: int, what: str) -> bool:
        own, other = (f"{name}:{line}" for name, line in (where[at], where[former]))
        return any(f"{own}: " in p and p.endswith(other) and what in p for p in problems)
    assert said(2, 0, "'first'"), problems
    if verb != "restart":  # which says the first of them
        assert said(3, 0, f"'{here}'"), problems
        assert said(4, 1, f"'{there}'"), problems
        assert len(problems) == 3
    if verb == "restart":
        echod.assert_serves()
        assert echod.status()["generation"] == 1
        echod.configure()


def test_thirty_services_start_restart_and_stop_quickly(echod: Echod) -> None:
    """Sixty workers: seconds would be felt at each command."""
    ports = [echod.port] + [echod.another_port() for _ in range(29)]
    echod.configure(*(echod.service(f"s{n}", workers=2, listen=[f"{LOOPBACK}:{port}"])
                      for n, port in enumerate(ports)))
    took = {}

    def timed(what: str, act) -> None:
        begun = time.monotonic()
        act()
        took[what] = time.monotonic() - begun
    timed("start", echod.start)
    timed("ps", lambda: echod.run("ps", expect=0))
    rows = echod.ps()
    assert [row["name"] for row in rows] == [f"s{n}/{i}" for n in range(30) for i in (0, 1)]
    assert {row["state"] for row in rows} == {"running"}
    for port in ports:
        assert echod.echo(port=port) == b"hello\n"
    timed("restart", echod.restart)
    wait_until(lambda: len(echod.ps()) == 60, seconds(5), "the former workers are gone")
    victims = pids_of(echod)

    def kill_all() -> None:
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(new := pids_of(echod)) == 60 and
                   set(new.values()).isdisjoint(victims.values()), seconds(10))
    timed("death of all", kill_all)
    for port in ports:
        assert echod.echo(port=port) == b"hello\n"
    timed("stop", echod.stop)
    print("\n30 services, 60 workers:",
          ", ".join(f"{what} {1000 * t:.0f} ms" for what, t in took.items()))
    limits = {"start": 3, "ps": 1, "restart": 4, "death of all": 3, "stop": 2}
    assert all(took[what] < seconds(limit) for what, limit in limits.items()), took


# ---- Retiring -----------------------------------------------------------------------------------

def test_ps_lists_what_retires_with_its_generation(echod: Echod) -> None:
    """Until its clients have gone, the oldest first; with max_retiring the oldest must go."""
    echod.configure(echod.service(max_lines=0, workers=1), max_retiring=2)
    echod.start()
    clients, pids = [], []

    def retiring() -> list[tuple[int, int, int]]:
        return [(r["generation"], r["pid"], r["connections"]) for r in echod.ps()
                if r["state"] == "retiring"]
    for _ in range(2):
        pids.append(echod.row("line/0")["pid"])
        clients.append(echod.connect())
        say(clients[-1])
        echod.restart()
    assert retiring() == [(1, pids[0], 1), (2, pids[1], 1)]
    assert echod.row("line/0")["generation"] == 3
    text = echod.run("ps", expect=0).stdout
    assert len(re.findall(r"^line/0 .*\bretiring\b", text, re.MULTILINE)) == 2, text

    pids.append(echod.row("line/0")["pid"])
    clients.append(echod.connect())
    say(clients[-1])
    echod.restart()
    assert clients[0].recv(1) == b""
    wait_until(lambda: retiring() == [(2, pids[1], 1), (3, pids[2], 1)], seconds(5))
    echod.await_log(rf"line/0\[{pids[0]}\] is ended: more than 2 processes retire \(max_retiring\)")
    for client in clients[1:]:
        say(client)
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: retiring() == [(3, pids[2], 1)], seconds(5), "and has no successor")
    assert [r["restarts"] for r in echod.ps() if r["state"] == "running"] == [0]
    close_all(clients)
    wait_until(lambda: retiring() == [], seconds(5), "it ends with its last client")
