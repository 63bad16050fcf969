"""
Who is answered over UDP and Unix datagrams: source ports, rates, access, PROXY headers, and what is
counted and told of those who are not.

Silence is shown by the answer to a later datagram, as in test_datagrams.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from echod import Echod, seconds
from networks import forge, ip
from procfs import Process, wait_until
from test_addresses import needs_ipv6
from test_datagrams import (BUFFER, HOST, PATIENCE, ask, assert_nothing_came, await_counter, counters,
                            echo_service, halted, has_come, network, restart_by_hangup, serve,
                            udp, unix)
from test_proxy import v2

__all__ = ["network"]  # a fixture


# ---- Source ports -------------------------------------------------------------------------------

NEVER = [1, 7, 9, 13, 17, 19, 37, 53, 69, 123, 161, 389, 520, 1023, 1900, 2049, 5353, 11211, 30333]
BESIDE = [1024, 1899, 1901, 2048, 5352, 5354, 11210, 30332, 30334, 32767, 65535]


class Ports:
    """Clients that ask from a port each; which are answered?"""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.denied = counters(echod)["datagrams_port"]

    def assert_answered(self, *ports: int, at: int = 0) -> None:
        for port in ports:
            with udp(at or self.echod.port, source=(HOST, port)) as client:
                assert ask(client, b"%d" % port) == b"%d" % port

    def assert_silent(self, *ports: int, at: int = 0) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(udp(at or self.echod.port, source=(HOST, port)))
                       for port in ports]
            for client in clients:
                client.send(b"hello?")
            self.denied += len(ports)
            await_counter(self.echod, "datagrams_port", self.denied)
            with udp(at or self.echod.port) as client:
                assert ask(client) == b"hello"
            for client in clients:
                assert_nothing_came(client)


@pytest.mark.needs_root
def test_servers_ports_are_not_answered(echod: Echod, network: None) -> None:
    """Those that deny_source_ports names without being asked, and port 0, which nobody can have."""
    serve(echod)
    ports = Ports(echod)
    ports.assert_silent(*NEVER)
    ports.assert_answered(*BESIDE)
    forge((HOST, 0), (HOST, echod.port))
    await_counter(echod, "datagrams_port", len(NEVER) + 1)
    await_counter(echod, "datagrams", len(NEVER) + 1 + 1 + len(BESIDE))
    assert counters(echod)["datagrams_unsent"] == 0


@pytest.mark.needs_root
def test_only_port_0_when_the_list_is_empty(echod: Echod, network: None) -> None:
    serve(echod, deny_source_ports=[])
    Ports(echod).assert_answered(*NEVER, *BESIDE)
    forge((HOST, 0), (HOST, echod.port))
    await_counter(echod, "datagrams_port", 1)


def test_denied_ports_change_with_a_restart(echod: Echod) -> None:
    one, first, last = (echod.another_port() for _ in range(3))
    first, last = sorted((first, last))
    between = (first + last) // 2

    def configure(text: str) -> None:
        echod.configure(echo_service(echod)[:-1] + f"deny_source_ports = {text}; }}")

    configure(f'( {one}, "{first}-{last}" )')
    echod.start()
    ports = Ports(echod)
    ports.assert_silent(*{one, first, last})
    configure(f"[ {between} ]")
    restart_by_hangup(echod)
    ports.assert_answered(*{one, first, last} - {between})
    configure("( )")
    restart_by_hangup(echod)
    ports.assert_answered(one, first, last)


@pytest.mark.needs_root
def test_own_ports_are_not_answered(echod: Echod, network: None) -> None:
    """Of this service, of another, of one on a port that the kernel chose, of one not started."""
    other, stream, stopped = (echod.another_port() for _ in range(3))
    echod.configure(
        echo_service(echod, deny_source_ports=[]),
        echo_service(echod, "other", listen=[f"udp:127.0.0.2:{other}"]),
        echo_service(echod, "any", listen=[f"udp:{HOST}:0"]),
        echo_service(echod, "stopped", listen=[f"udp:{HOST}:{stopped}"]),
        echod.service("stream", listen=[f"tcp:{HOST}:{stream}"]))
    echod.start()
    echod.tell("stop", "stopped")
    [address] = echod.service_status("any")["addresses"]
    chosen = int(address.rpartition(":")[2])
    denied = 0
    for at in (echod.port, chosen):
        for port in (echod.port, other, chosen, stopped):
            forge((HOST, port), (HOST, at))
            denied += 1
        forge(("127.0.0.3", other), (HOST, at))  # whoever has it there
        denied += 1
    await_counter(echod, "datagrams_port", denied)
    await_counter(echod, "datagrams", denied)
    Ports(echod).assert_answered(stream)


def test_own_ports_change_with_a_restart(echod: Echod) -> None:
    """A worker of a service that stays knows the ports of services that come and go."""
    port = echod.another_port()
    serve(echod)
    ports = Ports(echod)
    ports.assert_answered(port)
    echod.configure(echo_service(echod),
                    echo_service(echod, "other", listen=[f"udp:127.0.0.2:{port}"]))
    restart_by_hangup(echod)
    ports.assert_silent(port)
    echod.configure(echo_service(echod))
    restart_by_hangup(echod)
    ports.assert_answered(port)


# ---- Rates --------------------------------------------------------------------------------------

class Burst:
    """Datagrams that the workers find waiting; how many are answered, and within which time?"""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.clients: list[socket.socket] = []

    def __enter__(self) -> "Burst":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()

    def send(self, *clients: socket.socket, each: int) -> float:
        """Returns after how many seconds all of them were judged."""
        self.clients += clients
        judged = counters(self.echod)["datagrams"] + len(clients) * each
        with halted(*self.echod.workers()):
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                for number in range(each):
                    client.send(b"%d" % number)
            begun = time.monotonic()
        await_counter(self.echod, "datagrams", judged)
        wait_until(lambda: self._settled(judged), seconds(PATIENCE), "each has its fate")
        return time.monotonic() - begun

    def _settled(self, judged: int) -> bool:
        now = counters(self.echod)
        return now["datagram_replies"] + now["datagrams_rate"] == judged

    @staticmethod
    def answered(*clients: socket.socket) -> int:
        """What has come to them since."""
        count = 0
        for client in clients:
            while has_come(client):
                client.recv(1000)
                count += 1
        return count


def assert_limit(answered: int, rate: int, elapsed: float) -> None:
    """As many at once as in a second, and what was added meanwhile."""
    assert rate <= answered <= rate + rate * elapsed + 1, (answered, elapsed)


@pytest.mark.parametrize("scope", ["service", "daemon"])
def test_max_datagram_rate_holds_over_all_workers(echod: Echod, scope: str) -> None:
    """A /24 counts as one, whichever of its addresses and ports ask; another one for itself."""
    keys = {"max_datagram_rate": 100} if scope == "service" else {}
    settings = {"max_datagram_rate": 100} if scope == "daemon" else {}
    echod.configure(echo_service(echod, workers=4, receive_buffer=BUFFER, **keys), **settings)
    echod.start()

    def network_of(prefix: str) -> list[socket.socket]:
        return [udp(echod.port, source=(f"{prefix}.{number + 1}", 0)) for number in range(20)]

    with Burst(echod) as burst:
        total, begun = 0, time.monotonic()
        for prefix in ("127.0.0", "127.0.1"):
            clients = network_of(prefix)
            elapsed = burst.send(*clients, each=20)
            answered = burst.answered(*clients)
            assert_limit(answered, 100, elapsed)
            total += answered
        # Five times as many as there may be: none of what is allowed gets lost.
        one = clients[0]
        settled = time.monotonic()
        sent = 0
        while time.monotonic() < settled + 1.5:
            one.send(b"x")
            sent += 1
            time.sleep(0.002)
        last = time.monotonic()
        await_counter(echod, "datagrams", 800 + sent)
        wait_until(lambda: burst._settled(800 + sent), seconds(PATIENCE), "each has its fate")
        answered += burst.answered(*clients)
        now = counters(echod)
        assert 100 + 100 * (last - settled) - 10 <= answered
        assert answered <= 100 + 100 * (time.monotonic() - begun) + 1
        assert now["datagrams_rate"] == 800 + sent - now["datagram_replies"]


@pytest.mark.needs_root
@needs_ipv6
def test_max_datagram_rate_counts_a_64_as_one(echod: Echod, network: None) -> None:
    for address in ("fd77::1", "fd77::2", "fd77:0:0:1::1"):
        ip("addr", "add", f"{address}/128", "dev", "lo", "nodad")
    serve(echod, f"udp:[::]:{echod.port}", v6only=False, max_datagram_rate=50)
    with Burst(echod) as burst:
        for networks in (("fd77::1", "fd77::2"), ("fd77:0:0:1::1",)):
            clients = [udp(echod.port, "::1", source=(host, 0)) for host in networks]
            elapsed = burst.send(*clients, each=80)
            assert_limit(burst.answered(*clients), 50, elapsed)
        # IPv4 through the IPv6 socket: a /24, and not all of them the one ::ffff:0:0/64.
        for network_of_four in ("127.0.0.1", "127.0.0.9"), ("127.0.1.1",):
            clients = [udp(echod.port, source=(host, 0)) for host in network_of_four]
            elapsed = burst.send(*clients, each=80)
            assert_limit(burst.answered(*clients), 50, elapsed)


def test_max_datagram_rate_of_service_and_daemon(echod: Echod) -> None:
    """Both hold; what the service's refuses uses nothing of the daemon's."""
    other = echod.another_port()
    echod.configure(
        echo_service(echod, max_datagram_rate=20),
        echo_service(echod, "other", listen=[f"udp:{HOST}:{other}"], max_datagram_rate=20),
        max_datagram_rate=30)
    echod.start()
    with Burst(echod) as burst:
        begun = time.monotonic()
        first, second = udp(echod.port), udp(other)
        elapsed = burst.send(first, each=100)
        one = burst.answered(first)
        assert_limit(one, 20, elapsed)
        burst.send(second, each=100)
        both = one + burst.answered(second)
        assert 30 <= both <= 30 + 30 * (time.monotonic() - begun) + 1


def test_max_datagram_rate_of_a_user_of_unix_sockets(echod: Echod) -> None:
    """All clients of one user together."""
    path = echod.dir / "datagram"
    serve(echod, f"unixgram:{path}", max_datagram_rate=20)
    begun, answered = time.monotonic(), 0
    with unix(path) as one, unix(path) as two:
        for number in range(50):
            for client in (one, two):
                client.send(b"%d" % number)
            wait_until(lambda n=number: Burst(echod)._settled(2 * n + 2), seconds(PATIENCE))
            answered += Burst.answered(one, two)
    assert_limit(answered, 20, time.monotonic() - begun)


# ---- Access -------------------------------------------------------------------------------------

class Silence:
    """Clients that are not answered, shown by one who is."""

    def __init__(self, echod: Echod, counter: str, allowed: socket.socket) -> None:
        self.echod = echod
        self.counter = counter
        self.allowed = allowed
        self.count = 0

    def assert_for(self, client: socket.socket, data: bytes = b"hello?", times: int = 1) -> None:
        for _ in range(times):
            client.send(data)
        self.count += times
        await_counter(self.echod, self.counter, self.count)
        assert ask(self.allowed) == b"hello"
        assert_nothing_came(client)


@pytest.mark.parametrize("scope", ["service", "daemon"])
@pytest.mark.parametrize("how", ["v4", pytest.param("mapped", marks=needs_ipv6)])
def test_access_over_ipv4(echod: Echod, how: str, scope: str) -> None:
    """Also of IPv4 clients of an IPv6 socket; the log tells which rule, and who."""
    rules = {"access": ["deny 127.0.0.2", "allow 127.0.0.0/24"]}
    where = f"udp:{HOST}:{echod.port}" if how == "v4" else f"udp:[::]:{echod.port}"
    echod.configure(echo_service(echod, listen=[where], v6only=False,
                                 **(rules if scope == "service" else {})),
                    **(rules if scope == "daemon" else {}))
    echod.start()
    with udp(echod.port, source=("127.0.0.3", 0)) as allowed:
        silence = Silence(echod, "refused_access", allowed)
        with udp(echod.port, source=("127.0.0.2", 0)) as denied:
            silence.assert_for(denied, times=3)
            port = denied.getsockname()[1]
        with udp(echod.port, source=("127.0.1.1", 0)) as denied:
            silence.assert_for(denied)
    echod.await_log(rf"notice: echo/0\[\d+\]: 1 datagram refused: access: 'deny 127\.0\.0\.2' at "
                    rf"\S+; the last from \S*127\.0\.0\.2\]?:{port}")


@needs_ipv6
def test_access_over_ipv6(echod: Echod) -> None:
    """A rule about IPv6 means nobody of IPv4, and the other way round."""
    other = echod.another_port()
    echod.configure(
        echo_service(echod, listen=[f"udp:*:{echod.port}"], access=["deny ::1"]),
        echo_service(echod, "other", listen=[f"udp:*:{other}"], access=["allow ::/0"]))
    echod.start()
    with udp(echod.port) as allowed, udp(echod.port, "::1") as denied:
        silence = Silence(echod, "refused_access", allowed)
        silence.assert_for(denied)
    with udp(other, "::1") as allowed, udp(other) as denied:
        silence.allowed = allowed
        silence.assert_for(denied)


_UNIX_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("")
s.sendto(b"hello", sys.argv[1])
s.settimeout(float(sys.argv[2]))
try:
    print(s.recv(100).decode())
except socket.timeout:
    print("nothing")
"""


