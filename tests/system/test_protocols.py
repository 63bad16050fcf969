"""
What each protocol promises beside its RFC (test_peers.py): the settings of lines, what whoami
tells, and that no client can hold memory, take time or break a reply that is not its own.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from clients import fill, say, small_client
from echod import FACTOR, Echod, read_exactly, read_to_end, seconds
from procfs import Process, wait_until
from test_peers import (HOST, RING, assert_daytime, assert_now, assert_time, ask, environment,
                        peers_folder, seconds_of)

DELIMITERS = {"lf": b"\n", "crlf": b"\r\n", "nul": b"\0"}
TRANSFORMS = ("none", "upper", "lower", "reverse", "hex")
UPPER = bytes(c - 32 if 97 <= c <= 122 else c for c in range(256))
LOWER = bytes(c + 32 if 65 <= c <= 90 else c for c in range(256))


def counter(echod: Echod, name: str) -> int:
    return echod.status()["counters"][name]


def await_counter(echod: Echod, name: str, value: int) -> None:
    wait_until(lambda: counter(echod, name) == value, seconds(10), f"{name} is {value}")


def anonymous_kib(process: Process) -> int:
    """What the process itself has in memory, from files apart."""
    return int(process.status["RssAnon"].split()[0])


def send_in_pieces(client: socket.socket, data: bytes, choose: random.Random,
                   end: bool = True) -> threading.Thread:
    """Send beside the reading, cut at random; the server may end first."""
    def send() -> None:
        at = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while at < len(data):
                step = choose.choice((1, 7, 100, 1460, 5000, 65536))
                client.sendall(data[at:at + step])
                at += step
            if end:
                client.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def conversation(port: int, data: bytes, seed: int, size: int = 1 << 20) -> bytes:
    """All that comes back for these bytes, cut at random, and the end of file behind them."""
    with small_client(port, size) as client:
        sender = send_in_pieces(client, data, random.Random(seed))
        got = read_to_end(client)
        sender.join(seconds(20))
        return got


# ---- Settings of the line protocol --------------------------------------------------------------

def transformed(text: bytes, how: str) -> bytes:
    return {"none": text, "upper": text.translate(UPPER), "lower": text.translate(LOWER),
            "reverse": text[::-1], "hex": text.hex().encode()}[how]


def lines_of(data: bytes, delimiter: str) -> list[tuple[bytes, bytes]]:
    """Text and delimiter of each line; the last may have none. A CR before the LF belongs to it."""
    end = {"lf": rb"\r?\n", "crlf": rb"\r\n", "nul": rb"\0"}[delimiter]
    found = [(m[1], m[2]) for m in re.finditer(rb"(?s)(.*?)(" + end + rb"|\Z)", data)]
    return [(text, mark) for text, mark in found if text or mark]


def answer(data: bytes, delimiter: str, how: str) -> bytes:
    return b"".join(transformed(text, how) + mark for text, mark in lines_of(data, delimiter))


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_delimiter_and_transform(echod: Echod, delimiter: str) -> None:
    """Each way to end a line with each way to change it; the delimiter stays as it came."""
    ports = {how: echod.another_port() for how in TRANSFORMS}
    echod.configure(*(echod.service(how, listen=[f"{HOST}:{port}"], delimiter=delimiter, workers=1,
                                    max_lines=0, transform=how) for how, port in ports.items()))
    echod.start()
    choose = random.Random(delimiter)
    texts = [b"", b"Hello, World", b"\r", b"\n", b"\0", b"\r\r\n\n\0\r", bytes(range(256)),
             "Grüße, ÄÖÜ".encode(), "Grüße, ÄÖÜ".encode("latin-1"),
             bytes(choose.choices(b"aZ\r\n\0\xff", k=20000))]
    for how, port in ports.items():
        for number, text in enumerate(texts):
            data = text + DELIMITERS[delimiter]
            with echod.connect(port=port) as client:
                client.sendall(data)
                expected = answer(data, delimiter, how)
                assert read_exactly(client, len(expected)) == expected, (how, text[:50])
            assert conversation(port, data + text, number) == \
                answer(data + text, delimiter, how), (how, text[:50])


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_max_lines_counts_delimiters(echod: Echod, delimiter: str) -> None:
    """After the third line the connection ends, whatever has come behind it."""
    echod.configure(echod.service(max_lines=3, delimiter=delimiter))
    echod.start()
    end = DELIMITERS[delimiter]
    other = b"\0" if delimiter == "lf" else b"\n"
    for rest in (b"", b"tail", end, b"x" * 100000):
        data = b"one" + end + end + b"th" + other + b"ree" + end
        assert echod.echo(data + rest) == data
    assert echod.echo(b"one" + end + b"tail") == b"one" + end + b"tail"


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_long_line_closes(echod: Echod, delimiter: str) -> None:
    """max_line counts the delimiter: so long is answered; one byte more ends the connection."""
    end = DELIMITERS[delimiter]
    echod.configure(echod.service(max_lines=0, max_line=100, delimiter=delimiter,
                                  on_long_line="close"))
    echod.start()
    longest = b"x" * (100 - len(end)) + end
    with echod.connect() as client:
        say(client, longest)
        say(client, end)
        client.sendall(b"good" + end + b"x" + longest + b"more" + end)
        assert read_to_end(client) == b"good" + end
    await_counter(echod, "too_long", 1)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_long_line_is_split(echod: Echod, delimiter: str) -> None:
    """Nothing is lost nor added between the pieces, and a line in pieces is one line."""
    end = DELIMITERS[delimiter]
    echod.configure(echod.service(max_lines=0, max_line=100, delimiter=delimiter,
                                  on_long_line="split"))
    echod.start()
    choose = random.Random(delimiter)
    for size in (0, 1, 98, 99, 100, 101, 199, 200, 201, 100000):
        text = bytes(choose.choices(b"abc\r", k=size)) if size < 100000 else b"y" * size
        data = text + end + b"next" + end
        assert conversation(echod.port, data, size) == data, size
        assert conversation(echod.port, text, size) == text, size
    assert counter(echod, "too_long") == 0
    before = counter(echod, "requests")
    data = b"z" * 12345 + end + b"short" + end
    assert conversation(echod.port, data, 1) == data
    await_counter(echod, "requests", before + 2)


def test_pieces_of_a_long_line_are_transformed_one_by_one(echod: Echod) -> None:
    """Each has max_line bytes, however the line was cut on its way."""
    ports = {how: echod.another_port() for how in ("reverse", "hex", "upper")}
    echod.configure(*(echod.service(how, listen=[f"{HOST}:{port}"], max_lines=0, max_line=10,
                                    on_long_line="split", transform=how)
                      for how, port in ports.items()))
    echod.start()
    text = bytes(random.Random(10).choices(b"abcdefgh", k=3333))
    pieces = [text[at:at + 10] for at in range(0, len(text), 10)]
    for how, port in ports.items():
        for seed in range(3):
            assert conversation(port, text + b"\n", seed) == \
                b"".join(transformed(piece, how) for piece in pieces) + b"\n", how


def test_greeting(echod: Echod) -> None:
    """Said before the client says anything; each field is what the client knows, too."""
    echod.configure(echod.service(
        max_lines=0, workers=1,
        greeting=r"%host|%peer|%local|%port|%service|%worker|%time|%pid|100%%\t\\|\r\n"))
    echod.start()
    begun = time.monotonic()
    with echod.connect() as client:
        line = b""
        while not line.endswith(b"\r\n"):
            line += read_exactly(client, 1) or pytest.fail(f"no greeting but {line!r}")
        assert time.monotonic() - begun < seconds(0.9), "it waited for the client"
        host, peer, local, port, service, worker, now, pid, rest = line.decode().split("|", 8)
        own = client.getsockname()
        assert host == socket.gethostname()
        assert (peer, local) == (f"{own[0]}:{own[1]}", f"{HOST}:{echod.port}")
        assert (port, service, worker) == (str(echod.port), "line", "line/0")
        assert_now(datetime.datetime.fromisoformat(now.replace("Z", "+00:00")).timestamp())
        assert int(pid) == echod.workers()[0].pid
        assert rest == "100%\t\\|\r\n"
        say(client)


def test_greeting_comes_once_and_is_no_line(echod: Echod) -> None:
    """max_lines counts what is answered."""
    echod.configure(echod.service(max_lines=1, greeting=r"hello\n"))
    echod.start()
    assert echod.echo(b"one\ntwo\n") == b"hello\none\n"
    assert echod.echo(b"") == b"hello\n"


# ---- Nothing is lost ----------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", ["line", "echo"])
@pytest.mark.parametrize("seed", range(4))
def test_half_close_with_1_mib_in_flight(echod: Echod, protocol: str, seed: int) -> None:
    """However it was cut and however small the buffers, all comes back, then the end."""
    keys = {"max_lines": 0} if protocol == "line" else {}
    echod.configure(echod.service(protocol=protocol, **keys))
    echod.start()
    data = random.Random(seed).randbytes(1 << 20)
    assert conversation(echod.port, data, seed, (2048, 4096, 30000, 1 << 20)[seed]) == data


# ---- Memory -------------------------------------------------------------------------------------

# A build for finding faults moves a hundredth of the bytes, and its memory tells nothing.
MUCH = 1 << 30 if FACTOR == 1 else 16 << 20


def fed(echod: Echod) -> Process:
    """The one worker, which has had a connection with all its buffers before."""
    [worker] = echod.workers()
    assert echod.echo(b"x" * 60000 + b"\n" + b"x" * 300000)
    return worker


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_endless_line_is_refused(echod: Echod) -> None:
    """
    With on_long_line = "close", a line without an end is over at max_line: nothing comes back, what
    follows is not kept, and who sends on is cut off.
    """
    echod.configure(echod.service(max_lines=0, workers=1))
    echod.start()
    worker = fed(echod)
    await_counter(echod, "too_long", 1)
    before, taken = anonymous_kib(worker), counter(echod, "bytes_in")
    block = b"x" * (1 << 18)
    grown = 0
    with echod.connect() as client:
        begun = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - begun < seconds(10):
                client.sendall(block)
                grown = max(grown, anonymous_kib(worker) - before)
    await_counter(echod, "too_long", 2)
    counters = echod.status()["counters"]
    assert counters["bytes_in"] - taken < 1 << 20
    assert counters["bytes_out"] == 60001
    assert grown < 1024 or echod.sanitized, f"{grown} KiB"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_endless_line_streams_when_it_is_split(echod: Echod) -> None:
    """A GiB without a newline goes through a worker whose memory stays as it was."""
    echod.configure(echod.service(max_lines=0, workers=1, on_long_line="split"))
    echod.start()
    worker = fed(echod)
    before = anonymous_kib(worker)
    block = random.Random(30).randbytes(1 << 20).replace(b"\n", b"\0").replace(b"\r", b"\0")
    grown = 0
    with echod.connect() as client:
        def send() -> None:
            with contextlib.suppress(OSError):
                for _ in range(MUCH // len(block)):
                    client.sendall(block)
                client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        room = bytearray(len(block))
        for number in range(MUCH // len(block)):
            have = 0
            while have < len(room) and (n := client.recv_into(memoryview(room)[have:])):
                have += n
            assert room == block, f"MiB {number}"
            if number % 16 == 0:
                grown = max(grown, anonymous_kib(worker) - before)
        assert client.recv(1) == b""
        sender.join()
    assert grown < 1024 or echod.sanitized, f"{grown} KiB"


def settled(read: Any, what: str) -> Any:
    """The value of a number that has stopped to change: the same for a third of a second."""
    seen = [(read(), time.monotonic())]

    def same() -> bool:
        now = read()
        if now != seen[0][0]:
            seen[0] = (now, time.monotonic())
        return time.monotonic() - seen[0][1] > seconds(0.3)
    wait_until(same, seconds(20), what)
    return seen[0][0]


@pytest.mark.parametrize("keys", [
    {"protocol": "echo"}, {"protocol": "chargen"}, {"max_lines": 0, "transform": "hex"},
    {"max_lines": 0, "transform": "upper", "on_long_line": "split", "max_line": 50},
], ids=["echo", "chargen", "hex", "split"])
def test_client_that_never_reads_holds_max_pending(echod: Echod, keys: dict[str, Any]) -> None:
    """The worker's memory is bounded by it, whatever makes the bytes that wait."""
    echod.configure(echod.service(workers=1, max_pending="64k", write_timeout="1h",
                                  send_buffer="16k", **keys))
    echod.start()
    [worker] = echod.workers()
    with echod.connect() as client:
        client.sendall(b"warm\n")
        assert read_exactly(client, 5)
    before = anonymous_kib(worker)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(small_client(echod.port, 4096)) for _ in range(8)]
        fillers = [threading.Thread(target=fill, args=(client, b"x" * 99 + b"\n"))
                   for client in clients if keys.get("protocol") != "chargen"]
        for filler in fillers:
            filler.start()
        for filler in fillers:
            filler.join()
        settled(lambda: counter(echod, "bytes_out"), "nothing more goes out")
        grown = anonymous_kib(worker) - before
        with echod.connect() as other:
            other.sendall(b"more\n")
            assert read_exactly(other, 5)
    if not echod.sanitized:
        # 64 KiB for each, twice that at most by the chunks it is kept in.
        assert grown < 8 * 128 + 256, f"{grown} KiB"


