"""
Behind a proxy: headers of the PROXY protocol, sent by hand byte by byte and by a real HAProxy, which
contrib/peers.sh unpacks without installing it. What access and limits decide, what whoami tells and
what the log says is about the client that the header names.

    ECHOD_PEERS   the folder that contrib/peers.sh has filled; without it the tests with HAProxy fail
"""

from __future__ import annotations

import contextlib
import csv
import ipaddress
import json
import re
import socket
import ssl
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from clients import Load
from echod import Echod, read_exactly, read_to_end, seconds
from procfs import wait_until
from test_peers import Sender, environment, peers_folder

LOCALHOST = ["127.0.0.0/8", "::1"]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEADER_TIME = 5  # seconds that a header may take


# ---- Headers ------------------------------------------------------------------------------------

def v1(source: str = "192.0.2.1", port: int = 12345, destination: str = "198.51.100.2") -> bytes:
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {port} 443\r\n".encode()


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def v2(source: str = "192.0.2.1", port: int = 12345, destination: str = "198.51.100.2",
       tlvs: bytes = b"", command: int = 0x21) -> bytes:
    addresses = [ipaddress.ip_address(a) for a in (source, destination)]
    family = 0x21 if addresses[0].version == 6 else 0x11
    body = b"".join(a.packed for a in addresses) + struct.pack(">HH", port, 443) + tlvs
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def v2_local(tlvs: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack(">BBH", 0x20, 0, len(tlvs)) + tlvs


HEADERS = [pytest.param(make, id=name) for name, make in (
    ("v1", v1), ("v1 IPv6", lambda: v1("2001:db8::1", destination="2001:db8::2")),
    ("v1 unknown", lambda: b"PROXY UNKNOWN\r\n"), ("v2", v2),
    ("v2 IPv6", lambda: v2("2001:db8::1", destination="2001:db8::2")),
    ("v2 local", v2_local),
    ("v2 with TLVs", lambda: v2(tlvs=tlv(4, bytes(100)) + tlv(2, b"a.example"))))]

# What is wrong with it, and a piece of the reason in the log.
MALFORMED = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "destination port"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 1\r\n", "source port"),
    (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 1\r\n", "source address"),
    (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 1\r\n", "destination address"),
    (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 1\r\n", "source address"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 1\n", "CR LF"),
    (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 1\r\n", "family"),
    (b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n", "longer than 107 bytes"),
    (b"PROXYHELLO\r\n", "space"),
    (SIGNATURE + b"\x11\x11\0\x0c" + bytes(12), "version"),
    (v2(command=0x22), "command"),
    (SIGNATURE + b"\x21\x41\0\x0c" + bytes(12), "address family"),
    (SIGNATURE + b"\x21\x13\0\x0c" + bytes(12), "transport"),
    (SIGNATURE + b"\x21\x21\0\x0c" + bytes(12), "too short"),
    (v2(tlvs=b"\x02\0\x09abc"), "TLV"),
    (v2(tlvs=tlv(3, bytes(4))), "checksum"),
]


def serve(echod: Echod, proxy: str = "required", **keys: Any) -> None:
    """One line service behind a proxy on this machine; whatever else it shall have."""
    keys = {"protocol": "line", "max_lines": 0, "workers": 1, "proxy_protocol": proxy,
            "proxy_from": LOCALHOST, **keys}
    echod.configure(echod.service(**keys))
    echod.start()


def counter(echod: Echod, name: str) -> int:
    return echod.status()["counters"][name]


def await_counter(echod: Echod, name: str, value: int) -> None:
    wait_until(lambda: counter(echod, name) == value, seconds(10), f"{name} is {value}")


def whoami(client: socket.socket) -> dict[str, Any]:
    return json.loads(read_to_end(client))


def assert_ends_without_a_byte(client: socket.socket) -> None:
    """By a FIN or a reset: what it sent was not read to its end."""
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


# ---- Sent by hand -------------------------------------------------------------------------------

@pytest.mark.valgrind_subset
@pytest.mark.parametrize("make", HEADERS)
@pytest.mark.parametrize("proxy", ["required", "optional"])
def test_a_header_is_taken_off_in_front_of_what_the_client_says(
        echod: Echod, make: Callable[[], bytes], proxy: str) -> None:
    serve(echod, proxy)
    assert echod.echo(make() + b"one\ntwo\nthree") == b"one\ntwo\nthree"
    assert echod.echo(make()) == b""
    assert counter(echod, "proxy_errors") == counter(echod, "refused_proxy") == 0


@pytest.mark.parametrize("make", HEADERS)
def test_a_header_may_come_byte_by_byte(echod: Echod, make: Callable[[], bytes]) -> None:
    serve(echod)
    with echod.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in make() + b"hello\n":
            client.send(bytes([byte]))
            time.sleep(0)  # its own segment, mostly
        assert read_exactly(client, 6) == b"hello\n"
        client.sendall(b"again\n")
        assert read_exactly(client, 6) == b"again\n"


@pytest.mark.parametrize("make", [v1, v2], ids=["v1", "v2"])
def test_a_header_may_be_cut_anywhere(echod: Echod, make: Callable[[], bytes]) -> None:
    serve(echod)
    header = make()
    for cut in range(len(header) + 1):
        with echod.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(header[:cut])
            client.sendall(header[cut:] + b"behind it\n")
            assert read_exactly(client, 10) == b"behind it\n", cut


def test_the_longest_header_is_taken(echod: Echod) -> None:
    serve(echod)
    header = v2(tlvs=tlv(4, bytes(65535 - 12 - 3)))
    assert len(header) == 16 + 65535
    assert echod.echo(header + b"behind it\n") == b"behind it\n"


@pytest.mark.valgrind_subset
@pytest.mark.parametrize("proxy", ["required", "optional"])
def test_a_malformed_header_ends_the_connection_and_is_never_echoed(echod: Echod,
                                                                    proxy: str) -> None:
    serve(echod, proxy)
    for n, (header, reason) in enumerate(MALFORMED, 1):
        with echod.connect() as client:
            client.sendall(header + b"hello\n")
            assert_ends_without_a_byte(client)
        await_counter(echod, "proxy_errors", n)
        last = echod.log_text().splitlines()[-1]
        assert "malformed PROXY header: " in last and reason in last, (header, last)
        assert " notice: " in last
    assert counter(echod, "requests") == 0
    assert echod.echo(v1() + b"hello\n") == b"hello\n"


def test_one_that_is_malformed_ends_before_the_rest_of_it_has_come(echod: Echod) -> None:
    serve(echod)
    with echod.connect() as client:
        client.sendall(b"PROXY TCP7")
        assert_ends_without_a_byte(client)
    await_counter(echod, "proxy_errors", 1)


def test_who_sends_no_header_is_turned_away_where_one_is_required(echod: Echod) -> None:
    serve(echod)
    for n, data in enumerate([b"hello\n", b"\r\nhello\r\n", b"PRO", b""], 1):
        with echod.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert_ends_without_a_byte(client)
        await_counter(echod, "refused_proxy", n)
    assert counter(echod, "requests") == counter(echod, "proxy_errors") == 0
    assert len(re.findall(r" notice: .* refused: proxy_protocol: ", echod.log_text())) == 4


@pytest.mark.slow
def test_a_header_must_come_in_time(echod: Echod) -> None:
    serve(echod)
    begun = time.monotonic()
    with echod.connect() as silent, echod.connect() as slow:
        for client in (silent, slow):
            client.settimeout(seconds(HEADER_TIME + 10))
        slow.sendall(v2()[:20])
        assert_ends_without_a_byte(silent)
        assert_ends_without_a_byte(slow)
    # At least 3 s, says the specification: a lost segment comes again after one or two.
    assert time.monotonic() - begun > 3
    await_counter(echod, "refused_proxy", 2)
    echod.await_log("refused: proxy_protocol: no PROXY header came in time", count=2)


def test_without_a_header_optional_is_a_plain_service(echod: Echod) -> None:
    serve(echod, "optional")
    for data in (b"hello\n", b"\r\n\r\nhello\n", b"PROX", b"GET / HTTP/1.1\r\n", b"P", b"\r\n"):
        assert echod.echo(data) == data
    assert counter(echod, "proxy_errors") == counter(echod, "refused_proxy") == 0


@pytest.mark.slow
def test_what_looked_like_the_beginning_of_a_header_is_answered_when_its_time_is_over(
        echod: Echod) -> None:
    serve(echod, "optional")
    with echod.connect() as client:
        client.settimeout(seconds(HEADER_TIME + 10))
        client.sendall(b"\r\n\r\n")
        assert read_exactly(client, 4) == b"\r\n\r\n"
        client.sendall(b"hello\n")
        assert read_exactly(client, 6) == b"hello\n"


def test_a_header_of_one_who_is_no_proxy_is_not_believed(echod: Echod) -> None:
    serve(echod, "optional", proxy_from=["127.0.0.2"])
    # It is a line as any other.
    assert echod.echo(v1() + b"hello\n") == v1() + b"hello\n"
    with socket.create_connection(("127.0.0.1", echod.port), seconds(10),
                                  ("127.0.0.2", 0)) as client:
        client.sendall(v1() + b"hello\n")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"hello\n"


def test_only_proxies_may_connect_where_a_header_is_required(echod: Echod) -> None:
    serve(echod, proxy_from=["127.0.0.2"])
    with echod.connect() as client:
        # Before it can send one: it is told by its address.
        assert_ends_without_a_byte(client)
    await_counter(echod, "refused_proxy", 1)
    echod.await_log(r"from 127\.0\.0\.1:\d+ refused: proxy_protocol: proxy_from does not name")


def test_off_a_header_is_what_the_client_says(echod: Echod) -> None:
    serve(echod, "off", proxy_from=[])
    assert echod.echo(v1() + b"hello\n") == v1() + b"hello\n"
    assert echod.echo(v2() + b"hello\n") == v2() + b"hello\n"


@pytest.mark.parametrize("proxy", ["optional", "required"])
def test_it_must_be_said_who_the_proxies_are(echod: Echod, proxy: str) -> None:
    echod.configure(echod.service(protocol="line", proxy_protocol=proxy))
    done = echod.run("check", expect=6)
    assert "proxy_from" in done.stderr


def test_whoami_tells_both_ends(echod: Echod) -> None:
    serve(echod, protocol="whoami")
    with echod.connect() as client:
        client.sendall(v2(tlvs=tlv(1, b"h2") + tlv(2, b"a.example") + tlv(5, b"id-1")
                          + tlv(0x30, b"blue")))
        told = whoami(client)
        assert told["peer"]["port"] == client.getsockname()[1]
    proxy = told["proxy"]
    assert proxy["source"] == {"address": "192.0.2.1", "port": 12345}
    assert proxy["destination"] == {"address": "198.51.100.2", "port": 443}
    assert (proxy["version"], proxy["local"]) == (2, False)
    assert (proxy["alpn"], proxy["authority"]) == ("h2", "a.example")
    assert (proxy["unique_id"], proxy["netns"]) == ("id-1", "blue")


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2_local()], ids=["UNKNOWN", "LOCAL"])
def test_a_connection_of_the_proxys_own_has_its_own_address(echod: Echod, header: bytes) -> None:
    serve(echod, protocol="whoami", access=["allow 127.0.0.1", "deny *"])
    with echod.connect() as client:
        client.sendall(header)
        told = whoami(client)
        assert told["peer"] == {"address": "127.0.0.1", "port": client.getsockname()[1]}
    assert told["proxy"]["local"] is True
    assert told["proxy"]["source"] is None


def test_access_is_about_the_client_and_not_about_its_proxy(echod: Echod) -> None:
    serve(echod, access=["allow 192.0.2.0/25", "allow 2001:db8::/32", "deny *"])
    assert echod.echo(v1("192.0.2.1") + b"hello\n") == b"hello\n"
    assert echod.echo(v2("2001:db8::1", destination="2001:db8::2") + b"hello\n") == b"hello\n"
    assert echod.echo(v1("::ffff:192.0.2.1", destination="::1") + b"hello\n") == b"hello\n"
    with echod.connect() as client:
        client.sendall(v2("192.0.2.200") + b"hello\n")
        assert_ends_without_a_byte(client)
    await_counter(echod, "refused_access", 1)
    echod.await_log(r"from 192\.0\.2\.200:12345 \(by 127\.0\.0\.1:\d+\) refused: access")


def test_limits_are_about_the_client_and_not_about_its_proxy(echod: Echod) -> None:
    serve(echod, max_connections_per_source=1)
    with echod.connect() as one, echod.connect() as same, echod.connect() as other:
        for client, source in ((one, "192.0.2.1"), (other, "192.0.2.2")):
            client.sendall(v1(source) + b"hello\n")
            assert read_exactly(client, 6) == b"hello\n"
        same.sendall(v1("192.0.2.1", port=54321) + b"hello\n")
        assert_ends_without_a_byte(same)
    await_counter(echod, "refused_source", 1)


def test_the_log_names_the_client_and_its_proxy(echod: Echod) -> None:
    echod.settings["log.level"] = "info"
    serve(echod)
    assert echod.echo(v1("2001:db8::7", destination="::1") + b"hello\n") == b"hello\n"
    echod.await_log(r"from \[2001:db8::7\]:12345 \(by 127\.0\.0\.1:\d+\) ended: .*1 lines")


def test_first_byte_timeout_counts_from_behind_the_header(echod: Echod) -> None:
    serve(echod, first_byte_timeout="300ms")
    with echod.connect() as client:
        client.sendall(v1())
        assert_ends_without_a_byte(client)
    await_counter(echod, "first_byte_timeouts", 1)
    with echod.connect() as client:
        client.sendall(v1() + b"hello\n")
        assert read_exactly(client, 6) == b"hello\n"


def test_a_connection_goes_on_over_a_restart_and_still_has_its_client(echod: Echod) -> None:
    echod.settings["log.level"] = "info"
    serve(echod)
    with echod.connect() as open_one, echod.connect() as unfinished:
        open_one.sendall(v1() + b"hello\n")
        assert read_exactly(open_one, 6) == b"hello\n"
        unfinished.sendall(v2()[:20])
        echod.restart()
        open_one.sendall(b"again\n")
        assert read_exactly(open_one, 6) == b"again\n"
        unfinished.sendall(v2()[20:] + b"late\n")
        assert read_exactly(unfinished, 5) == b"late\n"
    echod.await_log(r"from 192\.0\.2\.1:12345 \(by .*2 lines")


# ---- HAProxy ------------------------------------------------------------------------------------

class Haproxy:
    """
    A HAProxy of this test's own, in the directory of its echod. Each pair of a frontend and a
    backend is a `relay`; `start` returns when all frontends accept.
    """

    def __init__(self, echod: Echod) -> None:
        folder = peers_folder()
        if folder is None or not (folder / "usr/sbin/haproxy").exists():
            pytest.fail("there is no HAProxy: run contrib/peers.sh DIRECTORY, then set "
                        "ECHOD_PEERS=DIRECTORY (contrib/check.sh does both)", pytrace=False)
        self.folder = folder
        self.echod = echod
        self.dir = echod.dir
        self.fronts: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.config = [
            "global", "    maxconn 1000", f"    stats socket {self.dir}/haproxy.sock level admin",
            "defaults", "    mode tcp", "    timeout connect 5s", "    timeout client 60s",
            "    timeout server 60s", "    unique-id-format id-%cp"]

    def relay(self, server: str, bind: str | None = None, to: str | None = None) -> Any:
        """From a new port, which is returned, or from `bind`, to the daemon's or `to`."""
        port = self.echod.another_port()
        n = len(self.fronts)
        self.fronts.append(bind or f"127.0.0.1:{port}")
        self.config += [f"frontend front{n}", f"    bind {self.fronts[-1]}",
                        f"    default_backend back{n}", f"backend back{n}",
                        f"    server echod {to or f'127.0.0.1:{self.echod.port}'} {server}"]
        return port

    def start(self) -> None:
        path = self.dir / "haproxy.cfg"
        path.write_text("\n".join(self.config) + "\n")
        with open(self.dir / "haproxy.log", "wb") as log:
            self.process = subprocess.Popen(
                [str(self.folder / "usr/sbin/haproxy"), "-db", "-f", str(path)],
                env=environment(self.folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, seconds(15), "HAProxy answers at its socket")

    def _log(self) -> str:
        return (self.dir / "haproxy.log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self._log()
        try:
            return bool(self.servers())
        except OSError:
            return False

    def servers(self) -> list[dict[str, str]]:
        """What it knows of the servers: "status", "check_status", ..."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds(10))
            client.connect(str(self.dir / "haproxy.sock"))
            client.sendall(b"show stat -1 4 -1\n")
            text = read_to_end(client).decode()
        return list(csv.DictReader(text.lstrip("# ").strip().splitlines()))

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds(10))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def haproxy(echod: Echod) -> Iterator[Haproxy]:
    proxy = Haproxy(echod)
    yield proxy
    proxy.stop()


SENDS = [("send-proxy", 1), ("send-proxy-v2", 2),
         ("send-proxy-v2 proxy-v2-options crc32c,unique-id", 2)]


@pytest.mark.parametrize(("server", "version"), SENDS)
def test_haproxy_tells_who_its_client_is(echod: Echod, haproxy: Haproxy, server: str,
                                         version: int) -> None:
    serve(echod, protocol="whoami")
    port = haproxy.relay(server)
    haproxy.start()
    with socket.create_connection(("127.0.0.1", port), seconds(10), ("127.0.0.9", 0)) as client:
        own = client.getsockname()[1]
        told = whoami(client)
    assert told["proxy"]["version"] == version
    assert told["proxy"]["source"] == {"address": "127.0.0.9", "port": own}
    assert told["proxy"]["destination"] == {"address": "127.0.0.1", "port": port}
    if "unique-id" in server:
        assert told["proxy"]["unique_id"] == f"id-{own}"
    assert counter(echod, "proxy_errors") == 0


@pytest.mark.parametrize("server", [server for server, _ in SENDS])
def test_every_byte_comes_back_through_haproxy(echod: Echod, haproxy: Haproxy,
                                               server: str) -> None:
    serve(echod, protocol="echo")
    port = haproxy.relay(server)
    haproxy.start()
    data = bytes(i * i % 251 for i in range(1000)) * 1000
    with echod.connect(port=port) as client, echod.connect(port=port) as idle:
        sender = Sender(client, data, end=True)
        assert read_to_end(client) == data
        sender.join()
        idle.sendall(b"still here")
        assert read_exactly(idle, 10) == b"still here"


def test_ipv6_clients_reach_an_ipv4_service_through_haproxy(echod: Echod,
                                                            haproxy: Haproxy) -> None:
    serve(echod, protocol="whoami", access=["allow ::1", "deny *"])
    front = echod.another_port()
    haproxy.relay("send-proxy", bind=f"[::1]:{front}")
    haproxy.start()
    with echod.connect("::1", front) as client:
        own = client.getsockname()[1]
        assert whoami(client)["proxy"]["source"] == {"address": "::1", "port": own}


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_access_is_about_haproxys_clients(echod: Echod, haproxy: Haproxy, server: str) -> None:
    serve(echod, access=["deny 127.0.0.5", "allow *"])
    port = haproxy.relay(server)
    haproxy.start()
    with socket.create_connection(("127.0.0.1", port), seconds(10), ("127.0.0.5", 0)) as client:
        client.sendall(b"hello\n")
        assert_ends_without_a_byte(client)
    await_counter(echod, "refused_access", 1)
    echod.await_log(r"from 127\.0\.0\.5:\d+ \(by 127\.0\.0\.1:\d+\) refused: access")
    assert echod.echo(port=port) == b"hello\n"


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_health_checks_find_it_healthy_and_are_no_fault(echod: Echod, haproxy: Haproxy,
                                                        server: str) -> None:
    serve(echod)
    haproxy.relay(f"{server} check-send-proxy check inter 50ms fastinter 50ms rise 3 fall 1")
    haproxy.start()
    logged = echod.log_text()
    wait_until(lambda: counter(echod, "closed") >= 10, seconds(20), "ten checks were made")
    [state] = haproxy.servers()
    assert (state["status"], state["check_status"].strip("* ")) == ("UP", "L4OK"), state
    assert state["chkfail"] == "0"
    assert counter(echod, "proxy_errors") == counter(echod, "refused_proxy") == 0
    assert echod.log_text() == logged


def test_health_checks_may_ask_for_a_line(echod: Echod, haproxy: Haproxy) -> None:
    serve(echod)
    haproxy.relay("send-proxy-v2 check-send-proxy check inter 50ms rise 3 fall 1")
    haproxy.config += ["    option tcp-check", "    tcp-check send ping\\n",
                       "    tcp-check expect string ping"]
    haproxy.start()
    wait_until(lambda: counter(echod, "requests") >= 10, seconds(20), "ten checks were made")
    [state] = haproxy.servers()
    assert (state["status"], state["check_status"].strip("* ")) == ("UP", "L7OK"), state
    assert counter(echod, "proxy_errors") == 0


def test_haproxy_sees_the_end_of_a_service_and_its_return(echod: Echod, haproxy: Haproxy) -> None:
    serve(echod)
    haproxy.relay("send-proxy check-send-proxy check inter 50ms fastinter 50ms rise 1 fall 1")
    haproxy.start()
    echod.tell("stop", "line")
    wait_until(lambda: haproxy.servers()[0]["status"] == "DOWN", seconds(20), "it is down")
    echod.tell("start", "line")
    wait_until(lambda: haproxy.servers()[0]["status"] == "UP", seconds(20), "it is up again")


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_a_client_of_haproxys_unix_socket_has_no_address(echod: Echod, haproxy: Haproxy,
                                                         server: str) -> None:
    serve(echod, protocol="whoami")
    path = haproxy.dir / "front.sock"
    haproxy.relay(server, bind=f"unix@{path}")
    haproxy.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds(10))
        client.connect(str(path))
        proxy = whoami(client)["proxy"]
    assert proxy["local"] or list(proxy["source"]) == ["path"]
    assert counter(echod, "proxy_errors") == 0


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_haproxy_may_come_by_a_unix_socket(echod: Echod, haproxy: Haproxy, server: str) -> None:
    path = echod.dir / "echo.sock"
    serve(echod, protocol="whoami", listen=[f"unix:{path}"], proxy_from=["unix"],
          access=["allow 127.0.0.9", "deny *"])
    port = haproxy.relay(server, to=f"unix@{path}")
    haproxy.start()
    with socket.create_connection(("127.0.0.1", port), seconds(10), ("127.0.0.9", 0)) as client:
        own = client.getsockname()[1]
        told = whoami(client)
    assert told["transport"] == "unix"
    assert told["proxy"]["source"] == {"address": "127.0.0.9", "port": own}
    with echod.connect(port=port) as other:
        assert_ends_without_a_byte(other)
    echod.await_log(r"from 127\.0\.0\.1:\d+ \(by unix \(pid \d+, uid \d+\)\) refused: access")


def make_certificate(directory: Path) -> Path:
    """A key and a certificate of its own, in one file."""
    key, certificate, both = (directory / name for name in ("key", "certificate", "both.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    "/CN=echo.example", "-keyout", str(key), "-out", str(certificate)],
                   check=True, capture_output=True, timeout=seconds(30))
    both.write_text(key.read_text() + certificate.read_text())
    return both


def test_haproxy_tells_what_it_knows_of_tls(echod: Echod, haproxy: Haproxy) -> None:
    serve(echod, protocol="whoami")
    front = echod.another_port()
    haproxy.relay("send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,"
                  "authority,crc32c",
                  bind=f"127.0.0.1:{front} ssl crt {make_certificate(haproxy.dir)} alpn echo")
    haproxy.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["echo"])
    with echod.connect(port=front) as plain, \
            context.wrap_socket(plain, server_hostname="echo.example") as client:
        proxy = whoami(client)["proxy"]
        expected = (client.version(), client.cipher()[0])
    assert proxy["source"]["address"] == "127.0.0.1"
    assert proxy["authority"] == "echo.example"
    assert proxy["alpn"] == "echo"
    assert (proxy["ssl"]["version"], proxy["ssl"]["cipher"]) == expected
    assert proxy["ssl"]["client_ssl"] and not proxy["ssl"]["client_cert_conn"]
    assert proxy["ssl"]["key_alg"] == "EC256"


@pytest.mark.slow
def test_many_clients_flow_through_haproxy_while_the_daemon_restarts(echod: Echod,
                                                                     haproxy: Haproxy) -> None:
    """Every byte is checked; no connection breaks, and no header is taken for a line."""
    serve(echod, workers=2)
    ports = [haproxy.relay("send-proxy"), haproxy.relay("send-proxy-v2")]
    haproxy.start()
    with Load() as load:
        for port in ports:
            load.conversations(port, clients=20, epochs=1)
        load.await_all()
        for _ in range(3):
            echod.restart()
            load.epoch += 1
            load.assert_flows(20)
    assert counter(echod, "proxy_errors") == counter(echod, "refused_proxy") == 0
    assert not re.search(r"PROXY|QUIT", echod.log_text())
