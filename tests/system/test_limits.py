"""
How much clients may take: connections, how often they come, lines, bytes, and how long they stay.

What a rate allows is a second's worth at once and then so much a second. A time that must have
passed is exact; one that must not be exceeded leaves room for a machine with other things to do.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from typing import Callable

import pytest

from clients import say
from echod import Echod, read_exactly, read_to_end, seconds
from procfs import wait_until
from test_access import client_from, lines, outcome, refusals
from test_tables import Crowd, let_in_in_the_end


def await_nobody(echod: Echod) -> None:
    wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(10), "all have gone")


def counter(echod: Echod, name: str) -> int:
    return echod.status()["counters"][name]


class Guests:
    """Clients from any address; those that are let in stay to the end of the block."""

    def __init__(self, echod: Echod, port: int | None = None) -> None:
        self._echod = echod
        self._port = port
        self._lock = threading.Lock()
        self._inside: list[socket.socket] = []

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def __len__(self) -> int:
        return len(self._inside)

    def leave(self) -> None:
        for client in self._inside:
            client.close()
        self._inside.clear()

    def come(self, source: str = "127.0.0.1") -> bool:
        """One more; is he let in?"""
        client = client_from(self._echod, source, self._port)
        try:
            client.sendall(b"x\n")
            served = read_exactly(client, 2) == b"x\n"  # not the message of a refusal
        except (ConnectionResetError, BrokenPipeError):
            served = False
        if not served:
            client.close()
            return False
        with self._lock:
            self._inside.append(client)
        return True

    def rush(self, threads: int, each: int, source: str = "127.0.0.1") -> int:
        """So many at once; how many are let in?"""
        barrier = threading.Barrier(threads)
        let_in: list[bool] = []

        def come() -> None:
            barrier.wait()
            for _ in range(each):
                let_in.append(self.come(source))
        running = [threading.Thread(target=come) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert len(let_in) == threads * each, "a client has failed"
        return sum(let_in)


# ---- Connections at a time ----------------------------------------------------------------------

def test_of_many_at_once_exactly_max_connections_are_let_in(echod: Echod) -> None:
    """Over four workers that know nothing of one another."""
    echod.configure(lines(echod, workers=4, max_connections=70))
    echod.start()
    with Guests(echod) as guests:
        for _ in range(3):
            refused = refusals(echod).get("connections", 0)
            assert guests.rush(threads=8, each=25) == 70
            assert refusals(echod) == {"connections": refused + 130}
            assert echod.status()["connections"]["now"] == 70
            guests.leave()
            await_nobody(echod)


def test_a_global_limit_is_one_for_all_services(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(lines(echod), lines(echod, "b", listen=[f"127.0.0.1:{other}"],
                                        on_refuse="message"), max_connections=30)
    echod.start()
    with Guests(echod) as first, Guests(echod, other) as second:
        counts: list[int] = []
        threads = [threading.Thread(target=lambda g=g: counts.append(g.rush(4, 10)))
                   for g in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(counts) == len(first) + len(second) == 30
        assert outcome(echod, port=other) == b"echod: refused: too many connections\r\n"
    echod.await_log(r"refused: max_connections of all services$")


def test_each_source_has_its_own_connections(echod: Echod) -> None:
    echod.configure(lines(echod, workers=4, max_connections_per_source=5, on_refuse="message"))
    echod.start()
    with Guests(echod) as guests:
        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            assert guests.rush(4, 5, source) == 5
            assert outcome(echod, source) == (b"echod: refused: too many connections from your "
                                              b"address\r\n")
        assert guests.come("127.0.0.5")
    assert refusals(echod) == {"source": 48}
    echod.await_log(r"connection from 127\.0\.0\.3:\d+ refused: max_connections_per_source$")


def test_each_network_has_its_own_connections(echod: Echod) -> None:
    echod.configure(lines(echod, workers=4, max_connections_per_prefix=6, on_refuse="message"))
    echod.start()
    with Guests(echod) as guests:
        let_in = sum(guests.come(f"127.0.1.{n}") for n in range(1, 21))
        assert let_in == 6
        assert outcome(echod, "127.0.1.77") == (b"echod: refused: too many connections from your "
                                                b"network\r\n")
        assert sum(guests.come(f"127.0.0.{n}") for n in range(1, 21)) == 6
    echod.await_log(r"refused: max_connections_per_prefix$")
    assert refusals(echod) == {"prefix": 29}


def test_the_stricter_of_both_scopes_holds(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(lines(echod, max_connections_per_source=2),
                    lines(echod, "b", listen=[f"127.0.0.1:{other}"],
                          max_connections_per_source=9), max_connections_per_source=5)
    echod.start()
    with Guests(echod) as first, Guests(echod, other) as second:
        assert sum(first.come("127.0.0.2") for _ in range(10)) == 2
        assert sum(second.come("127.0.0.2") for _ in range(10)) == 3
        assert sum(second.come("127.0.0.3") for _ in range(10)) == 5
    echod.await_log(r"line/\d\[\d+\]: connection .* refused: max_connections_per_source$")
    echod.await_log(r"b/\d\[\d+\]: connection .* refused: max_connections_per_source "
                    r"of all services$")


def test_who_lingers_after_a_refusal_counts_nowhere(echod: Echod) -> None:
    echod.configure(lines(echod, max_connections=1, on_refuse="message"))
    echod.start()
    with Guests(echod) as guests:
        assert guests.come()
        with echod.connect() as refused:
            assert read_exactly(refused, 5) == b"echod"
            guests.leave()
            wait_until(guests.come, seconds(10), "there is room again")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_count_is_exact_after_any_deaths_and_restarts(echod: Echod) -> None:
    """Clients come and go by hundreds while workers are killed; then as many are let in as ever."""
    echod.configure(lines(echod, workers=4, max_connections=40, max_connections_per_source=30))
    echod.start()
    ending = threading.Event()

    def come_and_go(source: str) -> None:
        while not ending.is_set():
            try:
                with client_from(echod, source) as client:
                    client.sendall(b"x\n")
                    client.recv(2)
            except OSError:
                pass  # its worker was killed
    threads = [threading.Thread(target=come_and_go, args=(f"127.0.0.{2 + n % 3}",))
               for n in range(6)]
    for thread in threads:
        thread.start()
    for round_ in range(6):
        before = counter(echod, "accepted")
        wait_until(lambda: counter(echod, "accepted") > before + 50, seconds(10), "clients come")
        if round_ % 3 == 2:
            echod.restart()
        else:
            worker = echod.workers()[0]
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.await_end(seconds(5))
        wait_until(lambda: len(echod.workers()) == 4, seconds(10), "all four run")
    ending.set()
    for thread in threads:
        thread.join()
    echod.expect_log("signal SIGKILL")
    with Crowd(echod) as crowd:
        let_in_in_the_end(crowd, 30)
        assert crowd.enter(50) == 0
        with Guests(echod) as guests:
            assert guests.rush(8, 5, "127.0.0.77") == 10
            assert not guests.come("127.0.0.78")


# ---- How often they come ------------------------------------------------------------------------

def test_over_the_rate_the_excess_is_refused_and_the_service_goes_on(echod: Echod) -> None:
    """What xinetd's cps would switch off for a while refuses as long as it must, and no more."""
    echod.configure(lines(echod, workers=4, max_connection_rate=20, on_refuse="message"))
    echod.start()
    begun = time.monotonic()
    with Guests(echod) as guests:
        let_in = guests.rush(8, 25)
        took = time.monotonic() - begun
        assert 20 <= let_in <= 20 + 20 * took + 1
        # In the next second, so many again; whoever asks a tenth too often loses a tenth.
        begun = time.monotonic()
        while time.monotonic() < begun + 2:
            let_in += guests.come()
        took += time.monotonic() - begun
        assert 20 + 20 <= let_in <= 20 + 20 * took + 1
    assert echod.service_status()["state"] == "running"
    echod.await_log(r"refused: max_connection_rate$")
    assert set(refusals(echod)) == {"rate"}