# ---- Many that are slow -------------------------------------------------------------------------

SLOW_CLIENTS = 10000 if FACTOR == 1 else 1000
PROCESSES = 2
TURNS = 100  # 5 s


def slow_clients(port: int, clients: int, turns: int, source: str) -> None:
    """A process of its own: so many connections, each of which sends a byte every so many turns."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    alive = []
    for _ in range(clients):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        client.bind((source, 0))
        client.connect((HOST, port))
        client.setblocking(False)
        alive.append(client)
    print("connected", flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    turn = 0
    while not ended.wait(0.05):  # the pace
        for client in alive[turn::turns]:
            client.send(b"s")
        turn = (turn + 1) % turns
    for client in alive:
        with contextlib.suppress(BlockingIOError):
            assert client.recv(1) != b"", "a connection was ended"
    print("all alive", flush=True)


@contextlib.contextmanager
def crowd(port: int, clients: int, turns: int) -> Iterator[None]:
    """So many slow clients, from the first to the last line of the block."""
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(PROCESSES):
            order = json.dumps([port, clients // PROCESSES, turns, f"127.1.1.{number + 1}"])
            processes.append(subprocess.Popen([sys.executable, __file__, order], text=True,
                                              stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(processes[-1].communicate)
            stack.callback(processes[-1].kill)
        for process in processes:
            assert process.stdout.readline() == "connected\n"
        yield
        for process in processes:
            process.stdin.close()
            process.stdin = None
            assert process.stdout.readline() == "all alive\n"


LINE = b"a normal line\n"


def round_trip(client: socket.socket) -> float:
    begun = time.perf_counter()
    say(client, LINE)
    return time.perf_counter() - begun


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_thousand_slow_clients_slow_nobody(echod: Echod) -> None:
    """
    The median of a normal client's round trips beside them is that of a service where a hundred
    send as many bytes. Both are asked in turns, so what else the machine does is the same for both.
    """
    quiet = echod.another_port()
    echod.configure(
        echod.service("crowded", workers=1, max_lines=0, defer_accept=0),
        echod.service("quiet", workers=1, max_lines=0, defer_accept=0,
                      listen=[f"{HOST}:{quiet}"]))
    echod.start()
    limit = int(echod.workers()[0].limit("Max open files")[0])
    few = min(SLOW_CLIENTS, limit - 100) // TURNS // PROCESSES * PROCESSES
    many = few * TURNS
    with contextlib.ExitStack() as stack:
        stack.enter_context(crowd(echod.port, many, TURNS))
        stack.enter_context(crowd(quiet, few, 1))
        beside = stack.enter_context(echod.connect())
        alone = stack.enter_context(echod.connect(port=quiet))
        wait_until(lambda: echod.service_status("crowded")["connections"] == many + 1,
                   seconds(20), "all are served")
        ratios: list[float] = []
        while len(ratios) < 3 and not (ratios and ratios[-1] < 2):
            times: list[tuple[float, float]] = []
            until = counter(echod, "bytes_in") + 2 * many  # each of the many has sent one of these
            while counter(echod, "bytes_in") < until + len(times) * 2 * len(LINE):
                times += [(round_trip(beside), round_trip(alone)) for _ in range(50)]
            ratios.append(statistics.median(t[0] for t in times)
                          / statistics.median(t[1] for t in times))
        print(f"{many} slow clients: {ratios[-1]:.2f} times the round trip beside {few}")
        assert ratios[-1] < 2, ratios


# ---- whoami -------------------------------------------------------------------------------------

def tcp_info(client: socket.socket) -> bytes:
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


def whoami(client: socket.socket) -> dict[str, Any]:
    """What a stream service says: one line, then the end."""
    text = read_to_end(client)
    assert text.count(b"\n") == 1 and text.endswith(b"\n"), text
    return json.loads(text)


def assert_common(told: dict[str, Any], transport: str) -> None:
    """What is the same for all clients of the one worker."""
    assert set(told) == {"service", "host", "worker", "transport", "time", "peer", "local", "ttl",
                         "dscp", "ecn", "tcp", "proxy"}
    assert (told["service"], told["worker"]) == ("me", "me/0")
    assert told["host"] == socket.gethostname()
    assert told["transport"] == transport
    assert told["proxy"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["time"])
    assert_now(datetime.datetime.fromisoformat(told["time"].replace("Z", "+00:00")).timestamp())


def ask_whoami(echod: Echod, *listen: str, **keys: Any) -> None:
    echod.configure(echod.service("me", protocol="whoami", workers=1, listen=list(listen), **keys))
    echod.start()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


FAMILIES = [
    pytest.param("127.0.0.3", id="IPv4"),
    pytest.param("::1", id="IPv6",
                 marks=pytest.mark.skipif(not has_ipv6(), reason="needs IPv6"))]


def marked(kind: socket.SocketKind, host: str, traffic_class: int) -> socket.socket:
    """A client that sends with TTL or hop limit 77 and this TOS or traffic class."""
    if ":" in host:
        client = socket.socket(socket.AF_INET6, kind)
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 77)
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
    else:
        client = socket.socket(socket.AF_INET, kind)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
    client.settimeout(seconds(10))
    return client


@pytest.mark.parametrize("host", FAMILIES)
def test_whoami_over_tcp(echod: Echod, host: str) -> None:
    """Addresses, TTL, DSCP, and of TCP what the client's kernel says of the other side."""
    ask_whoami(echod, f"*:{echod.port}")
    with marked(socket.SOCK_STREAM, host, 46 << 2) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        begun = time.monotonic()
        client.connect((host, echod.port))
        told = whoami(client)
        took = time.monotonic() - begun
        own, other = client.getsockname(), client.getpeername()
        info = tcp_info(client)
    assert_common(told, "tcp")
    assert told["peer"] == {"address": own[0], "port": own[1]}
    assert told["local"] == {"address": other[0], "port": other[1]}
    assert (told["ttl"], told["dscp"], told["ecn"]) == (77, 46, 0)
    tcp = told["tcp"]
    timestamps = bool(info[5] & 1)  # TCPI_OPT_TIMESTAMPS: 12 bytes of each segment
    assert tcp["mss"] == 1000 - (12 if timestamps else 0)
    # What one side sends with is what the other receives with (RFC 7323, section 2.2).
    assert (tcp["receive_scale"], tcp["send_scale"]) == (info[6] & 15, info[6] >> 4)
    assert 0 < tcp["rtt_us"] <= took * 1e6 + 1000
    assert 0 <= tcp["rtt_variation_us"] <= took * 1e6 + 1000
    assert (tcp["retransmits"], tcp["mptcp"]) == (0, False)