@pytest.mark.needs_root
def test_access_by_user_and_group(echod: Echod) -> None:
    """The kernel tells who sent a datagram: each for itself, whoever made the socket."""
    path = echod.dir / "datagram"
    serve(echod, f"unixgram:{path}", access=["deny gid:4242", "allow uid:65534", "allow gid:4343"])

    def credentials(uid: int, gid: int) -> list[tuple[int, int, bytes]]:
        return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=iII", os.getpid(), uid,
                                                                        gid))]
    with unix(path) as client:
        refused = 0
        for uid, gid, answered in ((0, 0, False), (65534, 65534, True), (65534, 4242, False),
                                   (0, 4343, True), (1, 1, False)):
            client.sendmsg([b"%d %d" % (uid, gid)], credentials(uid, gid))
            refused += not answered
            if answered:
                assert client.recv(100) == b"%d %d" % (uid, gid)
        await_counter(echod, "refused_access", refused)
    done = subprocess.run([sys.executable, "-c", _UNIX_CLIENT, path, str(seconds(PATIENCE))],
                          user=65534, group=65534, extra_groups=[], capture_output=True,
                          text=True, timeout=seconds(2 * PATIENCE))
    assert done.stdout == "hello\n", done.stderr


def test_access_of_all_unix_clients(echod: Echod) -> None:
    path = echod.dir / "datagram"
    serve(echod, f"unixgram:{path}", f"udp:{HOST}:{echod.port}", access=["allow unix"])
    with unix(path) as allowed, udp(echod.port) as denied:
        Silence(echod, "refused_access", allowed).assert_for(denied)


