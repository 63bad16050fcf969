"""
One list of checks, from the RFCs and from what servers met since, for echod and two of its elders:
xinetd and inetutils-inetd, which have the same services built in. The outcome is a table:

                                                        echod    xinetd   inetutils-inetd
    echo TCP: every byte comes back unchanged           ok       ok       ok
    echo UDP: the answer comes from the address asked   ok       fails    fails

echod must pass every check. What the others do is a yardstick, and no reason to fail; but they must
start. Each check gets a server that has just started, in a network of its own, on the ports that
IANA gave to the services.

    ECHOD_PEERS         the folder that contrib/peers.sh has filled; without it, echod is alone
    ECHOD_PEERS_TABLE   a file for the table, which is also printed (-s), with what went wrong
"""

from __future__ import annotations

import calendar
import contextlib
import glob
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from clients import fill, say, small_client
from echod import PATH, Echod, read_exactly, read_to_end, seconds
from networks import enter_private_network
from procfs import Process, wait_until

PORTS = {"echo": 7, "discard": 9, "daytime": 13, "chargen": 19, "time": 37}
HOST = "127.0.0.1"
PATIENCE = 5.0  # seconds for a single step of a client
SILENCE = 0.3   # seconds in which an answer that must not come would have come

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(300)]


# ---- The servers --------------------------------------------------------------------------------

def has_ipv6() -> bool:
    return os.path.exists("/proc/net/if_inet6")


def tcp_states(port: int) -> list[str]:
    """The states of the sockets on this local port of this thread's network, as in /proc."""
    found = []
    for table in ("tcp", "tcp6") if has_ipv6() else ("tcp",):
        with open(f"/proc/thread-self/net/{table}", encoding="ascii") as rows:
            for row in list(rows)[1:]:
                words = row.split()
                if words[1].endswith(f":{port:04X}"):
                    found.append(words[3])
    return found


def connections(port: int) -> int:
    """Those that are open: neither listening nor in TIME_WAIT."""
    return sum(state not in ("0A", "06") for state in tcp_states(port))


class Server:
    """One of the columns."""

    name = ""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def acceptors(self) -> list[int]:
        """The pids of those that accept connections."""
        raise NotImplementedError

    def connect(self, service: str, host: str = HOST) -> socket.socket:
        return socket.create_connection((host, PORTS[service]), timeout=seconds(PATIENCE))

    def datagrams(self, service: str, host: str = HOST) -> socket.socket:
        """A client that hears only what comes from the very address and port that it asks."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(seconds(PATIENCE))
        client.connect((host, PORTS[service]))
        return client

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Meanwhile the kernel takes connections and bytes, and the server sees none of them."""
        pids = self.acceptors()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            for pid in pids:
                wait_until(lambda p=pid: Process(p).state == "T", seconds(PATIENCE), "it halts")
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


class ThisEchod(Server):
    name = "echod"

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        echod.configure(*(echod.service(name, protocol=name, workers=2,
                                        listen=[f"tcp:*:{port}", f"udp:*:{port}"])
                          for name, port in PORTS.items()))

    def start(self) -> None:
        self.echod.start()

    def stop(self) -> None:
        assert self.echod.pid > 0  # 0 would be ourselves
        self.echod.signal(signal.SIGTERM)
        self.echod.await_end()

    def acceptors(self) -> list[int]:
        return [worker.pid for worker in self.echod.workers()]