@pytest.mark.parametrize("host", FAMILIES)
def test_whoami_over_udp(echod: Echod, host: str) -> None:
    """The datagram's own TTL, DSCP and ECN; never more bytes than were sent."""
    where = f"[{host}]" if ":" in host else host
    ask_whoami(echod, f"udp:{where}:{echod.port}")
    with marked(socket.SOCK_DGRAM, host, 46 << 2 | 1) as client:
        client.connect((host, echod.port))
        whole = ask(client, b"?" * 2000)
        told = json.loads(whole)
        own, other = client.getsockname(), client.getpeername()
        for size in (0, 1, 50):
            assert len(ask(client, b"?" * size)) == size
    assert whole.endswith(b"\n")
    assert_common(told, "udp")
    assert told["peer"] == {"address": own[0], "port": own[1]}
    assert told["local"] == {"address": other[0], "port": other[1]}
    assert (told["ttl"], told["dscp"], told["ecn"], told["tcp"]) == (77, 46, 1, None)


@pytest.mark.needs_root
def test_whoami_over_a_unix_socket(echod: Echod) -> None:
    """The process, user and group of the client, as the kernel knows them (SO_PEERCRED)."""
    path = echod.dir / "me.sock"
    ask_whoami(echod, f"unix:{path}")
    abstract, file = f"echod-test-{echod.port}", str(echod.dir / "client")
    for name, shown in ((None, None), ("\0" + abstract, "@" + abstract), (file, file)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(seconds(10))
            if name is not None:
                client.bind(name)
            client.connect(str(path))
            told = whoami(client)
        assert_common(told, "unix")
        assert told["peer"] == {"path": shown, "pid": os.getpid(), "uid": 0, "gid": os.getgid()}
        assert told["local"] == {"path": str(path)}
        assert [told[key] for key in ("ttl", "dscp", "ecn", "tcp")] == [None] * 4


def test_whoami_of_another_user(echod: Echod) -> None:
    """It is the process that connected which is told of."""
    path = echod.dir / "me.sock"
    ask_whoami(echod, f"unix:{path}")
    program = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
               "print(s.recv(65536).decode())")
    who = 65534 if os.geteuid() == 0 else os.geteuid()
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE,
                          **user) as client:
        told = json.loads(client.stdout.read())
    assert (told["peer"]["uid"], told["peer"]["pid"]) == (who, client.pid)