def test_each_source_has_its_own_rate(echod: Echod) -> None:
    echod.configure(lines(echod, max_connection_rate_per_source=5, max_connection_rate=1000,
                          on_refuse="message"))
    echod.start()
    with Guests(echod) as guests:
        begun = time.monotonic()
        let_in = guests.rush(4, 10, "127.0.0.2")
        assert 5 <= let_in <= 5 + 5 * (time.monotonic() - begun) + 1
        assert guests.come("127.0.0.3")
        wait_until(lambda: guests.come("127.0.0.2"), seconds(10), "its bucket fills again")
    echod.await_log(r"connection from 127\.0\.0\.2:\d+ refused: max_connection_rate_per_source$")
    assert set(refusals(echod)) == {"source_rate"}


def test_whom_one_service_refuses_takes_nothing_of_the_rate_of_all(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(lines(echod, max_connections=1),
                    lines(echod, "b", listen=[f"127.0.0.1:{other}"]), max_connection_rate=3)
    echod.start()
    with Guests(echod) as first, Guests(echod, other) as second:
        assert first.come()
        for _ in range(100):
            assert not first.come()
        assert second.come()
        assert second.come()
    assert refusals(echod) == {"connections": 100}


# ---- Lines and bytes ----------------------------------------------------------------------------

def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def exchange(echod: Echod, data: bytes, source: str = "127.0.0.1") -> None:
    """All at once, with the end of file behind it; all comes back."""
    with client_from(echod, source) as client:
        sender = threading.Thread(target=lambda: (client.sendall(data),
                                                  client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_to_end(client) == data
        sender.join()


def both(echod: Echod, data: bytes, source: str = "127.0.0.1") -> None:
    """Two connections at the same time."""
    threads = [threading.Thread(target=exchange, args=(echod, data, source)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


MAY_TAKE = 20  # seconds that something of 2 s takes at most, where much else runs


def test_pipelined_lines_are_answered_at_the_rate(echod: Echod) -> None:
    echod.configure(lines(echod, max_request_rate=50))
    echod.start()
    data = b"".join(b"line %d\n" % n for n in range(150))
    assert 1.9 < timed(lambda: exchange(echod, data)) < seconds(MAY_TAKE)
    # Each connection has its own.
    assert timed(lambda: both(echod, data[:300])) < seconds(MAY_TAKE)
    assert counter(echod, "throttled") > 0
    assert "throttled" in echod.run("status", expect=0).stdout
    assert refusals(echod) == {}


def test_the_connections_of_a_source_share_its_rate_of_lines(echod: Echod) -> None:
    echod.configure(lines(echod, workers=4), max_request_rate_per_source=50)
    echod.start()
    data = b"".join(b"line %d\n" % n for n in range(75))
    assert 1.9 < timed(lambda: both(echod, data, "127.0.0.2")) < seconds(MAY_TAKE)
    with client_from(echod, "127.0.0.3") as client:
        say(client)


@pytest.mark.parametrize("key", ["max_byte_rate", "max_byte_rate_per_source"])
def test_bytes_go_back_at_the_rate(echod: Echod, key: str) -> None:
    echod.configure(lines(echod, protocol="echo", **{key: "256k"}))
    echod.start()
    assert 1.9 < timed(lambda: exchange(echod, os.urandom(3 * 256 * 1024))) < seconds(MAY_TAKE)


def test_the_connections_of_a_source_share_its_rate_of_bytes(echod: Echod) -> None:
    """Over workers and services; the stricter scope holds."""
    echod.configure(lines(echod, protocol="echo", workers=4, max_byte_rate="10M"),
                    max_byte_rate_per_source="200k")
    echod.start()
    data = os.urandom(300 * 1024)
    assert 1.9 < timed(lambda: both(echod, data, "127.0.0.2")) < seconds(MAY_TAKE)


def test_a_stream_keeps_to_its_rate(echod: Echod) -> None:
    echod.configure(lines(echod, protocol="chargen", max_byte_rate="100k"))
    echod.start()
    with echod.connect() as client:
        size = 300 * 1024
        assert 1.9 < timed(lambda: read_exactly(client, size)) < seconds(MAY_TAKE)


def test_a_polite_stop_answers_what_a_rate_keeps_waiting(echod: Echod) -> None:
    echod.configure(lines(echod, max_request_rate=20))
    echod.start()
    data = b"".join(b"line %d\n" % n for n in range(50))
    with echod.connect() as client:
        client.sendall(data)
        wait_until(lambda: counter(echod, "requests") >= 20, seconds(10), "the first ones came")
        echod.stop()
        assert read_to_end(client) == data


def test_a_stop_ends_a_stream(echod: Echod) -> None:
    """Also one that its rate keeps waiting; and the stop does not take until drain_timeout."""
    other = echod.another_port()
    echod.configure(lines(echod, protocol="chargen"),
                    lines(echod, "slow", protocol="chargen", max_byte_rate=100,
                          listen=[f"127.0.0.1:{other}"]), drain_timeout=60)
    echod.start()
    with echod.connect() as fast, echod.connect(port=other) as slow:
        read_exactly(fast, 10000)
        read_exactly(slow, 50)
        reader = threading.Thread(target=read_to_end, args=(fast,))
        reader.start()
        assert timed(echod.stop) < seconds(20)
        reader.join()
        read_to_end(slow)


# ---- How long they stay -------------------------------------------------------------------------

def assert_ends_after(client: socket.socket, at_least: float) -> None:
    """A FIN, and no reset; the clock of time-outs ticks up to 10 ms late, and early."""
    took = timed(lambda: read_to_end(client))
    assert at_least - 0.05 < took < seconds(MAY_TAKE)


@pytest.mark.parametrize("own, all_", [(0.5, 0), (0, 0.5), (0.5, 30), (30, 0.5)])
def test_the_stricter_first_byte_timeout_ends_the_silent(echod: Echod, own: float,
                                                         all_: float) -> None:
    echod.configure(lines(echod, first_byte_timeout=f"{int(own * 1000)}ms"),
                    first_byte_timeout=f"{int(all_ * 1000)}ms")
    echod.start()
    with echod.connect() as talker, echod.connect() as silent:
        talker.sendall(b"h")
        assert_ends_after(silent, 0.5)
        talker.sendall(b"ello\n")
        assert read_exactly(talker, 6) == b"hello\n"
    assert counter(echod, "first_byte_timeouts") == 1


@pytest.mark.parametrize("own, all_", [(0, 0.5), (0.5, 30), (30, 0.5)])
def test_the_stricter_idle_timeout_ends_the_idle(echod: Echod, own: float, all_: float) -> None:
    echod.configure(lines(echod, idle_timeout=f"{int(own * 1000)}ms"),
                    idle_timeout=f"{int(all_ * 1000)}ms")
    echod.start()
    with echod.connect() as client:
        say(client)
        assert_ends_after(client, 0.5)
    assert counter(echod, "idle_timeouts") == 1


@pytest.mark.parametrize("own, all_", [(1, 0), (0, 1), (30, 1)])
def test_lifetime_ends_a_busy_connection_between_two_lines(echod: Echod, own: int,
                                                           all_: int) -> None:
    echod.configure(lines(echod, lifetime=own), lifetime=all_)
    echod.start()
    begun = time.monotonic()
    with echod.connect() as client:
        client.sendall(b"hello\n")
        while got := read_exactly(client, 6):
            assert got == b"hello\n"
            client.sendall(b"hello\n")
    assert 0.9 < time.monotonic() - begun < seconds(MAY_TAKE)
    wait_until(lambda: counter(echod, "lifetimes") == 1, seconds(10))


def test_lifetime_ends_a_stream(echod: Echod) -> None:
    echod.configure(lines(echod, protocol="chargen", lifetime=1))
    echod.start()
    with echod.connect() as client:
        assert_ends_after(client, 1)


# ---- Descriptors --------------------------------------------------------------------------------

def start_with_descriptors(echod: Echod, files: int) -> str:
    """Start with that limit of open files, soft and hard; what the terminal was told."""
    done = echod.run_command(["prlimit", f"--nofile={files}:{files}", *echod.command("start")],
                             expect=0)
    echod.adopt()
    return done.stderr


@pytest.mark.parametrize("own, all_", [(1000, 0), (0, 1000), (5000, 1000), (1000, 5000)],
                         ids=["of the service", "of all", "of all, stricter", "own, stricter"])
def test_connections_beyond_the_descriptors_are_said(echod: Echod, own: int, all_: int) -> None:
    """At the start on the terminal and in the log, and at each restart, with the way out."""
    echod.configure(lines(echod, workers=2, max_connections=own), max_connections=all_)
    said = start_with_descriptors(echod, 300)
    # Each holds 2 sockets, and 32 more may be for itself; one in 17 is for uneven shares.
    sentence = (r"service line: max_connections is 1000, and 2 workers with 300 open files each "
                r"hold about 500: raise the limit of open files, or set workers = 5")
    assert re.search(sentence, said)
    echod.await_log(f"warning: {sentence}")
    echod.restart()
    echod.await_log(f"warning: {sentence}", count=2)
    with Guests(echod) as guests:
        assert guests.rush(4, 100) == 400  # what was said to fit does


@pytest.mark.parametrize("most", [0, 500])
def test_connections_within_the_descriptors_need_no_word(echod: Echod, most: int) -> None:
    echod.configure(lines(echod, workers=2, max_connections=most))
    assert start_with_descriptors(echod, 300) == ""
    assert "open files" not in echod.log_text()


def test_connections_that_no_number_of_workers_can_hold_are_said(echod: Echod) -> None:
    """Each worker has the sockets of all, so that more workers hold less in the end."""
    echod.configure(lines(echod, workers=1, max_connections=1000000))
    said = start_with_descriptors(echod, 300)
    assert "1 worker with 300 open files holds about 267: raise the limit of open files\n" in said


# ---- Settings that are wrong --------------------------------------------------------------------

@pytest.mark.parametrize("key, value, words", [
    ("max_connections", -1, "max_connections must be between 0 and"),
    ("max_connections", "many", "max_connections"),
    ("max_connections_per_sorce", 1, "did you mean 'max_connections_per_source'"),
    ("max_byte_rate", "fast", "max_byte_rate"),
    ("max_byte_rate", "10X", "max_byte_rate"),
    ("max_request_rate", 1.5, "max_request_rate"),
    ("first_byte_timeout", "soon", "first_byte_timeout"),
    ("lifetime", -1, "lifetime"),
    ("max_load", "a lot", "max_load"),
    ("max_load", -0.5, "max_load"),
])
def test_wrong_limits_are_told_with_their_place(echod: Echod, key: str, value: object,
                                                words: str) -> None:
    """Of all services and of one, and nothing starts."""
    echod.configure(lines(echod, **{key: value}), **{key: value})
    done = echod.run("check", expect=6)
    complaints = [line for line in done.stderr.splitlines() if words in line]
    assert len(complaints) == 2, done.stderr
    assert all(f"{echod.config}:" in line for line in complaints)
    echod.run("start", expect=6)


@pytest.mark.parametrize("key, value, words", [
    ("on_refuse", "drop", "on_refuse"),
    ("on_refuse", "messages", "did you mean 'message'"),
    ("proxy_protocol", "required", "needs proxy_from"),
])
def test_wrong_choices_of_a_service_are_told(echod: Echod, key: str, value: object,
                                             words: str) -> None:
    echod.configure(lines(echod, **{key: value}))
    done = echod.run("check", expect=6)
    assert words in done.stderr
    assert f"{echod.config}:" in done.stderr