def test_access_times(echod: Echod) -> None:
    """Closed on all days but one that is neither today nor near."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    today = time.localtime().tm_wday
    another = echod.another_port()
    echod.configure(
        echo_service(echod, access_times=[f"{days[(today + 3) % 7]} 00:00-24:00"]),
        echo_service(echod, "open", listen=[f"udp:{HOST}:{another}"],
                     access_times=[f"{days[today]},{days[(today + 1) % 7]} 00:00-24:00"]))
    echod.start()
    with udp(another) as allowed, udp(echod.port) as denied:
        Silence(echod, "refused_times", allowed).assert_for(denied, times=2)
    echod.await_log("notice: .*1 datagram refused: access_times: closed now; the last from")


def test_max_load(echod: Echod) -> None:
    """The kernel looks every five seconds how many processes run; this one makes it one."""
    until = time.monotonic() + seconds(20)
    while float(Path("/proc/loadavg").read_text().split()[0]) < 0.05:
        assert time.monotonic() < until
    another = echod.another_port()
    echod.configure(echo_service(echod, max_load=0.01),
                    echo_service(echod, "patient", listen=[f"udp:{HOST}:{another}"],
                                 max_load=100000))
    echod.start()
    with udp(another) as allowed, udp(echod.port) as denied:
        Silence(echod, "refused_load", allowed).assert_for(denied)
    echod.await_log("notice: .*1 datagram refused: max_load: the machine is busy; the last from")


# ---- What is told -------------------------------------------------------------------------------

def told(echod: Echod, reason: str) -> list[int]:
    """The number in each line of the log about this reason."""
    return [int(n) for n in re.findall(rf": (\d+) datagrams? {reason}", echod.log_text())]


def test_a_flood_is_told_of_once_a_second(echod: Echod) -> None:
    """One line at once, and then the others together; in the end all are told of."""
    echod.configure(echo_service(echod, access=["deny 127.0.0.2"]))
    echod.start()
    with udp(echod.port) as allowed, udp(echod.port, source=("127.0.0.2", 0)) as denied:
        silence = Silence(echod, "refused_access", allowed)
        begun = time.monotonic()
        for _ in range(50):
            silence.assert_for(denied, times=10)
        elapsed = time.monotonic() - begun
        echod.await_log("1 datagram refused: ")
        lines = told(echod, "refused: ")
        assert lines[0] == 1 and len(lines) <= 1 + elapsed

        def all_told() -> bool:
            silence.assert_for(denied)
            return sum(told(echod, "refused: ")) >= 500
        wait_until(all_told, seconds(PATIENCE), "the last second is told of, too")
        lines = told(echod, "refused: ")
        assert sum(lines) <= silence.count and len(lines) <= 2 + time.monotonic() - begun


@pytest.mark.needs_root
def test_each_reason_is_told_for_itself(echod: Echod, network: None) -> None:
    """At level info also what is the network's noise; `status` has all of them."""
    echod.configure(echo_service(echod, access=["deny 127.0.0.2"], max_datagram_rate=1))
    echod.settings["log.level"] = "info"
    echod.start()
    forge((HOST, 7), (HOST, echod.port))
    forge(("127.0.0.2", 40000), (HOST, echod.port))
    forge((HOST, 40000), (HOST, echod.port))
    forge((HOST, 40000), (HOST, echod.port))
    await_counter(echod, "datagrams", 4)
    await_counter(echod, "datagram_replies", 1)
    for line in (r"info: echo/0\[\d+\]: 1 datagram from a port that is never answered; "
                 r"the last from 127\.0\.0\.1:7$",
                 r"notice: .*1 datagram refused: access: .*; the last from 127\.0\.0\.2:40000$",
                 r"notice: .*1 datagram refused by max_datagram_rate; "
                 r"the last from 127\.0\.0\.1:40000$"):
        echod.await_log(line)
    done = echod.run("status", expect=0)
    assert re.search(r"datagrams +4 received, 1 answered", done.stdout)
    assert re.search(r"not answered .*port.*1", done.stdout), done.stdout
    assert re.search(r"refused .*access.*1", done.stdout), done.stdout