# ---- The small services -------------------------------------------------------------------------

def udp_client(port: int, host: str = HOST) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(seconds(10))
    client.connect((host, port))
    return client


def serve(echod: Echod, protocol: str, **keys: Any) -> None:
    """Over TCP, UDP and both kinds of Unix sockets."""
    echod.configure(echod.service(protocol, protocol=protocol, listen=[
        f"tcp:{HOST}:{echod.port}", f"udp:{HOST}:{echod.port}", f"unix:{echod.dir}/stream",
        f"unixgram:{echod.dir}/datagram"], **keys))
    echod.start()


@contextlib.contextmanager
def unix_client(path: Path, kind: socket.SocketKind) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(seconds(10))
        client.bind("")  # an address of the kernel's choice, so that there is one to answer to
        client.connect(str(path))
        yield client


def streams(echod: Echod) -> Iterator[socket.socket]:
    with echod.connect() as client:
        yield client
    with unix_client(echod.dir / "stream", socket.SOCK_STREAM) as client:
        yield client


def datagrams(echod: Echod) -> Iterator[socket.socket]:
    with udp_client(echod.port) as client:
        yield client
    with unix_client(echod.dir / "datagram", socket.SOCK_DGRAM) as client:
        yield client


@pytest.mark.parametrize("protocol", ["daytime", "time"])
@pytest.mark.valgrind_subset
def test_services_that_tell_the_time(echod: Echod, protocol: str) -> None:
    """The client needs to say nothing; what it says does not matter."""
    serve(echod, protocol)
    assert_right = {"daytime": assert_daytime, "time": assert_time}[protocol]
    for client in streams(echod):
        assert_right(read_to_end(client))
    for client in streams(echod):
        # The server may be done with it already.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"x" * 1000)
        assert_right(read_to_end(client))
    for client in datagrams(echod):
        assert_right(ask(client, b""))
        assert_right(ask(client, b"x" * 1000))


