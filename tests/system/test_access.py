"""Who may come: rules of the daemon and of a service, times, load, what a refused client sees."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clients import Load, say
from echod import Echod, read_exactly, read_to_end, seconds
from procfs import wait_until
from test_addresses import inetd

NOT_ALLOWED = b"echod: refused: your address is not allowed\r\n"


def client_from(echod: Echod, source: str, port: int | None = None) -> socket.socket:
    host = "::1" if ":" in source else "127.0.0.1"
    return socket.create_connection((host, port or echod.port), timeout=seconds(10),
                                    source_address=(source, 0))


def outcome(echod: Echod, source: str = "127.0.0.1", port: int | None = None,
            says: bytes = b"") -> bytes | str:
    """What a client meets: what it is told up to a FIN, or "reset", which connect may see."""
    try:
        with client_from(echod, source, port) as client:
            if says:
                client.sendall(says)
            return read_to_end(client)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"


def is_served(echod: Echod, source: str, port: int | None = None) -> bool:
    with client_from(echod, source, port) as client:
        try:
            client.sendall(b"hello\n")
            got = read_exactly(client, 6)
        except (ConnectionResetError, BrokenPipeError):
            return False
        assert got in (b"hello\n", b"")
        return got != b""


def lines(echod: Echod, name: str = "line", **keys: object) -> str:
    """A service whose clients may be silent: nothing waits for their first byte."""
    return echod.service(name, **{"max_lines": 0, "workers": 2, "defer_accept": 0, **keys})


def refusals(echod: Echod) -> dict[str, int]:
    """Those that there were, by reason."""
    counters = echod.status()["counters"]
    return {name[len("refused_"):]: value for name, value in counters.items()
            if name.startswith("refused_") and value > 0}


def await_nobody(echod: Echod) -> None:
    wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(10), "all have gone")


# ---- Rules --------------------------------------------------------------------------------------

def test_rules_on_the_command_line(echod: Echod) -> None:
    echod.settings.update({"services.line.access": "deny 127.0.0.2,allow 127.0.0.0/29",
                           "services.line.defer_accept": 0})
    echod.start()
    assert is_served(echod, "127.0.0.1")
    assert is_served(echod, "127.0.0.7")
    assert not is_served(echod, "127.0.0.2")
    assert not is_served(echod, "127.0.0.8")
    echod.await_log(r"connection from 127\.0\.0\.2:\d+ refused: "
                    r"access: 'deny 127\.0\.0\.2' at command line$")
    echod.await_log(r"connection from 127\.0\.0\.8:\d+ refused: access: no rule allows it$")
    assert refusals(echod) == {"access": 2}


def line_of(path: Path, text: str) -> int:
    [number] = [n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    return number


def test_the_log_names_the_rule_and_its_place_in_the_file(echod: Echod) -> None:
    """Also in a file that is included."""
    more = echod.dir / "more.conf"
    more.write_text('\naccess = [\n  "deny 127.0.0.3",\n  "allow *" ];\n')
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow 127.0.0.0/8"]),
                    extra=f'@include "{more}"\n')
    echod.start()
    assert is_served(echod, "127.0.0.1")
    assert not is_served(echod, "127.0.0.2")
    assert not is_served(echod, "127.0.0.3")
    own = line_of(echod.config, "deny 127.0.0.2")
    echod.await_log(rf"refused: access: 'deny 127\.0\.0\.2' at {echod.config}:{own}$")
    echod.await_log(rf"refused: access: 'deny 127\.0\.0\.3' at {more}:3$")


def test_the_rules_of_all_services_and_its_own_must_allow(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(lines(echod, access=["allow 127.0.0.1", "allow 127.0.0.2"]),
                    lines(echod, "open", listen=[f"127.0.0.1:{other}"]),
                    access=["deny 127.0.0.2", "allow *"])
    echod.start()
    assert is_served(echod, "127.0.0.1")
    assert not is_served(echod, "127.0.0.2")
    assert not is_served(echod, "127.0.0.3")
    assert is_served(echod, "127.0.0.3", other)
    assert not is_served(echod, "127.0.0.2", other)
    assert refusals(echod) == {"access": 3}


def test_ipv6_and_ipv4_have_rules_of_their_own(echod: Echod) -> None:
    both = [f"127.0.0.1:{echod.port}", f"[::1]:{echod.port}"]
    echod.configure(lines(echod, listen=both, access=["deny ::/0", "allow *"]))
    echod.start()
    assert is_served(echod, "127.0.0.1")
    assert not is_served(echod, "::1")
    echod.await_log(r"connection from \[::1\]:\d+ refused: access: 'deny ::/0' at ")
    echod.configure(lines(echod, listen=both, access=["allow ::1"]))
    echod.restart()
    assert not is_served(echod, "127.0.0.1")
    assert is_served(echod, "::1")


def unix_says(path: Path, user: int | None = None) -> bytes:
    """What a client of a Unix socket hears, who may be another user with that user's group."""
    program = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
               "s.sendall(b'hello\\n'); s.shutdown(1); sys.stdout.buffer.write(s.recv(99))")
    ids = {} if user is None else {"user": user, "group": user, "extra_groups": [user + 1]}
    return subprocess.run([sys.executable, "-c", program, str(path)], check=True,
                          stdout=subprocess.PIPE, timeout=seconds(20), **ids).stdout


