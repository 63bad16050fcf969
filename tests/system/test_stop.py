"""Both kinds of stop, and the end of the supervisor, as clients see them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest

from clients import Load, fill, say, small_client
from echod import Echod, read_exactly, read_to_end, seconds
from procfs import Process, lock_holder, wait_until


@pytest.fixture
def talking(echod: Echod) -> Echod:
    """A running daemon for conversations of many lines, with two workers."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 2})
    echod.start()
    return echod


def refused(echod: Echod) -> bool:
    try:
        echod.connect().close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def await_counter(echod: Echod, name: str, value: int) -> None:
    wait_until(lambda: echod.status()["counters"][name] == value, seconds(10), f"{name} is {value}")


def wear_out(echod: Echod, deaths: int = 5) -> None:
    """End the only worker by its own fault until its successor is long in coming."""
    for number in range(1, deaths + 1):
        [worker] = wait_until(echod.workers, seconds(10), "a worker runs")
        os.kill(worker.pid, signal.SIGSEGV)
        assert worker.await_end(seconds(5))
        echod.await_log(r"was ended by signal SIGSEGV", count=number)


# ---- Polite -------------------------------------------------------------------------------------

def test_clients_that_do_not_close_hold_up_a_stop_for_two_seconds(talking: Echod) -> None:
    """An idle one has its FIN and nothing to take: two seconds for its own, and no more."""
    clients = [talking.connect() for _ in range(5)]
    for client in clients:
        say(client)
    begun = time.monotonic()
    talking.stop()
    taken = time.monotonic() - begun
    assert 1.5 < taken < 2 + seconds(1), taken
    for client in clients:
        assert read_to_end(client) == b""
        client.close()


def test_polite_stop_answers_every_line_that_was_received(talking: Echod) -> None:
    """Many clients, many lines each, more than the worker has read: all come back, then a FIN."""
    lines = b"".join(b"line %d \0\r\n" % number for number in range(2000))
    clients = [talking.connect() for _ in range(30)]
    for client in clients:
        say(client)
    workers = talking.workers()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    for client in clients:
        client.sendall(lines)
    talking.signal(signal.SIGUSR1)
    wait_until(lambda: talking.status()["state"] == "stopping", seconds(5))
    for worker in workers:
        os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert read_to_end(client) == lines
    talking.await_end()


def test_polite_stop_ends_idle_connections_with_a_fin(talking: Echod) -> None:
    """Clients that wait see the end of file; one that writes just then sees no reset either."""
    clients = [talking.connect() for _ in range(40)]
    for client in clients:
        say(client)
    talking.signal(signal.SIGUSR1)
    for client in clients[:20]:
        assert client.recv(1) == b""
    late = b"in time or too late, but no reason for a reset\n"
    for client in clients[20:]:
        client.sendall(late)
        assert read_to_end(client) in (b"", late)
        client.shutdown(socket.SHUT_WR)
    for client in clients:
        client.close()
    talking.await_end(5)


def test_polite_stop_lets_half_a_line_be_finished(talking: Echod) -> None:
    """In several pieces, while new clients are refused and idle ones have gone."""
    with talking.connect() as half, talking.connect() as idle:
        say(idle)
        half.sendall(b"a whole line\nbegun")
        assert read_exactly(half, 13) == b"a whole line\n"
        await_counter(talking, "bytes_in", 7 + 18)
        talking.signal(signal.SIGUSR1)
        assert idle.recv(1) == b""
        idle.close()
        wait_until(lambda: refused(talking), seconds(5))
        received = 25
        for part in (b", goes ", b"on", b" and en"):
            half.sendall(part)
            received += len(part)
            await_counter(talking, "bytes_in", received)
        half.sendall(b"ds\n")
        assert read_to_end(half) == b"begun, goes on and ends\n"
    talking.await_end()


def test_polite_stop_serves_the_queue(echod: Echod) -> None:
    """Who had connected before the stop is accepted and answered, though no worker had seen it."""
    echod.settings["services.line.workers"] = 2
    echod.start()
    workers = echod.workers()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    clients = [echod.connect() for _ in range(200)]
    for client in clients:
        client.sendall(b"patience\n")
    echod.signal(signal.SIGUSR1)
    wait_until(lambda: echod.status()["state"] == "stopping", seconds(5))
    for worker in workers:
        os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert read_to_end(client) == b"patience\n"
    echod.await_end()