class Peer(Server):
    """Another server, from the folder that contrib/peers.sh has filled."""

    def __init__(self, peers: Path, work: Path) -> None:
        self.peers = peers
        self.work = work
        self.process: subprocess.Popen[bytes] | None = None
        self.log = work / f"{self.name}.log"

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command(), env=environment(self.peers), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)

        def listens() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} does not start: {self.log.read_text()}")
            return all("0A" in tcp_states(port) for port in PORTS.values())
        wait_until(listens, seconds(PATIENCE), f"{self.name} listens")

    def stop(self) -> None:
        """End it and what it has forked for its clients, by pid."""
        if self.process is None:
            return
        children = self._children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process = None

    def _children(self) -> list[int]:
        """Halted first: nobody is born meanwhile, and none of them can leave its pid to others."""
        os.kill(self.process.pid, signal.SIGSTOP)
        wait_until(lambda: Process(self.process.pid).state in "TZ", seconds(PATIENCE), "it halts")
        return list(Process(self.process.pid).child_pids())

    def acceptors(self) -> list[int]:
        return [self.process.pid]


class Xinetd(Peer):
    name = "xinetd"

    def command(self) -> list[str]:
        kinds = (("stream", "tcp", "no"), ("dgram", "udp", "yes"))
        conf = self.work / "xinetd.conf"
        conf.write_text("defaults\n{\n}\n" + "".join(
            f"service {name}\n{{\n    type = INTERNAL\n    id = {name}-{kind}\n"
            f"    socket_type = {kind}\n    protocol = {protocol}\n    wait = {wait}\n"
            f"    user = root\n    flags = NOLIBWRAP\n}}\n"
            for name in PORTS for kind, protocol, wait in kinds))
        return [str(self.peers / "usr/sbin/xinetd"), "-dontfork", "-f", str(conf),
                "-pidfile", str(self.work / "xinetd.pid"), "-filelog", str(self.log)]


class Inetd(Peer):
    name = "inetutils-inetd"

    def command(self) -> list[str]:
        six = "6" if has_ipv6() else ""  # of both families: beside "tcp", "tcp6" finds no place
        conf = self.work / "inetd.conf"
        conf.write_text("".join(f"{name} stream tcp{six} nowait root internal\n"
                                f"{name} dgram udp{six} wait root internal\n" for name in PORTS))
        return [str(self.peers / "usr/sbin/inetutils-inetd"), "--debug",
                f"--pidfile={self.work / 'inetd.pid'}", str(conf)]


def environment(peers: Path) -> dict[str, str]:
    """With the libraries that lie beside the executables."""
    found = glob.glob(f"{peers}/usr/lib/*/*.so*") + glob.glob(f"{peers}/lib/*/*.so*")
    return {"PATH": PATH, "LD_LIBRARY_PATH": ":".join(sorted({os.path.dirname(f) for f in found}))}


# ---- The list of checks -------------------------------------------------------------------------

Check = Callable[[Server], None]
CHECKS: list[tuple[str, str, Check]] = []


def check(row: str, needs: str = "") -> Callable[[Check], Check]:
    """A row of the table; `needs`: what this machine may not have: IPv6, or the clients."""
    def register(function: Check) -> Check:
        CHECKS.append((row, needs, function))
        return function
    return register


class Sender(threading.Thread):
    """Sends while others read; `end`: the client's end of file follows."""

    def __init__(self, client: socket.socket, data: bytes, end: bool = False) -> None:
        super().__init__(daemon=True)
        self.client, self.data, self.end = client, data, end
        self.has_sent = False
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # who reads will notice
            self.client.sendall(self.data)
            self.has_sent = True
            if self.end:
                self.client.shutdown(socket.SHUT_WR)


def assert_silent(client: socket.socket) -> None:
    """Nothing comes, for a while."""
    client.settimeout(seconds(SILENCE))
    with pytest.raises(socket.timeout):
        got = client.recv(65536)
        raise AssertionError(f"{len(got)} bytes came: {got[:40]!r}")
    client.settimeout(seconds(PATIENCE))


def ask(client: socket.socket, data: bytes) -> bytes:
    """One datagram there, one back; asked again each second, as xinetd loses some."""
    until = time.monotonic() + seconds(PATIENCE)
    client.settimeout(seconds(1))
    while True:
        client.send(data)
        try:
            return client.recv(65536)
        except socket.timeout:
            if time.monotonic() > until:
                raise


# ---- echo: RFC 862 ------------------------------------------------------------------------------