def test_users_of_a_unix_socket(echod: Echod) -> None:
    path = echod.dir / "line"

    def answer(*rules: str) -> bytes:
        echod.configure(lines(echod, listen=[f"unix:{path}"], access=list(rules),
                              on_refuse="message"))
        if echod.pid == 0:
            echod.start()
        else:
            echod.restart()
        return unix_says(path)
    assert answer("allow unix") == b"hello\n"
    assert answer("allow 0.0.0.0/0", "allow ::/0") == NOT_ALLOWED
    assert answer(f"allow uid:{os.getuid()}") == b"hello\n"
    assert answer(f"deny uid:{os.getuid()}") == NOT_ALLOWED
    assert answer(f"allow gid:{os.getgid()}") == b"hello\n"
    assert answer(f"allow uid:{os.getuid() + 1}") == NOT_ALLOWED
    echod.await_log(rf"connection from unix \(pid \d+, uid {os.getuid()}\) refused: access: ")


@pytest.mark.needs_root
def test_other_users_of_a_unix_socket(echod: Echod) -> None:
    path = echod.dir / "line"
    echod.configure(lines(echod, listen=[f"unix:{path}"], on_refuse="message", socket_mode="666",
                          access=["deny uid:4001", "allow gid:4003", "deny *"]))
    echod.start()
    assert unix_says(path, 4001) == NOT_ALLOWED
    assert unix_says(path, 4002) == b"hello\n"  # by its second group
    assert unix_says(path, 4003) == b"hello\n"
    assert unix_says(path, 4004) == NOT_ALLOWED
    echod.await_log(r"connection from unix \(pid \d+, uid 4001\) refused: access: 'deny uid:4001'")
    assert refusals(echod) == {"access": 2}


def test_new_rules_are_for_new_clients(echod: Echod) -> None:
    """Who is there stays; who is refused by the new rules was allowed by the old ones."""
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow *"]))
    echod.start()
    assert not is_served(echod, "127.0.0.2")
    with client_from(echod, "127.0.0.3") as inside:
        say(inside)
        echod.configure(lines(echod, access=["deny 127.0.0.3", "allow *"]))
        echod.restart()
        assert not is_served(echod, "127.0.0.3")
        assert is_served(echod, "127.0.0.2")
        say(inside)


def test_wrong_rules_leave_the_old_ones(echod: Echod) -> None:
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow *"]))
    echod.start()
    echod.configure(lines(echod, access=["dney 127.0.0.3", "allow *"]))
    done = echod.restart(expect=6)
    assert "did you mean 'deny'" in done.stdout + done.stderr
    assert not is_served(echod, "127.0.0.2")
    assert is_served(echod, "127.0.0.3")
    echod.expect_log("did you mean|restart")


# ---- Times and load -----------------------------------------------------------------------------

def window(hours_from_now: int) -> str:
    """Three hours that begin with the hour which is so many away."""
    begin = (time.localtime().tm_hour + hours_from_now) % 24
    return f"{begin:02d}:00-{(begin + 3) % 24:02d}:00"