def test_polite_stop_delivers_replies_that_wait(talking: Echod) -> None:
    """A client that reads slowly gets all of what was received from it."""
    line = b"x" * 59 + b"\n"
    with small_client(talking.port) as client:
        sent = fill(client, line)
        talking.signal(signal.SIGUSR1)
        wait_until(lambda: talking.status()["state"] == "stopping", seconds(5))
        # The rest of a line begun, and nothing more.
        rest = line[sent % 60:] if sent % 60 else b""
        sender = threading.Thread(target=client.sendall, args=(rest,))
        sender.start()
        got = read_to_end(client)
        sender.join()
        assert got == line * (len(got) // 60)
        assert len(got) == sent + len(rest)
    talking.await_end()


def test_polite_stop_includes_those_that_retire(talking: Echod) -> None:
    """Workers of former generations finish in the same way."""
    clients = []
    for _ in range(3):
        idle, half = talking.connect(), talking.connect()
        say(idle)
        half.sendall(b"half ")
        clients.append((idle, half))
        await_counter(talking, "bytes_in", len(clients) * 12)
        talking.restart()
    talking.signal(signal.SIGUSR1)
    for idle, half in clients:
        assert idle.recv(1) == b""
        half.sendall(b"whole\n")
        assert read_to_end(half) == b"half whole\n"
        idle.close()
        half.close()
    talking.await_end()


def test_polite_stop_under_load_breaks_no_reply(talking: Echod) -> None:
    """Conversations end between two lines: never inside a reply, never with a reset."""
    problems: list[str] = []
    started = threading.Barrier(21)

    def converse(number: int) -> None:
        line = b"%d " % number * 50 + b"\n"
        try:
            with talking.connect() as client:
                say(client)
                started.wait(seconds(10))
                while True:
                    client.sendall(line)
                    got = read_exactly(client, len(line))
                    if not got:
                        return
                    if got != line:
                        problems.append(f"{got!r} came back")
                        return
        except OSError as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=converse, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    started.wait(seconds(10))
    lines = talking.status()["counters"]["requests"]
    wait_until(lambda: talking.status()["counters"]["requests"] > lines + 200, seconds(10))
    talking.signal(signal.SIGUSR1)
    for thread in threads:
        thread.join(seconds(20))
    talking.await_end()
    assert problems == []


def test_drain_timeout_ends_the_rest(echod: Echod) -> None:
    """Half a line that is never finished, a reply that is never read: closed and logged."""
    echod.settings.update({"services.line.max_lines": 0, "drain_timeout": "1s"})
    echod.start("-v")
    with echod.connect() as half, small_client(echod.port) as deaf:
        half.sendall(b"half a line")
        fill(deaf, b"y" * 999 + b"\n")
        begun = time.monotonic()
        echod.stop()
        assert 0.9 <= time.monotonic() - begun < seconds(5)
        assert half.recv(1) == b""
    assert echod.log_text().count("the server stops") == 2


@pytest.mark.parametrize("second", ["SIGUSR1", "SIGTERM"])
def test_second_signal_ends_at_once(talking: Echod, second: str) -> None:
    """With half a line and a reply that nobody reads."""
    with talking.connect() as half, small_client(talking.port) as deaf:
        half.sendall(b"half")
        deaf.sendall(b"z\n")
        await_counter(talking, "bytes_in", 6)
        talking.signal(signal.SIGUSR1)
        wait_until(lambda: refused(talking), seconds(5))
        begun = time.monotonic()
        talking.signal(getattr(signal, second))
        talking.await_end()
        assert time.monotonic() - begun < seconds(1)


# ---- Quick --------------------------------------------------------------------------------------

def test_quick_stop_under_load_takes_less_than_a_second(echod: Echod) -> None:
    """Busy clients, deaf clients, idle ones, and workers that retire with theirs."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 2})
    echod.start()
    ending = threading.Event()

    def flood() -> None:
        try:
            with echod.connect() as client:
                while not ending.is_set():
                    say(client, b"flood\n" * 500)
        except (OSError, AssertionError):
            pass  # it was cut off

    threads = [threading.Thread(target=flood) for _ in range(6)]
    clients = [echod.connect() for _ in range(100)]
    for client in clients:
        say(client)
    echod.restart()
    clients += [echod.connect() for _ in range(100)]
    for client in clients[100:]:
        say(client)
    deaf = small_client(echod.port)
    fill(deaf, b"x" * 1000 + b"\n")
    for thread in threads:
        thread.start()
    before = echod.status()["counters"]["requests"]
    wait_until(lambda: echod.status()["counters"]["requests"] > before + 5000, seconds(10))
    begun = time.monotonic()
    echod.signal(signal.SIGTERM)
    echod.await_end()
    took = time.monotonic() - begun
    ending.set()
    for thread in threads:
        thread.join(seconds(10))
    for client in [*clients, deaf]:
        client.close()
    assert took < seconds(1)
    assert not echod.pidfile.exists() and not echod.control.exists()
    assert echod.processes() == []


# ---- The supervisor dies ------------------------------------------------------------------------

def kill_supervisor(echod: Echod) -> None:
    echod.signal(signal.SIGKILL)
    assert Process(echod.pid).await_end(seconds(5))


def test_killed_supervisor_leaves_room_for_the_next_one(talking: Echod) -> None:
    """Lock and port are free at once; open conversations go on beside the new daemon."""
    old = talking.workers()
    clients = [talking.connect() for _ in range(20)]
    for client in clients:
        say(client)
    killed = talking.pid
    kill_supervisor(talking)
    begun = time.monotonic()
    talking.start()
    assert time.monotonic() - begun < seconds(2)
    assert talking.pid != killed and lock_holder(talking.pidfile) == talking.pid
    with Load() as load:
        load.conversations(talking.port, clients=10)
        load.await_all()
        for client in clients:
            say(client)
        load.assert_flows()
    assert any(worker.alive for worker in old)
    for client in clients:
        client.close()
    for worker in old:
        assert worker.await_end(seconds(5))
    talking.assert_serves()


def test_killed_supervisor_and_a_queue(echod: Echod) -> None:
    """What stands in the queue of an orphaned worker is still served."""
    echod.settings["services.line.workers"] = 1
    echod.start()
    [worker] = echod.workers()
    os.kill(worker.pid, signal.SIGSTOP)
    clients = [echod.connect() for _ in range(50)]
    for client in clients:
        client.sendall(b"orphaned\n")
    kill_supervisor(echod)
    os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert read_to_end(client) == b"orphaned\n"
    assert worker.await_end(seconds(5))
    echod.start()  # over the stale pidfile and control socket, so that both are tidied up
    echod.stop()


def test_orphaned_workers_stay_for_drain_timeout_at_most(echod: Echod) -> None:
    """Nobody leads them any more: they do not live for ever for one silent client."""
    echod.settings.update({"services.line.max_lines": 0, "drain_timeout": "1s"})
    echod.start()
    workers = echod.workers()
    with echod.connect() as client:
        say(client)
        begun = time.monotonic()
        kill_supervisor(echod)
        say(client)
        assert client.recv(1) == b""
        assert 0.9 <= time.monotonic() - begun < seconds(5)
    for worker in workers:
        assert worker.await_end(seconds(5))
    echod.start()
    echod.stop()


def test_killed_supervisor_during_a_restart(talking: Echod) -> None:
    """Both generations see the end of their channel, and the next start succeeds."""
    with talking.connect() as client:
        say(client)
        for _ in range(5):
            talking.signal(signal.SIGHUP)
            kill_supervisor(talking)
            say(client)
            talking.start()
            talking.assert_serves()


# ---- Without a worker ---------------------------------------------------------------------------

def test_polite_stop_serves_the_queue_of_a_worker_that_is_not_there(echod: Echod) -> None:
    """Its successor is still to come: it comes at once, and empties the queue before the end."""
    echod.settings["services.line.workers"] = 1
    echod.start()
    echod.expect_log("fatal signal")
    wear_out(echod)
    clients = [echod.connect() for _ in range(5)]
    for client in clients:
        client.sendall(b"waits\n")
    echod.signal(signal.SIGUSR1)
    for client in clients:
        assert read_exactly(client, 6) == b"waits\n"
        client.close()
    echod.await_end()


def test_reply_that_takes_longer_than_the_lingering_arrives_whole(echod: Echod) -> None:
    """A slow reader that also sends: closing after two seconds would cost it most of the reply."""
    echod.settings["services.line.max_line"] = "2M"
    echod.start()
    line = b"s" * 1500000 + b"\n"
    got = b""
    with small_client(echod.port, 4096) as client:
        sender = threading.Thread(target=client.sendall, args=(line,))
        sender.start()
        begun = time.monotonic()
        while len(got) < len(line):
            part = client.recv(min(40000, len(line) - len(got)))
            assert part, f"the end came after {len(got)} bytes"
            got += part
            if not sender.is_alive() and time.monotonic() - begun < 4:
                client.send(b"!")
                time.sleep(0.02)  # the pace of this client
    sender.join()
    assert got == line