# ---- PROXY headers ------------------------------------------------------------------------------

LOCALHOST = ["127.0.0.0/8", "::1"]


def header(source: str = "192.0.2.1", port: int = 12345, **keys: Any) -> bytes:
    """Of version 2, and of a datagram."""
    made = bytearray(v2(source, port, "2001:db8::2" if ":" in source else "198.51.100.2", **keys))
    made[13] = made[13] & 0xf0 | 2
    return bytes(made)


def local() -> bytes:
    return v2()[:12] + b"\x20\0\0\0"


def behind_proxy(echod: Echod, mode: str = "required", **keys: Any) -> None:
    serve(echod, f"udp:{HOST}:{echod.port}",
          **{"proxy_protocol": mode, "proxy_from": LOCALHOST, **keys})


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_proxy_header_is_taken_off(echod: Echod, mode: str) -> None:
    """Each datagram carries one; the reply goes to who sent it, without."""
    behind_proxy(echod, mode)
    with udp(echod.port) as client:
        for start in (header(), header("2001:db8::1"), local(), v2()):
            for data in (b"", b"hello", bytes(1000)):
                assert ask(client, start + data) == data
        without = b"no header"
        if mode == "optional":
            assert ask(client, without) == without
        else:
            client.send(without)
            client.send(b"")
            assert ask(client, header() + b"then") == b"then"
            assert counters(echod)["refused_proxy"] == 2
            echod.await_log("notice: .*1 datagram refused without a PROXY header")