def test_a_service_keeps_its_hours(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(lines(echod, access_times=[window(10)], on_refuse="message"),
                    lines(echod, "open", listen=[f"127.0.0.1:{other}"], access_times=[window(-1)]))
    echod.start()
    assert outcome(echod) == b"echod: refused: closed at this time\r\n"
    assert is_served(echod, "127.0.0.1", other)
    echod.await_log(r"refused: access_times: closed now$")
    assert refusals(echod) == {"times": 1}
    # Everything is closed when the daemon is.
    echod.configure(lines(echod), lines(echod, "open", listen=[f"127.0.0.1:{other}"],
                                        access_times=[window(-1)]), access_times=[window(10)])
    echod.restart()
    assert outcome(echod) == b""
    assert outcome(echod, port=other) == b""


def test_a_busy_machine_serves_nobody_more(echod: Echod) -> None:
    load = float(Path("/proc/loadavg").read_text().split()[0])
    echod.configure(lines(echod, max_load=100000))
    echod.start()
    assert is_served(echod, "127.0.0.1")
    if load < 0.1:
        return  # there is no load to be over
    with echod.connect() as inside:
        say(inside)
        echod.configure(lines(echod, on_refuse="message"), max_load=round(load / 2, 2))
        echod.restart()
        assert outcome(echod) == b"echod: refused: too busy, try again later\r\n"
        say(inside)
    assert refusals(echod) == {"load": 1}


# ---- What a refused client sees -----------------------------------------------------------------

@pytest.mark.parametrize("how, sees", [("close", b""), ("reset", "reset"),
                                       ("message", NOT_ALLOWED)])
def test_a_refused_client_sees_what_on_refuse_says(echod: Echod, how: str,
                                                   sees: bytes | str) -> None:
    """Also one whose first line was there before it was accepted."""
    early = echod.another_port()
    echod.configure(lines(echod, access=["deny *"], on_refuse=how),
                    lines(echod, "early", listen=[f"127.0.0.1:{early}"], access=["deny *"],
                          on_refuse=how, defer_accept=1))
    echod.start()
    assert outcome(echod) == sees
    for _ in range(20):
        assert outcome(echod, port=early, says=b"hello\n") == sees
    assert refusals(echod) == {"access": 21}


def test_a_message_survives_what_its_client_still_sends(echod: Echod) -> None:
    echod.configure(lines(echod, access=["deny *"], on_refuse="message"))
    echod.start()
    with echod.connect() as client:
        assert read_exactly(client, 5) == b"echod"
        for _ in range(10):
            client.sendall(b"x" * 50000)
        assert read_to_end(client) == NOT_ALLOWED[5:]
    await_nobody(echod)


def test_status_tells_refusals_and_their_reasons(echod: Echod) -> None:
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow *"], max_connections=1,
                          proxy_protocol="off"))
    echod.start()
    assert "refused" not in echod.run("status", expect=0).stdout.split("restarts")[0]
    with echod.connect() as inside:
        say(inside)
        for _ in range(3):
            assert not is_served(echod, "127.0.0.2")
        for _ in range(2):
            assert not is_served(echod, "127.0.0.3")
    assert re.search(r"^ +refused +5 \(access 3, connections 2\)$",
                     echod.run("status", expect=0).stdout, re.MULTILINE)
    assert refusals(echod) == {"access": 3, "connections": 2}
    # They are sums over restarts.
    echod.restart()
    assert refusals(echod) == {"access": 3, "connections": 2}


# ---- Many refused clients -----------------------------------------------------------------------

@pytest.mark.parametrize("how", ["close", "reset", "message"])
def test_refusals_leave_nothing_behind(echod: Echod, how: str) -> None:
    """No descriptor, no connection; and the ends balance the beginnings."""
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow *"], on_refuse=how, workers=1,
                          max_connections_per_source=1))
    echod.start()
    [worker] = echod.workers()
    assert is_served(echod, "127.0.0.1")
    await_nobody(echod)
    before = worker.fds
    for number in range(300):
        outcome(echod, "127.0.0.2", says=b"hello\n" * (number % 2))
    await_nobody(echod)
    assert worker.fds == before
    wait_until(lambda: refusals(echod) == {"access": 300}, seconds(10), "all were refused")
    counters = echod.status()["counters"]
    assert counters["accepted"] == counters["closed"] == 301
    assert is_served(echod, "127.0.0.1")


class Flood:
    """Clients of an address that come and go as fast as they can, until the end of the block."""

    def __init__(self, echod: Echod, source: str, threads: int = 4) -> None:
        self.comings = 0
        self._echod = echod
        self._source = source
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._come) for _ in range(threads)]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.comings > 100, seconds(20), "the flood comes")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _come(self) -> None:
        while not self._ending.is_set():
            try:
                with client_from(self._echod, self._source) as client:
                    client.recv(100)
            except ConnectionResetError:
                pass
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                time.sleep(0.01)  # all of its ports are in use
            self.comings += 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "message"])
def test_a_flood_of_refused_clients_does_not_stop_the_others(echod: Echod, how: str) -> None:
    """Their lines are answered within the load's patience, and no connection of theirs fails."""
    echod.configure(lines(echod, access=["deny 127.0.0.2", "allow *"], on_refuse=how))
    echod.start()
    with Flood(echod, "127.0.0.2") as flood, Load() as load:
        load.conversations(echod.port, 10)
        load.await_all()
        begun = flood.comings
        load.assert_flows(2000)
        # It was one all the while.
        wait_until(lambda: flood.comings > begun + 500, seconds(30), "the flood goes on")
        load.assert_flows(100)
    wait_until(lambda: refusals(echod) == {"access": flood.comings}, seconds(10))
    await_nobody(echod)


# ---- Started by inetd ---------------------------------------------------------------------------

def test_a_client_that_inetd_brings_and_the_rules_refuse_is_no_fault(echod: Echod) -> None:
    """It is refused as any other, and inetd sees exit status 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), seconds(10)) as client:
            server, _ = listener.accept()
            with server:
                process = inetd(echod, server, "-o", "services.line.access=deny 127.0.0.1")
            assert read_to_end(client) == b""
            assert process.wait(seconds(10)) == 0
    assert "refused: access: 'deny 127.0.0.1' at command line" in echod.log_text()
