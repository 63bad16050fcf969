"""Restart in place: no client sees it, and whatever fails leaves all as it was."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest

from clients import Load, say
from echod import Echod, read_exactly, read_to_end, seconds
from launching import refuses
from procfs import Process, lock_holder, wait_until


def two_services(echod: Echod, talk_port: int, **keys: object) -> None:
    """`line` answers one line and closes, `talk` goes on; `keys` are for both."""
    echod.configure(
        echod.service(**keys),
        echod.service("talk", max_lines=0, listen=[f"127.0.0.1:{talk_port}"], **keys))


def await_outcome(echod: Echod) -> dict:
    """Send SIGHUP and wait for what comes of it, as `echod restart` does."""
    echod.signal(signal.SIGHUP)
    return echod.ask("await-restart")


def anonymous_kib(process: Process) -> int:
    """Memory that belongs to the process alone and to no file."""
    for row in (process.path / "smaps_rollup").read_text().splitlines():
        if row.startswith("Anonymous:"):
            return int(row.split()[1])
    raise AssertionError("no Anonymous in smaps_rollup")


def own_descriptors(process: Process) -> int:
    """Without those of its workers, which come and go: each is a channel and a page of counters."""
    def settled() -> int:
        links = [sorted(process.fds.values()) for _ in range(2)]
        return len(links[0]) - 2 * sum("echod-counters" in link for link in links[0]) \
            if links[0] == links[1] else 0
    return wait_until(settled, seconds(10), "two looks at the descriptors agree")


# ---- Under load ---------------------------------------------------------------------------------

@pytest.mark.timeout(120)
def test_100_hangups_under_200_clients(echod: Echod) -> None:
    """No error, no refused connection, no wrong byte; pid, lock, descriptors, memory stay."""
    talk_port = echod.another_port()
    two_services(echod, talk_port, workers=2)
    echod.start()
    pid, inode, begun = echod.pid, echod.pidfile.stat().st_ino, echod.supervisor.start_time
    descriptors, memory, processes = {}, {}, {}
    with Load() as load:
        load.one_line(echod.port, clients=100)
        load.conversations(talk_port, clients=60, epochs=20)
        load.conversations(talk_port, clients=40)
        load.await_all()
        for number in range(1, 101):
            answer = await_outcome(echod)
            assert answer["ok"], answer
            load.epoch = number
            load.assert_flows(20)
            if number in (10, 100):
                descriptors[number] = own_descriptors(echod.supervisor)
                memory[number] = anonymous_kib(echod.supervisor)
                processes[number] = len(echod.status()["processes"])
    assert echod.supervisor.start_time == begun
    assert lock_holder(echod.pidfile) == pid and echod.pidfile.stat().st_ino == inode
    assert descriptors[10] == descriptors[100]
    records = 2 * abs(processes[100] - processes[10])  # KiB: what is known of each process
    assert abs(memory[100] - memory[10]) <= 0.1 * memory[10] + records, (memory, processes)
    assert sum(span.begun == 0 and span.ended == 100 for span in load.spans) >= 40
    assert sum(20 <= span.ended - span.begun < 100 for span in load.spans) >= 60
    restarts = echod.status()["restarts"]
    assert (restarts["begun"], restarts["ended"], restarts["failed"]) == (100, 100, 0)
    wait_until(lambda: len(echod.status()["processes"]) == 4, seconds(10), "the retired are gone")


def test_100_hangups_leave_descriptors_and_memory_as_they_were(echod: Echod) -> None:
    """At the 10th and at the 100th the supervisor holds the same."""
    echod.start()
    descriptors, memory = {}, {}
    for number in range(1, 101):
        assert await_outcome(echod)["ok"]
        if number in (10, 100):
            workers = echod.status()["services"][0]["processes"]
            wait_until(lambda: len(echod.status()["processes"]) == workers, seconds(10))
            descriptors[number] = sorted(echod.supervisor.fds.values())
            memory[number] = anonymous_kib(echod.supervisor)
    strip = [[re.sub(r"\d+", "", link) for link in descriptors[n]] for n in (10, 100)]
    assert strip[0] == strip[1]
    assert abs(memory[100] - memory[10]) <= 0.1 * memory[10], memory


def test_hangups_as_fast_as_possible_under_load(echod: Echod) -> None:
    """Whatever number of restarts becomes of them, clients see none; the last one counts."""
    talk_port = echod.another_port()
    two_services(echod, talk_port, workers=2)
    echod.start()
    with Load() as load:
        load.one_line(echod.port, clients=50)
        load.conversations(talk_port, clients=50)
        load.await_all()
        for _ in range(20):
            for _ in range(50):
                echod.signal(signal.SIGHUP)
            load.assert_flows()
        assert await_outcome(echod)["ok"]
    restarts = echod.status()["restarts"]
    assert restarts["begun"] == restarts["ended"] >= 2 and restarts["failed"] == 0
    assert lock_holder(echod.pidfile) == echod.pid


@pytest.mark.valgrind_subset
def test_restart_by_the_verb_under_load(echod: Echod) -> None:
    """`echod restart` returns when the new generation serves: the old workers accept no more."""
    echod.settings["services.line.workers"] = 2
    echod.start()
    with Load() as load:
        load.one_line(echod.port, clients=20)
        load.await_all()
        for number in range(1, 6):
            echod.restart()
            assert echod.status()["generation"] == 1 + number
            load.assert_flows()


# ---- What may change ----------------------------------------------------------------------------

def test_max_lines_changes_for_new_connections_only(echod: Echod) -> None:
    """A conversation goes on by the rules under which it began."""
    echod.configure(echod.service(max_lines=0))
    echod.start()
    with echod.connect() as old:
        say(old)
        for limit in (1, 3):
            echod.configure(echod.service(max_lines=limit))
            echod.restart()
            assert echod.echo(b"x\n" * 5) == b"x\n" * limit
            for _ in range(10):
                say(old)
        echod.configure(echod.service(max_lines=0))
        echod.restart()
        assert echod.echo(b"x\n" * 50) == b"x\n" * 50
        say(old)


def test_number_of_workers_grows_and_shrinks_under_load(echod: Echod) -> None:
    """1, 4, 1, 3, 2: nobody is refused or reset, and no queue is left without a worker."""
    talk_port = echod.another_port()
    two_services(echod, talk_port, workers=1)
    echod.start()
    with Load() as load:
        load.one_line(echod.port, clients=50)
        load.conversations(talk_port, clients=20, epochs=2)
        load.conversations(talk_port, clients=20)
        load.await_all()
        for workers in (4, 1, 3, 2, 1, 4, 2):
            two_services(echod, talk_port, workers=workers)
            echod.restart()
            load.epoch += 1
            assert [s["processes"] for s in echod.status()["services"]] == [workers] * 2
            assert len(echod.workers()) == 2 * workers
            # Enough for each socket of the largest group to get some of them.
            load.assert_flows(60)


def test_address_comes_and_goes_under_load(echod: Echod) -> None:
    """A new one serves, a dropped one refuses; conversations go on, and the others see nothing."""
    other = echod.another_port()
    here, there = f"127.0.0.1:{echod.port}", f"127.0.0.1:{other}"
    echod.configure(echod.service(max_lines=0, listen=[here], workers=2))
    echod.start()
    kept = []
    with Load() as load:
        load.conversations(echod.port, clients=50, epochs=1)
        load.await_all()
        for _ in range(5):
            echod.configure(echod.service(max_lines=0, listen=[here, there], workers=2))
            echod.restart()
            assert set(echod.status()["services"][0]["addresses"]) == {here, there}
            kept += [echod.connect(port=other) for _ in range(4)]
            for client in kept:
                say(client)
            load.epoch += 1
            echod.configure(echod.service(max_lines=0, listen=[here], workers=2))
            echod.restart()
            assert echod.status()["services"][0]["addresses"] == [here]
            wait_until(lambda: refuses(echod, other), seconds(5), "the dropped address refuses")
            for client in kept:
                say(client)
            load.epoch += 1
            load.assert_flows(20)
    for client in kept:
        client.close()


def test_queue_of_a_dropped_address_is_served(echod: Echod) -> None:
    """Whoever was in the queue when the address went is accepted and answered."""
    other = echod.another_port()
    here, there = f"127.0.0.1:{echod.port}", f"127.0.0.1:{other}"
    echod.configure(echod.service(listen=[here, there], workers=1))
    echod.start()
    worker = echod.workers()[0]
    os.kill(worker.pid, signal.SIGSTOP)
    clients = [echod.connect(port=other) for _ in range(40)]
    for client in clients:
        client.sendall(b"patience\n")
    echod.configure(echod.service(listen=[here], workers=1))
    echod.restart()
    os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert read_to_end(client) == b"patience\n"
    assert worker.await_end(seconds(10))
    assert refuses(echod, other)


def test_protocol_changes_on_the_same_port(echod: Echod) -> None:
    """New connections speak the new one, old conversations go on in the old one."""
    echod.configure(echod.service(max_lines=0))
    echod.start()
    with echod.connect() as old:
        say(old)
        echod.configure(echod.service(protocol="echo"))
        echod.restart()
        with echod.connect() as new:
            say(new, b"no end of line")
            old.sendall(b"still a li")
            say(new, b"again none")
            old.sendall(b"ne\n")
            assert read_exactly(old, 13) == b"still a line\n"
        say(old)


def test_services_come_go_and_change_places(echod: Echod) -> None:
    """An address may pass from one service to another; the port never refuses."""
    other = echod.another_port()
    here, there = f"127.0.0.1:{echod.port}", f"127.0.0.1:{other}"

    def pair(first: str, second: str) -> None:
        echod.configure(echod.service("one", max_lines=1, listen=[first], workers=2),
                        echod.service("two", max_lines=2, listen=[second], workers=1))

    pair(here, there)
    echod.start()
    for _ in range(3):
        pair(there, here)
        echod.restart()
        assert echod.echo(b"x\n" * 3) == b"x\n" * 2
        assert echod.echo(b"x\n" * 3, port=other) == b"x\n"
        pair(here, there)
        echod.restart()
        assert echod.echo(b"x\n" * 3) == b"x\n"
        assert echod.echo(b"x\n" * 3, port=other) == b"x\n" * 2
    echod.configure(echod.service("three", max_lines=0, listen=[here, there]))
    echod.restart()
    assert echod.echo(b"x\n" * 9, port=other) == b"x\n" * 9


def test_all_addresses_become_one_and_all_again(echod: Echod) -> None:
    """From *:port to 127.0.0.1:port and back, under load, without a probe in the way."""
    everywhere, one = f"*:{echod.port}", f"127.0.0.1:{echod.port}"
    echod.configure(echod.service(max_lines=0, listen=[everywhere], defer_accept=0))
    echod.start()
    with Load() as load:
        load.conversations(echod.port, clients=30)
        load.await_all()
        for listen in (one, everywhere, one, everywhere):
            echod.configure(echod.service(max_lines=0, listen=[listen], defer_accept=0))
            echod.restart()
            assert echod.echo(b"x\n") == b"x\n"
            load.assert_flows(20)


def test_counters_go_on_over_restarts(echod: Echod) -> None:
    """Totals of ended workers, of retiring ones and of new ones are one sum."""
    echod.configure(echod.service(max_lines=0))
    echod.start()
    kept = []
    for number in range(1, 6):
        kept.append(echod.connect())
        for client in kept:
            say(client, b"12345678\n")
        assert echod.echo(b"1\n2\n") == b"1\n2\n"
        echod.restart()
        wait_until(lambda: echod.status()["connections"]["now"] == number, seconds(5))
        lines = number * (number + 1) // 2
        status = echod.status()
        assert status["connections"]["total"] == 2 * number
        assert status["counters"]["requests"] == lines + 2 * number
        assert status["counters"]["bytes_in"] == 9 * lines + 4 * number
        assert status["counters"]["bytes_out"] == status["counters"]["bytes_in"]
        assert status["restarts"]["ended"] == number
    for client in kept:
        client.close()


# ---- Retiring -----------------------------------------------------------------------------------

def test_retiring_workers_end_with_their_last_client(echod: Echod) -> None:
    """Each stays for its clients, and not longer."""
    echod.configure(echod.service(max_lines=0, workers=1))
    echod.start()
    [old] = echod.workers()
    with echod.connect() as client:
        say(client)
        echod.restart()
        assert [w.pid for w in echod.workers("retiring")] == [old.pid]
        say(client)
    assert old.await_end(seconds(5))


def test_retire_timeout_ends_what_does_not_end(echod: Echod) -> None:
    """A limit for conversations after a restart; they end with a FIN, and are counted."""
    echod.configure(echod.service(max_lines=0, workers=1), retire_timeout="300ms")
    echod.start()
    with echod.connect() as client:
        say(client)
        begun = time.monotonic()
        echod.restart()
        assert client.recv(1) == b""
        assert time.monotonic() - begun >= 0.3
    wait_until(lambda: echod.status()["counters"]["cut_off"] == 1, seconds(5))
    with echod.connect() as client:
        say(client)


def test_max_retiring_holds_for_many_workers(echod: Echod) -> None:
    """More than may retire, by one restart: the rest of them end as soon as it is done."""
    echod.configure(echod.service(max_lines=0, workers=4), max_retiring=2)
    echod.start()
    clients = [echod.connect() for _ in range(40)]
    for client in clients:
        say(client)
    wait_until(lambda: all(r["connections"] for r in echod.ps("line")), seconds(5), "all serve")
    echod.restart()
    wait_until(lambda: len(echod.workers("retiring")) == 2, seconds(5), "two are left")
    assert len(re.findall(r"\(max_retiring\)", echod.log_text())) == 2
    for client in clients:
        client.close()


def test_stop_after_the_success_of_a_restart_does_not_undo_it(echod: Echod) -> None:
    """A former worker that is stuck delays the word "done"; a stop meanwhile says it at once."""
    echod.configure(echod.service(max_lines=0, workers=1))
    echod.start()
    with echod.connect() as client:
        say(client)
        [former] = echod.workers()
        os.kill(former.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            restart = pool.submit(echod.run, "restart", "-P", str(echod.pidfile))
            wait_until(lambda: echod.status()["generation"] == 2, seconds(5))
            echod.signal(signal.SIGTERM)
            assert "generation 2 serves" in restart.result().stdout
    echod.expect_log("does not end: killed")
    echod.await_end()
    assert "given up" not in echod.log_text()


def test_max_retiring_ends_the_oldest(echod: Echod) -> None:
    """More generations than allowed: the oldest goes, the younger ones serve on; it is logged."""
    echod.configure(echod.service(max_lines=0, workers=1), max_retiring=3)
    echod.start()
    clients = []
    for number in range(6):
        clients.append(echod.connect())
        say(clients[-1])
        echod.restart()
        ended, alive = clients[:max(0, number - 2)], clients[max(0, number - 2):]
        for client in ended:
            assert client.recv(1) == b""
        for client in alive:
            say(client)
        wait_until(lambda: len(echod.workers("retiring")) == len(alive), seconds(5))
    assert len(re.findall("max_retiring", echod.log_text())) == 3
    for client in clients:
        client.close()


def test_half_a_line_is_finished_after_the_restart(echod: Echod) -> None:
    """What a client has begun, even one byte, is answered by the worker that has it."""
    echod.configure(echod.service(max_lines=1))
    echod.start()
    clients = [echod.connect() for _ in range(10)]
    for client in clients:
        client.sendall(b"begun ")
    wait_until(lambda: echod.status()["counters"]["bytes_in"] == 60, seconds(5))
    for _ in range(3):
        echod.restart()
    for client in clients:
        with client:
            client.sendall(b"and ended\n")
            assert read_to_end(client) == b"begun and ended\n"


# ---- Deaths and signals in the middle -----------------------------------------------------------

@pytest.mark.timeout(90)
def test_workers_killed_at_random_during_restarts(echod: Echod) -> None:
    """A killed worker's connections break, but nobody is refused; each restart has an outcome."""
    # The leak check of a process that is killed in the middle of it reports just that.
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"
    echod.configure(echod.service(workers=3))
    echod.start()
    echod.expect_log("restart in place refused")
    choose = random.Random(5)
    ending = threading.Event()
    served, problems = [0], []

    def client() -> None:
        while not ending.is_set():
            try:
                if echod.echo(b"x\n") == b"x\n":
                    served[0] += 1
            except ConnectionResetError:
                pass  # its worker was killed
            except OSError as error:
                problems.append(repr(error))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            echod.signal(signal.SIGHUP)
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(seconds(20))
                control.connect(str(echod.control))
                control.sendall(b'{"verb":"await-restart"}\n')
                for _ in range(choose.randrange(1, 4)):
                    children = worker_pids(echod.supervisor)
                    if children:
                        kill_quietly(choose.choice(children))
                assert "ok" in json.loads(read_to_end(control))
            before = served[0]
            wait_until(lambda: served[0] > before, seconds(10), "clients are served")
        wait_until(lambda: len(echod.workers()) == 3, seconds(15), "all workers are back")
        echod.restart()
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert echod.status()["restarts"]["begun"] >= 31
    assert lock_holder(echod.pidfile) == echod.pid