def test_a_proxy_header_is_data_where_none_is_expected(echod: Echod) -> None:
    serve(echod)
    with udp(echod.port) as client:
        assert ask(client, header() + b"hello") == header() + b"hello"


def test_whoami_tells_what_the_proxy_says(echod: Echod) -> None:
    behind_proxy(echod, protocol="whoami")
    with udp(echod.port) as client:
        tells = json.loads(ask(client, header("192.0.2.7", 4711) + bytes(2000)))
        assert tells["proxy"]["source"] == {"address": "192.0.2.7", "port": 4711}
        assert tells["peer"] == {"address": HOST, "port": client.getsockname()[1]}
        assert len(ask(client, header() + bytes(50))) == 50  # the header earns nothing


def test_access_and_rate_are_about_the_proxys_client(echod: Echod) -> None:
    behind_proxy(echod, access=["deny 192.0.2.0/24"], max_datagram_rate=5)
    with udp(echod.port) as client:
        client.send(header("192.0.2.1") + b"hello?")
        assert ask(client, header("198.51.100.1") + b"hello") == b"hello"
        assert counters(echod)["refused_access"] == 1
        port = client.getsockname()[1]
        echod.await_log(rf"the last from 192\.0\.2\.1:12345 \(by 127\.0\.0\.1:{port}\)")
        # A /24 each, though all come from one address.
        for number in range(50):
            assert ask(client, header(f"203.0.{number}.1") + b"x") == b"x"
        for number in range(50):
            client.send(header(f"203.1.1.{number}") + b"x")
        wait_until(lambda: (now := counters(echod))["datagram_replies"] + now["datagrams_rate"]
                   == 101, seconds(PATIENCE), "each has its fate")
        assert 5 <= counters(echod)["datagram_replies"] - 51 <= 45


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_only_proxies_are_believed(echod: Echod, mode: str) -> None:
    """From elsewhere a header is a client's own bytes, or refused."""
    behind_proxy(echod, mode, proxy_from=["127.0.0.2"])
    whole = header() + b"hello"
    with udp(echod.port, source=("127.0.0.2", 0)) as proxy, udp(echod.port) as client:
        client.send(whole)
        assert ask(proxy, whole) == b"hello"
        if mode == "optional":
            assert client.recv(1000) == whole
        else:
            assert_nothing_came(client)
            assert counters(echod)["refused_proxy"] == 1