@check("echo TCP: every byte comes back unchanged")
def echo_of_every_byte(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service": any data received is sent back; all 256 values, 1 MiB."""
    with server.connect("echo") as client:
        say(client, bytes(range(256)))
        data = random.Random(862).randbytes(1 << 20)
        Sender(client, data)
        assert read_exactly(client, len(data)) == data


@check("echo TCP: nothing waits for a line or a full buffer")
def echo_of_many_segments(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service": each of 200 pieces is answered before the next is sent."""
    choose = random.Random(862)
    with server.connect("echo") as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(200):
            say(client, choose.randbytes(choose.randint(1, 1500)))


@check("echo TCP: goes on until the client ends, then ends")
def echo_ends_with_the_client(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service": "until the calling user terminates the connection"."""
    with server.connect("echo") as client:
        say(client)
        assert_silent(client)
        say(client)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b""
    wait_until(lambda: connections(PORTS["echo"]) == 0, seconds(PATIENCE), "the connection ends")


@check("echo TCP: a half-close loses nothing of 1 MiB")
def echo_through_a_half_close(server: Server) -> None:
    """RFC 862 with RFC 9293, section 3.6: after the client's FIN the other direction is open."""
    data = random.Random(862).randbytes(1 << 20)
    for size in (4096, 1 << 20):
        with small_client(PORTS["echo"], size) as client:
            Sender(client, data, end=True)
            assert read_to_end(client) == data


@check("echo TCP: one that does not read hinders nobody")
def echo_beside_one_that_does_not_read(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service", which knows any number of clients."""
    with small_client(PORTS["echo"], 4096) as deaf:
        fill(deaf, b"x" * 99 + b"\n")
        for _ in range(10):
            with server.connect("echo") as client:
                say(client)


@check("echo TCP: 100 connections at once")
def echo_to_a_hundred(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service": "once a connection is established"."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect("echo")) for _ in range(100)]
        for number, client in enumerate(clients):
            say(client, b"client %d\n" % number)


@check("echo TCP: 1000 connections in a row within 10 s")
def echo_to_a_thousand(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service": that it is asked often is no reason to pause."""
    begun = time.monotonic()
    for number in range(1000):
        with server.connect("echo") as client:
            say(client, b"client %d\n" % number)
        assert time.monotonic() - begun < seconds(10), f"{number} within 10 s"


@check("echo TCP: over IPv6", needs="IPv6")
def echo_over_ipv6(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service", over RFC 8200."""
    with server.connect("echo", "::1") as client:
        say(client)


@check("echo UDP: datagrams up to 8192 bytes come back")
def echo_of_datagrams(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service": the data is sent back in an answering datagram."""
    with server.datagrams("echo") as client:
        for size in (1, 2, 512, 1472, 1473, 8192):
            data = random.Random(size).randbytes(size)
            assert ask(client, data) == data, size


@check("echo UDP: the largest datagram, 65507 bytes")
def echo_of_the_largest_datagram(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service", with RFC 768's length and RFC 791's: 65535 - 20 - 8."""
    with server.datagrams("echo") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        data = random.Random(768).randbytes(65507)
        assert ask(client, data) == data


@check("echo UDP: an empty datagram is answered")
def echo_of_an_empty_datagram(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service"; RFC 768: a length of 8 is a datagram without data."""
    with server.datagrams("echo") as client:
        assert ask(client, b"") == b""
        assert ask(client, b"next") == b"next"


@check("echo UDP: the answer comes from the address asked")
def echo_from_the_address_that_was_asked(server: Server) -> None:
    """RFC 1122, section 4.1.3.5: the specific-destination address is the source of the answer."""
    for host in ("127.0.0.2", "127.9.8.7", HOST):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds(PATIENCE))
            client.sendto(b"who?", (host, PORTS["echo"]))
            assert client.recvfrom(100) == (b"who?", (host, PORTS["echo"]))


@check("echo UDP: those of two clients, many at once")
def echo_of_interleaved_datagrams(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service": each gets its own, and on a loopback none gets lost."""
    with server.datagrams("echo") as one, server.datagrams("echo") as two:
        for number in range(20):  # more than 50 a second are too many for xinetd
            one.send(b"one %d" % number)
            two.send(b"two %d" % number)
        for name, client in ((b"one", one), (b"two", two)):
            got = {client.recv(100) for _ in range(20)}
            assert got == {b"%s %d" % (name, number) for number in range(20)}


@check("echo UDP: over IPv6", needs="IPv6")
def echo_of_datagrams_over_ipv6(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service", over RFC 8200."""
    with server.datagrams("echo", "::1") as client:
        assert ask(client, b"six") == b"six"


# ---- discard: RFC 863 ---------------------------------------------------------------------------

@check("discard TCP: takes 1 MiB and never answers")
def discard_takes_all(server: Server) -> None:
    """RFC 863, "TCP Based Discard Service": thrown away, no response, ends when the client does."""
    with server.connect("discard") as client:
        client.sendall(random.Random(863).randbytes(1 << 20))
        assert_silent(client)
        client.sendall(b"more")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b""
    wait_until(lambda: connections(PORTS["discard"]) == 0, seconds(PATIENCE), "it ends")


@check("discard UDP: silence")
def discard_of_datagrams(server: Server) -> None:
    """RFC 863, "UDP Based Discard Service": no response is sent, nor does an error come."""
    with server.datagrams("discard") as client:
        for size in (0, 1, 512, 8192):
            client.send(b"x" * size)
        assert_silent(client)


# ---- chargen: RFC 864 ---------------------------------------------------------------------------

RING = bytes(range(32, 127))


def assert_stream(server: Server, data: bytes) -> None:
    """The bytes are a piece of what a client gets that does nothing but read."""
    assert re.fullmatch(rb"([ -~]{72}\r\n)+[ -~]{0,72}\r?", data), "not lines of 72 characters"
    with server.connect("chargen") as client:
        begin = read_exactly(client, 20000).find(data[:200])  # longer than the ring's turn
        assert begin >= 0, data[:200]
    with server.connect("chargen") as client:
        whole = read_exactly(client, begin + len(data))
    assert data == whole[begin:]


@check("chargen TCP: the pattern of RFC 864")
def chargen_pattern(server: Server) -> None:
    """RFC 864, "Data Syntax": 72 characters of the ring of 95, one further with each line."""
    with server.connect("chargen") as client:
        lines = read_exactly(client, 200 * 74).split(b"\r\n")[:-1]
    start = RING.index(lines[0][:1])
    for number, line in enumerate(lines):
        begin = (start + number) % len(RING)
        assert line == (RING + RING)[begin:begin + 72], f"line {number}: {line!r}"


@check("chargen TCP: on and on")
def chargen_goes_on(server: Server) -> None:
    """RFC 864, "TCP Based Character Generator Service": a stream of data, here 1 MiB of it."""
    with server.connect("chargen") as client:
        assert_stream(server, read_exactly(client, 1 << 20))


@check("chargen TCP: ends when the client has gone")
def chargen_ends(server: Server) -> None:
    """RFC 864, "TCP Based ...": the data is sent "until the calling user terminates"."""
    with server.connect("chargen") as client:
        read_exactly(client, 1000)
    wait_until(lambda: connections(PORTS["chargen"]) == 0, seconds(PATIENCE), "it ends")


@check("chargen TCP: a slow reader misses nothing")
def chargen_to_a_slow_reader(server: Server) -> None:
    """RFC 864, "TCP Based ...": flow control may stop the stream, and it goes on where it was."""
    with small_client(PORTS["chargen"], 4096) as client:
        got = b""
        for _ in range(50):
            got += read_exactly(client, 1000)
            time.sleep(0.01)  # the pace of this client
        time.sleep(0.5)       # and now it does something else
        assert_stream(server, got + read_exactly(client, 200000))


@check("chargen TCP: throws away what the client sends")
def chargen_ignores_its_input(server: Server) -> None:
    """RFC 864, "TCP Based ...": "any data received is thrown away"; here more than buffers hold."""
    with server.connect("chargen") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sender = Sender(client, b"thrown away\n" * 180000)
        until = time.monotonic() + seconds(PATIENCE)
        got = b""
        while sender.is_alive() and time.monotonic() < until:
            got += read_exactly(client, 1 << 16)
        assert sender.has_sent, "what the client sends is not read"
        assert_stream(server, got + read_exactly(client, 1 << 16))


@check("chargen UDP: one datagram of printable characters")
def chargen_of_datagrams(server: Server) -> None:
    """RFC 864, "UDP Based Character Generator Service": between 0 and 512 characters, at random."""
    with server.datagrams("chargen") as client:
        for _ in range(20):
            got = ask(client, b"?" * 1000)
            assert len(got) <= 512
            assert set(got) <= set(RING + b"\r\n"), got
        assert_silent(client)


@check("chargen UDP: no more comes back than was sent")
def chargen_does_not_amplify(server: Server) -> None:
    """Alert TA14-017A, "UDP-Based Amplification Attacks": chargen repays up to 358 times."""
    with server.datagrams("chargen") as client:
        for size in (1, 20, 64, 200) * 5:
            got = ask(client, b"?" * size)
            assert len(got) <= size, f"{len(got)} bytes for {size}"


# ---- daytime: RFC 867 ---------------------------------------------------------------------------

DAYTIMES = (
    "%A, %B %d, %Y %H:%M:%S-%Z",  # RFC 867: Tuesday, February 22, 1982 17:37:43-PST
    "%A, %B %d, %Y %H:%M:%S%z",   # where a zone has no name
    "%d %b %y %H:%M:%S %Z",       # RFC 867: 02 FEB 82 07:59:19 PST
    "%d %b %Y %H:%M:%S %Z",
    "%d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",       # ctime(3): RFC 867 prescribes no form
)


def seconds_of(text: str, forms: tuple[str, ...] = DAYTIMES) -> float:
    """The time that a text tells, as seconds since 1970."""
    for form in forms:
        try:
            told = time.strptime(text, form)
        except ValueError:
            continue
        if told.tm_gmtoff is not None and "%z" in form:
            return calendar.timegm(told) - told.tm_gmtoff
        return calendar.timegm(told) if re.search("UTC|GMT", text) else time.mktime(told)
    raise AssertionError(f"{text!r} is no date and time in a known form")


def assert_now(told: float) -> None:
    assert abs(told - time.time()) <= seconds(2), f"{told - time.time():.1f} s from now"


def assert_daytime(data: bytes) -> None:
    assert re.fullmatch(rb"[\x20-\x7e]+\r\n", data), f"{data!r} is not one line"
    assert_now(seconds_of(data.decode("ascii").strip()))


@check("daytime TCP: one line with the right time, then the end")
def daytime(server: Server) -> None:
    """RFC 867, "TCP Based Daytime Service" and "Daytime Syntax"."""
    with server.connect("daytime") as client:
        assert_daytime(read_to_end(client))


@check("daytime TCP: at once, no byte of the client is needed")
def daytime_at_once(server: Server) -> None:
    """RFC 867, "TCP Based ...": sent "once a connection is established"."""
    for _ in range(5):
        begun = time.monotonic()
        with server.connect("daytime") as client:
            assert read_to_end(client)
        assert time.monotonic() - begun < seconds(0.5)


@check("daytime TCP: what the client sent does not break the end")
def daytime_without_reset(server: Server) -> None:
    """RFC 867: data received is thrown away; left unread, it makes a reset (RFC 1122, 4.2.2.13)."""
    for _ in range(5):
        with server.halted():
            client = server.connect("daytime")
            client.sendall(b"what time is it?\r\n")
        with client:
            assert_daytime(read_to_end(client))


@check("daytime UDP: one line in one datagram")
def daytime_of_datagrams(server: Server) -> None:
    """RFC 867, "UDP Based Daytime Service": the data of the asking datagram is ignored."""
    with server.datagrams("daytime") as client:
        for data in (b"", b"?", b"x" * 512):
            assert_daytime(ask(client, data))
        assert_silent(client)


# ---- time: RFC 868 ------------------------------------------------------------------------------

SINCE_1900 = 2208988800  # RFC 868: "the time 2,208,988,800 corresponds to 00:00 1 Jan 1970 GMT"


def assert_time(data: bytes) -> None:
    assert len(data) == 4, f"{data!r} is not 32 bits"
    assert_now(int.from_bytes(data, "big") - SINCE_1900)


@check("time TCP: 32 bits with the right time, then the end")
def time_of_day(server: Server) -> None:
    """RFC 868, "When used via TCP"; RFC 1700: the highest byte comes first."""
    with server.connect("time") as client:
        assert_time(read_to_end(client))


@check("time TCP: what the client sent does not break the end")
def time_without_reset(server: Server) -> None:
    """RFC 868, "When used via TCP": S sends the time, then both close; no reset comes."""
    for _ in range(5):
        with server.halted():
            client = server.connect("time")
            client.sendall(b"what time is it?\r\n")
        with client:
            assert_time(read_to_end(client))


@check("time UDP: 32 bits with the right time")
def time_of_datagrams(server: Server) -> None:
    """RFC 868, "When used via UDP": U sends an empty datagram."""
    with server.datagrams("time") as client:
        for data in (b"", b"?"):
            assert_time(ask(client, data))
        assert_silent(client)


# ---- Programs of others -------------------------------------------------------------------------

def peers_folder() -> Path | None:
    given = os.environ.get("ECHOD_PEERS", "")
    return Path(given).resolve() if given else None


def run(program: str, *words: str, data: bytes = b"") -> bytes:
    """What a client from the folder of peers prints."""
    folder = peers_folder()
    done = subprocess.run([str(folder / program), *words], env=environment(folder), input=data,
                          capture_output=True, timeout=seconds(2 * PATIENCE), check=False)
    assert done.returncode == 0, f"{program}: {done.returncode}, {done.stderr.decode()}"
    return done.stdout


def assert_rdate(*options: str) -> None:
    told = run("usr/sbin/rdate", "-p", *options, HOST).decode().strip()
    assert_now(seconds_of(told, ("%a %b %d %H:%M:%S %Z %Y",)))


@check("time TCP: rdate reads it", needs="clients")
def rdate_over_tcp(server: Server) -> None:
    """RFC 868, as OpenRdate understands it."""
    assert_rdate()


@check("time UDP: rdate -u reads it", needs="clients")
def rdate_over_udp(server: Server) -> None:
    """RFC 868, as OpenRdate understands it."""
    assert_rdate("-u")


@check("echo TCP: socat and nc get back what they send", needs="clients")
def echo_to_other_clients(server: Server) -> None:
    """RFC 862, "TCP Based Echo Service"."""
    data = random.Random(862).randbytes(200000)
    assert run("usr/bin/socat", "-t5", "-", f"TCP4:{HOST}:7", data=data) == data
    assert run("bin/nc.openbsd", "-N", HOST, "7", data=data) == data


@check("echo UDP: socat gets back what it sends", needs="clients")
def echo_of_datagrams_to_other_clients(server: Server) -> None:
    """RFC 862, "UDP Based Echo Service"; socat waits for half a second for more."""
    assert run("usr/bin/socat", "-t0.5", "-", f"UDP4:{HOST}:7", data=b"hello\n") == b"hello\n"


# ---- Loops --------------------------------------------------------------------------------------

@check("UDP: no answer to the ports of such servers")
def no_loop(server: Server) -> None:
    """
    Advisory CA-1996-01, "UDP Port Denial-of-Service Attack": a datagram with a forged source makes
    two servers answer each other for ever.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.bind(("127.0.0.9", 0))
        raw.settimeout(seconds(PATIENCE))
        answering = [name for name in PORTS if name != "discard"]

        def forge(source: int, service: str) -> None:
            head = struct.pack("!HHHH", source, PORTS[service], 8 + 5, 0)  # RFC 768
            raw.sendto(head + b"hello", (HOST, 0))

        for name in answering:
            forge(40000, name)  # an ordinary client's port: so the way there and back is open
            packet = raw.recv(65536)
            head = packet[(packet[0] & 15) * 4:][:4]
            assert struct.unpack("!HH", head) == (PORTS[name], 40000), name
        for name in answering:
            for source in PORTS.values():
                forge(source, name)
        raw.settimeout(seconds(SILENCE))
        with pytest.raises(socket.timeout):
            head = raw.recv(65536)[20:24]
            raise AssertionError("an answer from port %d to port %d" % struct.unpack("!HH", head))


# ---- The table ----------------------------------------------------------------------------------

OK, FAILS, NOT_RUN = "ok", "fails", "not run"
COLUMN = 10


class Column(threading.Thread):
    """All checks against one server, in a thread that goes from network to network."""

    def __init__(self, server: Server, missing: set[str]) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.missing = missing
        self.over = False
        self.cells: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.not_started: BaseException | None = None

    def run(self) -> None:
        try:
            for row, needs, function in CHECKS:
                if self.over:
                    return
                if needs in self.missing:
                    self.cells[row] = NOT_RUN
                    continue
                enter_private_network()
                self.server.start()
                try:
                    self._check(row, function)
                finally:
                    self.server.stop()
        except BaseException as error:  # told by the test, in its own thread
            self.not_started = error

    def _check(self, row: str, function: Check) -> None:
        try:
            function(self.server)
            self.cells[row] = OK
        except (AssertionError, OSError, ValueError, IndexError, subprocess.SubprocessError,
                pytest.fail.Exception) as error:
            self.cells[row] = FAILS
            self.reasons[row] = f"{type(error).__name__}: {str(error).strip()[:300]}"


def table(columns: list[Column]) -> str:
    width = max(len(row) for row, _, _ in CHECKS) + 2
    lines = ["".ljust(width) + "".join(c.server.name.ljust(COLUMN) for c in columns)]
    for row, _, _ in CHECKS:
        cells = "".join(column.cells.get(row, "").ljust(COLUMN) for column in columns)
        lines.append(row.ljust(width) + cells)
    for column in columns:
        for row, reason in column.reasons.items():
            lines += ["", f"{column.server.name}, {row}:"]
            lines += [f"    {line}" for line in reason.splitlines()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def test_peers(echod: Echod, tmp_path: Path) -> None:
    """Every check holds for echod; what holds for the others is told."""
    peers = peers_folder()
    servers: list[Server] = [ThisEchod(echod)]
    missing = set() if has_ipv6() else {"IPv6"}
    if peers is None:
        missing.add("clients")
    else:
        servers += [Xinetd(peers, tmp_path), Inetd(peers, tmp_path)]
    columns = [Column(server, missing) for server in servers]
    try:
        for column in columns:
            column.start()
        for column in columns:
            column.join()
    finally:
        for column in columns:
            column.over = True  # if the test was interrupted
        for column in columns:
            column.join(seconds(30))
        for server in servers[1:]:
            server.stop()
    text = table(columns)
    print("\n" + text)
    Path(os.environ.get("ECHOD_PEERS_TABLE") or tmp_path / "peers.txt").write_text(text)
    for column in columns:
        if column.not_started is not None:
            raise column.not_started
    assert columns[0].reasons == {}
    if peers is None:
        pytest.skip("echod passes; the others need ECHOD_PEERS, the folder of contrib/peers.sh")