@pytest.mark.valgrind_subset
def test_discard(echod: Echod) -> None:
    """All is taken, nothing is said, and the client's end is answered by the end."""
    serve(echod, "discard")
    for client in streams(echod):
        client.sendall(b"x" * 300000)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b""
    for client in datagrams(echod):
        client.send(b"x" * 1000)
    await_counter(echod, "datagrams", 2)
    counters = echod.status()["counters"]
    assert (counters["bytes_out"], counters["datagram_replies"]) == (0, 0)


@pytest.mark.valgrind_subset
def test_chargen(echod: Echod) -> None:
    """The ring of 95 characters, from its begin for each client; in datagrams as much as asked."""
    serve(echod, "chargen")
    lines = [(RING + RING)[begin:begin + 72] + b"\r\n" for begin in range(95)] * 3
    for client in streams(echod):
        assert read_exactly(client, 3 * 95 * 74) == b"".join(lines)
    for client in datagrams(echod):
        for size in (0, 1, 74, 512, 513, 4000):
            got = ask(client, b"?" * size)
            assert len(got) <= min(size, 512)
            assert b"".join(lines).startswith(got)


def test_echo_and_line_over_every_transport(echod: Echod) -> None:
    """A datagram goes back as a whole, whatever lines there are in it."""
    data = b"one\ntwo\n" + bytes(range(256))
    for protocol, keys in (("echo", {}), ("line", {"max_lines": 0})):
        serve(echod, protocol, **keys)
        for client in streams(echod):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == data
        for client in datagrams(echod):
            for size in (0, 1, 512, 30000):
                assert ask(client, b"x" * size) == b"x" * size
            assert ask(client, data) == data
        echod.stop()


# ---- Programs of others -------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], ["-u"]], ids=["TCP", "UDP"])
def test_rdate_reads_the_time(echod: Echod, options: list[str]) -> None:
    """OpenRdate, from the folder of peers, reads this service as any other server's."""
    folder = peers_folder()
    if folder is None:
        pytest.skip("needs ECHOD_PEERS, the folder of contrib/peers.sh")
    echod.configure(echod.service("time", protocol="time", listen=[
        f"tcp:{HOST}:{echod.port}", f"udp:{HOST}:{echod.port}"]))
    echod.start()
    done = subprocess.run([str(folder / "usr/sbin/rdate"), "-p", "-o", str(echod.port), *options,
                           HOST], env=environment(folder), capture_output=True, text=True,
                          timeout=seconds(10), check=True)
    assert_now(seconds_of(done.stdout.strip(), ("%a %b %d %H:%M:%S %Z %Y",)))


if __name__ == "__main__":
    slow_clients(*json.loads(sys.argv[1]))