def worker_pids(supervisor: Process) -> list[int]:
    """Its children, as the kernel knows them, but not the trial of a restart."""
    found = []
    for process in supervisor.children:
        try:
            if "check" not in process.cmdline:
                found.append(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            pass  # ended meanwhile
    return found


def kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Gate:
    """An executable whose next trial waits until it is let through."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.installed = echod.executable
        self.path = echod.dir / "sbin" / "echod"
        self.path.parent.mkdir()
        self.fifo = echod.dir / "gate"
        os.mkfifo(self.fifo)
        self.fifo.chmod(0o666)
        shutil.copy(self.installed, self.path)
        echod.executable = self.path

    def close(self) -> None:
        """From now on a trial waits."""
        self._replace(lambda new: new.write_text(f'#!/bin/sh\nread line < {self.fifo}\n'
                                                 f'exec {self.path} "$@"\n'))

    def _replace(self, write: Callable[[Path], object]) -> None:
        new = self.path.with_suffix(".new")
        write(new)
        new.chmod(0o755)
        new.rename(self.path)

    def await_trial(self) -> Process:
        """The trial that stands before the gate; who comes later finds it open."""
        self._writer = wait_until(self._reader_waits, seconds(10), "a trial runs")
        self._replace(lambda new: shutil.copy(self.installed, new))
        [trial] = [p for p in self.echod.supervisor.children if "check" in p.cmdline]
        return trial

    def _reader_waits(self) -> int | None:
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    def open(self) -> None:
        """Let the trial through."""
        os.write(self._writer, b"go\n")
        os.close(self._writer)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_stop_during_the_trial_wins(echod: Echod, sig: signal.Signals) -> None:
    """The trial is ended, and who waits for the restart hears that it will not be."""
    gate = Gate(echod)
    echod.start()
    echod.expect_log("stopping")
    gate.close()
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(seconds(20))
        control.connect(str(echod.control))
        echod.signal(signal.SIGHUP)
        control.sendall(b'{"verb":"await-restart"}\n')
        trial = gate.await_trial()
        echod.signal(sig)
        echod.await_end()
        assert trial.await_end(seconds(5))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_stop_that_comes_with_the_end_of_the_trial_wins(echod: Echod, sig: signal.Signals) -> None:
    """Both are seen in the same turn: the stop must not get lost in the exec."""
    gate = Gate(echod)
    echod.start()
    echod.expect_log("stopping")
    gate.close()
    echod.signal(signal.SIGHUP)
    trial = gate.await_trial()
    echod.signal(signal.SIGSTOP)
    wait_until(lambda: echod.supervisor.state == "T", seconds(5))
    gate.open()
    wait_until(lambda: trial.state == "Z", seconds(10), "the trial has ended")
    echod.signal(sig)
    echod.signal(signal.SIGCONT)
    echod.await_end()


def test_hangup_that_comes_with_the_end_of_the_trial_is_not_lost(echod: Echod) -> None:
    """It leads to one more restart, which sees what was written before it."""
    gate = Gate(echod)
    echod.configure(echod.service(max_lines=1))
    echod.start()
    gate.close()
    echod.signal(signal.SIGHUP)
    trial = gate.await_trial()
    echod.signal(signal.SIGSTOP)
    wait_until(lambda: echod.supervisor.state == "T", seconds(5))
    gate.open()
    wait_until(lambda: trial.state == "Z", seconds(10), "the trial has ended")
    echod.signal(signal.SIGHUP)
    echod.signal(signal.SIGCONT)
    wait_until(lambda: echod.status()["restarts"]["begun"] == 2, seconds(10), "a second restart")
    assert echod.ask("await-restart")["ok"]


def test_await_restart_over_several_restarts_is_answered_once(echod: Echod) -> None:
    """Each of many that ask gets one line and the end, whatever restarts it was handed through."""
    gate = Gate(echod)
    echod.start()
    gate.close()
    echod.signal(signal.SIGHUP)
    gate.await_trial()
    waiting = []
    for number in range(8):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(seconds(20))
        client.connect(str(echod.control))
        if number == 4:
            echod.signal(signal.SIGHUP)  # the later four wait for one more
        client.sendall(b'{"verb":"await-restart"}\n')
        waiting.append(client)
    half = socket.socket(socket.AF_UNIX)
    half.settimeout(seconds(20))
    half.connect(str(echod.control))
    half.sendall(b'{"verb":"sta')
    wait_until(lambda: echod.status()["restarts"]["begun"] == 1, seconds(5))
    gate.open()
    for client in waiting:
        assert_one_answer(client)
    half.sendall(b'tus"}\n')
    assert json.loads(read_to_end(half))["restarts"]["begun"] == 2
    half.close()


def assert_one_answer(client: socket.socket) -> None:
    with client:
        text = read_to_end(client)
    assert text.count(b"\n") == 1 and text.endswith(b"\n")
    assert json.loads(text)["ok"] is True


def test_client_of_a_restart_that_goes_away(echod: Echod) -> None:
    """Who asked and left does no harm to the restart, nor to who asks next."""
    gate = Gate(echod)
    echod.start()
    for _ in range(3):
        gate.close()
        echod.signal(signal.SIGHUP)
        gate.await_trial()
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(echod.control))
                client.sendall(b'{"verb":"await-restart"}\n')
        gate.open()
        assert echod.ask("await-restart")["ok"]
    echod.assert_serves()


def test_worker_that_died_before_a_refused_restart_comes_back(echod: Echod) -> None:
    """Its pause before the next try is not forgotten when the restart leads back."""
    other = echod.another_port()
    echod.configure(echod.service(workers=1))
    echod.start()
    echod.expect_log("restart in place refused|fatal signal")
    for number in range(1, 5):  # by its own fault, so that its successors come later and later
        [worker] = wait_until(echod.workers, seconds(10), "a worker runs")
        os.kill(worker.pid, signal.SIGSEGV)
        assert worker.await_end(seconds(5))
        echod.await_log(r"was ended by signal SIGSEGV", count=number)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other))
        taken.listen()
        echod.configure(echod.service(
            workers=1, listen=[f"127.0.0.1:{echod.port}", f"127.0.0.1:{other}"]))
        assert await_outcome(echod)["ok"] is False
    wait_until(echod.workers, seconds(15), "the worker is back")
    echod.assert_serves()


# ---- Refused: all goes on as before -------------------------------------------------------------

def test_whatever_is_broken_nothing_changes_under_load(echod: Echod) -> None:
    """Configuration wrong, gone; executable wrong in many ways; an address taken: all in a row."""
    installed = echod.executable
    copy = echod.dir / "sbin" / "echod"
    copy.parent.mkdir()
    shutil.copy(installed, copy)
    echod.executable = copy
    other = echod.another_port()
    good = echod.configure(echod.service(max_lines=0, workers=2)).read_text()
    echod.settings["start_timeout"] = 5 if echod.sanitized else 1
    echod.start()
    echod.expect_log("restart in place refused")
    workers = {w.pid for w in echod.workers()}
    restart = [str(installed), "restart", *echod.where()]

    def refuse(reason: str) -> None:
        done = echod.run_command([str(installed), "restart", "-P", str(echod.pidfile)])
        assert done.returncode != 0
        assert re.fullmatch(rf"echod: .*(?:{reason}).*\n", done.stderr), done.stderr
        assert reason_in_log(echod, reason), f"{reason} is not in the log"
        assert {w.pid for w in echod.workers()} == workers
        assert lock_holder(echod.pidfile) == echod.pid
        load.assert_flows()

    def replace(text: str | None) -> None:
        copy.unlink(missing_ok=True)
        if text is not None:
            copy.write_text(text)
            copy.chmod(0o755)

    with Load() as load, socket.socket() as taken:
        load.conversations(echod.port, clients=30, epochs=1)
        load.conversations(echod.port, clients=30)
        load.await_all()

        echod.config.write_text(good + "nonsense = 1;\n")
        refuse(r"echod\.conf:\d+: .*nonsense")
        echod.config.write_text(good.replace("max_lines = 0", 'max_lines = "many"'))
        refuse(r"echod\.conf:\d+: .*max_lines")
        echod.config.write_text("services = (;\n")
        refuse(r"echod\.conf:1")
        echod.config.unlink()
        refuse(r"echod\.conf.*No such file")
        echod.config.write_text(good)

        replace(None)
        refuse("No such file")
        replace("garbage\n")
        refuse("Exec format error|status")
        replace("#!/bin/sh\necho echod: it is broken >&2\nexit 1\n")
        refuse("it is broken")
        replace("#!/bin/sh\nexec sleep 60\n")
        refuse("time")
        replace("#!/bin/sh\nkill -SEGV $$\n")
        refuse("SIGSEGV")
        replace(None)
        shutil.copy(installed, copy)

        taken.bind(("127.0.0.1", other))
        taken.listen()
        both = f'"127.0.0.1:{echod.port}", "127.0.0.1:{other}"'
        echod.config.write_text(good.replace(f'"127.0.0.1:{echod.port}"', both))
        refuse(f"127.0.0.1:{other}.*in use")
        echod.config.write_text(good)

        echod.run_command(restart, expect=0)
        load.epoch += 1
        load.assert_flows()
        assert workers.isdisjoint(w.pid for w in echod.workers())
    restarts = echod.status()["restarts"]
    assert (restarts["begun"], restarts["failed"]) == (11, 10)


def reason_in_log(echod: Echod, reason: str) -> bool:
    return re.search(f"refused.*(?:{reason})", echod.log_text()) is not None


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
@pytest.mark.parametrize("fault, reason", [
    ("signal=SIGSTOP", "start_timeout"),
    ("signal=SIGKILL", "SIGKILL"),
    ("signal=SIGSEGV", "SIGSEGV"),
])
def test_worker_that_does_not_get_ready(echod: Echod, fault: str, reason: str) -> None:
    """It hangs, or dies before it is ready: the old generation serves on, unchanged."""
    if echod.sanitized:
        pytest.skip("the sanitizers do not run under ptrace")
    gate = Gate(echod)
    echod.configure(echod.service(max_lines=0, workers=2), start_timeout=2)
    echod.start()
    echod.expect_log("restart in place refused|fatal signal")
    workers = {w.pid for w in echod.workers()}
    with Load() as load:
        load.conversations(echod.port, clients=20, epochs=1)
        load.conversations(echod.port, clients=20)
        load.await_all()
        gate.close()
        echod.signal(signal.SIGHUP)
        gate.await_trial()
        # Only new workers put 0, 1 and 2 on /dev/null after this.
        with subprocess.Popen(["strace", "-f", "-qq", "-p", str(echod.pid), "-o", "/dev/null",
                               "-e", "trace=?dup2,?dup3", "-e",
                               f"inject=?dup2,?dup3:{fault}"]) as strace:
            try:
                wait_until(lambda: echod.supervisor.status["TracerPid"] != "0", seconds(10))
                gate.open()
                answer = echod.ask("await-restart")
            finally:
                strace.send_signal(signal.SIGINT)
                strace.wait(seconds(10))
        assert answer["ok"] is False and reason in answer["error"], answer
        assert {w.pid for w in echod.workers()} == workers
        load.assert_flows()
        assert len(echod.status()["processes"]) == 2
        echod.restart()
        load.epoch += 1
        load.assert_flows()


# ---- The same launch again ----------------------------------------------------------------------

def test_upgrade_by_switching_a_link_is_seen(echod: Echod) -> None:
    """The path is executed anew with its links unresolved: the new target runs after a restart."""
    installed = echod.executable
    for name in ("1.0", "2.0"):
        (echod.dir / name).mkdir()
        shutil.copy(installed, echod.dir / name / "echod")
    link = echod.dir / "current"
    link.symlink_to("1.0")
    echod.executable = link / "echod"
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    exe = echod.supervisor.path / "exe"
    assert os.readlink(exe) == str(echod.dir / "1.0" / "echod")
    with echod.connect() as client:
        say(client)
        (echod.dir / "new").symlink_to("2.0")
        (echod.dir / "new").rename(link)
        echod.restart()
        assert os.readlink(exe) == str(echod.dir / "2.0" / "echod")
        assert all(os.readlink(w.path / "exe") == os.readlink(exe) for w in echod.workers())
        shutil.rmtree(echod.dir / "1.0")
        say(client)
        echod.restart()


def test_relative_paths_of_the_start_hold_at_a_restart(echod: Echod) -> None:
    """-f, -P and the executable's own path were made absolute before the daemon went to /."""
    echod.configure(echod.service(max_lines=1))
    (echod.dir / "sbin").mkdir()
    shutil.copy(echod.executable, echod.dir / "sbin" / "echod")
    echod.run_command(["sbin/echod", "-f", "echod.conf", "-P", echod.pidfile.name],
                      expect=0, cwd=echod.dir)
    echod.adopt()
    echod.configure(echod.service(max_lines=2))
    echod.restart()
    assert echod.echo(b"x\n" * 5) == b"x\n" * 2
    assert echod.supervisor.cwd == "/"
    assert echod.status()["config"] == str(echod.config)


def test_options_win_over_the_file_at_every_restart(echod: Echod) -> None:
    """-o of the start holds on, over whatever the file says by now."""
    echod.configure(echod.service(max_lines=1))
    echod.settings["services.line.max_lines"] = 4
    echod.start()
    for lines in (2, 3):
        echod.configure(echod.service(max_lines=lines))
        echod.restart()
        assert echod.echo(b"x\n" * 9) == b"x\n" * 4