def test_malformed_proxy_headers_are_refused(echod: Echod) -> None:
    """Those that are not whole, too: the rest does not come with the next datagram."""
    behind_proxy(echod, "optional")
    good = header(tlvs=b"\x04\0\x03abc")
    bad = [good[:size] for size in range(12, len(good))]
    bad += [good[:12] + b"\x11" + good[13:], good[:12] + b"\x22" + good[13:],
            good[:13] + b"\x42" + good[14:], good[:13] + b"\x13" + good[14:],
            good[:14] + b"\0\x04" + good[16:], header(tlvs=b"\x02\0\x09abc")]
    with udp(echod.port) as client:
        for data in bad:
            client.send(data)
        await_counter(echod, "proxy_errors", len(bad))
        assert ask(client, good + b"hello") == b"hello"
        assert_nothing_came(client)
    echod.await_log("notice: .*1 datagram refused for a malformed PROXY header: .*; the last from")
    assert len(told(echod, "refused for a malformed PROXY header")) <= 10


def test_version_1_is_not_for_datagrams(echod: Echod) -> None:
    other = echod.another_port()
    echod.configure(
        echo_service(echod, proxy_protocol="required", proxy_from=LOCALHOST),
        echo_service(echod, "other", listen=[f"udp:{HOST}:{other}"], proxy_protocol="optional",
                     proxy_from=LOCALHOST))
    echod.start()
    for family in ("TCP4", "UDP4"):
        data = b"PROXY %s 192.0.2.1 192.0.2.2 1 1\r\nhello" % family.encode()
        with udp(echod.port) as client, udp(other) as client_of_other:
            client.send(data)
            assert ask(client, header() + b"then") == b"then"
            assert ask(client_of_other, data) == data
    assert counters(echod)["refused_proxy"] == 2 and counters(echod)["proxy_errors"] == 0


# ---- Unix sockets -------------------------------------------------------------------------------

@pytest.fixture
def path(echod: Echod) -> Path:
    """Of a Unix socket with an echo service, of which one worker serves."""
    place = echod.dir / "datagram"
    serve(echod, f"unixgram:{place}")
    return place


def test_clients_by_path_and_by_name(echod: Echod, path: Path) -> None:
    """Whatever their names are, each gets its own."""
    mine = echod.dir / "mine"
    mine.mkdir()
    mine.chmod(0o755)
    long = mine / ("x" * (107 - len(str(mine)) - 1))
    names = [f"{mine}/a", str(long), "", f"\0echod-test-{echod.port}", "\0", "\0a\0b\0",
             "\0" + "x" * 107]
    for name in names:
        with unix(path, name) as client:
            if name.startswith("/"):
                os.chmod(name, 0o777)  # the worker has another user than root's tests
            assert ask(client, name.encode()) == name.encode()


def test_clients_without_a_name_are_counted(echod: Echod, path: Path) -> None:
    """There is nowhere to answer to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless, unix(path) as client:
        nameless.connect(str(path))
        Silence(echod, "datagrams_nameless", client).assert_for(nameless, times=3)
    assert counters(echod)["datagrams_unsent"] == 0


def test_clients_that_cannot_be_reached_are_counted(echod: Echod, path: Path) -> None:
    """Without permission, gone, or not reading: others are answered all the same."""
    with unix(path) as client, unix(path, echod.dir / "closed") as closed:
        (echod.dir / "closed").chmod(0)
        silence = Silence(echod, "datagrams_unsent", client)
        silence.assert_for(closed, times=3)
        with unix(path, echod.dir / "gone") as gone:
            (echod.dir / "gone").unlink()
            silence.assert_for(gone)
        # Of one that has connected to the server, the length of the queue would not be looked at.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.bind("")
            most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
            for number in range(most + 5):
                deaf.sendto(b"%d" % number, str(path))
            assert ask(client) == b"hello"
            silence.count += 5
            await_counter(echod, "datagrams_unsent", silence.count)
            assert [deaf.recv(100) for _ in range(most)] == [b"%d" % n for n in range(most)]
            assert_nothing_came(deaf)


@pytest.mark.xfail(strict=True, reason="its replies fill the send buffer of the socket, of all")
def test_a_client_that_does_not_read_is_in_nobodys_way(echod: Echod, path: Path) -> None:
    """What waits for one that has connected is bounded by the server's own send buffer only."""
    with unix(path) as client, unix(path) as deaf:
        for number in range(2000):
            deaf.send(b"%d" % number)
        client.settimeout(seconds(2))
        assert ask(client) == b"hello"


def test_descriptors_that_come_along_are_dropped(echod: Echod, path: Path) -> None:
    """Nobody can fill up a worker with them, or keep something open in it."""
    worker: Process = echod.workers()[0]
    with unix(path) as client:
        assert ask(client) == b"hello"
        before = worker.fds
        reading, writing = os.pipe()
        for count in (1, 2, 100):
            for _ in range(20):
                socket.send_fds(client, [b"take"], [writing] * count)
                assert client.recv(100) == b"take"
        assert worker.fds == before
        os.close(writing)
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b"", "nobody else holds the pipe open"
        os.close(reading)
        # Beside the ids, which there is room for.
        ids = struct.pack("=iII", os.getpid(), os.getuid(), os.getgid())
        for _ in range(5):
            client.sendmsg([b"both"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ids),
                                       (socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                        struct.pack("=i", client.fileno()))])
            assert client.recv(100) == b"both"
        assert worker.fds == before
