"""What clients are promised: their bytes, their limits, and that every end has its reason."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from itertools import combinations

import pytest

from clients import fill, say, small_client
from echod import Echod, read_exactly, read_to_end, seconds
from procfs import Process, wait_until


@pytest.fixture
def talking(echod: Echod) -> Echod:
    """A running daemon for conversations of many lines."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 2})
    echod.start()
    return echod


def counter(echod: Echod, name: str) -> int:
    return echod.status()["counters"][name]


def await_counter(echod: Echod, name: str, value: int) -> None:
    wait_until(lambda: counter(echod, name) == value, seconds(10), f"{name} is {value}")


def await_nobody(echod: Echod) -> None:
    wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(10), "all have gone")


def send_all(client: socket.socket, data: bytes) -> threading.Thread:
    """Send beside the reading, as both directions may fill up. The other side may end first."""
    def send() -> None:
        try:
            client.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
    thread = threading.Thread(target=send)
    thread.start()
    return thread


# ---- The line protocol --------------------------------------------------------------------------

@pytest.mark.valgrind_subset
def test_one_line_and_the_connection_closes(echod: Echod) -> None:
    """The built-in service: one line comes back, then the end, whatever follows."""
    echod.start()
    for line in (b"hello\n", b"\n", b"hello\r\n", b"\0\n", b"\xff\xfe\n", b"x" * 60000 + b"\n"):
        with echod.connect() as client:
            client.sendall(line)
            assert read_to_end(client) == line
        assert echod.echo(line + b"more\n") == line


@pytest.mark.valgrind_subset
def test_conversation(talking: Echod) -> None:
    """max_lines = 0: line after line, each answered before the next one is sent."""
    with talking.connect() as client:
        for number in range(500):
            say(client, b"line %d\n" % number)


def test_pipelined_lines(talking: Echod) -> None:
    """Thousands at once come back in order, as one stream."""
    data = b"".join(b"%d %s\n" % (n, b"." * (n % 300)) for n in range(20000))
    with talking.connect() as client:
        sender = send_all(client, data)
        assert read_exactly(client, len(data)) == data
        sender.join()
        say(client)


def test_any_byte_goes_back(talking: Echod) -> None:
    """All 256 values; a CR before the LF is kept, and a NUL ends nothing."""
    line = bytes(n for n in range(256) if n != 10)
    with talking.connect() as client:
        say(client, line + b"\n")
        say(client, line + b"\r\n")
        say(client, b"\0\0\0\n")
        say(client, b"\r\n")


@pytest.mark.valgrind_subset
def test_every_segmentation(talking: Echod) -> None:
    """However the bytes of some lines are cut, the reply is the same."""
    data = b"a\nbc\r\n\0\n\n"
    cuts = range(1, len(data))
    with talking.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for count in range(len(data)):
            for chosen in combinations(cuts, count):
                for begin, end in zip((0, *chosen), (*chosen, len(data))):
                    client.send(data[begin:end])
                assert read_exactly(client, len(data)) == data, chosen


def test_byte_by_byte(talking: Echod) -> None:
    """Each byte is received by itself: the next one is sent when the server has counted it."""
    data = b"slow\r\nand\0sl\now\n"
    with talking.connect() as client:
        for number, byte in enumerate(data, 1):
            client.send(bytes([byte]))
            await_counter(talking, "bytes_in", number)
        assert read_exactly(client, len(data)) == data
    await_counter(talking, "requests", 3)


def test_random_segmentation_of_long_lines(talking: Echod) -> None:
    """Lines of all lengths, cut anywhere, many clients at once."""
    problems: list[str] = []

    def converse(seed: int) -> None:
        choose = random.Random(seed)
        with talking.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(30):
                sizes = choose.choices((0, 3, 510, 511, 512, 513, 5000, 65000), k=2)
                lines = b"".join(choose.randbytes(size).replace(b"\n", b"\0") + b"\n"
                                 for size in sizes)
                cuts = sorted(choose.choices(range(len(lines) + 1), k=choose.randint(0, 12)))
                for begin, end in zip([0, *cuts], [*cuts, len(lines)]):
                    client.sendall(lines[begin:end])
                if read_exactly(client, len(lines)) != lines:
                    problems.append(f"seed {seed}: wrong bytes")
                    return

    threads = [threading.Thread(target=converse, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert counter(talking, "too_long") == 0


@pytest.mark.parametrize("max_lines", [0, 1, 5])
def test_tail_without_its_end_goes_back_at_the_end_of_file(echod: Echod, max_lines: int) -> None:
    """What the client has sent is not swallowed because the LF is missing."""
    echod.settings["services.line.max_lines"] = max_lines
    echod.start()
    for data in (b"tail", b"\0", b"\r", b"x" * 5000, b""):
        assert echod.echo(data) == data
        if max_lines != 1:
            assert echod.echo(b"a line\n" + data) == b"a line\n" + data


# ---- No reply is lost at the end ----------------------------------------------------------------

THREE = [b"first\n", b"second " + b"." * 20000 + b"\n", b"third " + b":" * 30000 + b"\n"]


@pytest.mark.parametrize("extra", [1, 100, 5000, 300000])
@pytest.mark.parametrize("apart", [False, True], ids=["same segment", "later segment"])
def test_max_lines_replies_survive_what_follows(echod: Echod, extra: int, apart: bool) -> None:
    """Three lines are answered, the rest is ignored, and no reset overtakes the replies."""
    echod.settings["services.line.max_lines"] = 3
    echod.start()
    reply = b"".join(THREE)
    for repetition in range(25):
        with small_client(echod.port, 2048 if repetition % 2 else 60000) as client:
            senders = [send_all(client, reply + (b"" if apart else b"e" * extra))]
            if apart:
                senders[0].join()
                senders.append(send_all(client, b"l" * extra))
            assert read_exactly(client, len(reply)) == reply
            if not apart:
                assert client.recv(1) == b""
            for sender in senders:
                sender.join()


def test_the_last_reply_and_the_end_are_one_segment(echod: Echod) -> None:
    """SYN-ACK, acknowledgement of the line, and the reply with the FIN: tcp(7), TCP_INFO."""
    echod.start()
    arrived = []
    for _ in range(10):  # the kernel may acknowledge once more while it waits for a processor
        with echod.connect() as client:
            client.sendall(b"hello\n")
            assert read_to_end(client) == b"hello\n"
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
        arrived.append(struct.unpack_from("=I", info, 140)[0])  # tcpi_segs_in
    assert min(arrived) <= 3, arrived


def test_reply_under_way_survives_what_comes_after_the_end(echod: Echod) -> None:
    """
    The client sends on when the server has long answered and closed its side, and reads only then:
    with its window full, most of the reply still waits in the server's kernel.
    """
    echod.start()
    line = b"r" * 60000 + b"\n"
    for number in range(1, 21):
        with small_client(echod.port) as client:
            client.sendall(line)
            await_counter(echod, "requests", number)
            client.sendall(b"more\n")
            assert read_exactly(client, len(line)) == line


def test_one_line_clients_that_send_more_lose_nothing(echod: Echod) -> None:
    """Many repetitions of the usual case: a second line right behind the first, or a bit later."""
    echod.start()
    for repetition in range(1000):
        with echod.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"one\n")
            if repetition % 3 == 0:
                client.sendall(b"two\n")
            elif repetition % 3 == 1:
                client.sendall(b"t")
                try:
                    client.sendall(b"wo\nthree\n")
                except (BrokenPipeError, ConnectionResetError):
                    pass
            assert read_exactly(client, 4) == b"one\n"


# ---- Limits -------------------------------------------------------------------------------------

def test_line_as_long_as_allowed(echod: Echod) -> None:
    """max_line counts the LF: exactly so many bytes are answered, one more is too long."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.max_line": 1000})
    echod.start()
    with echod.connect() as client:
        say(client, b"x" * 999 + b"\n")
        say(client, b"\n")
        client.sendall(b"x" * 500)
        client.sendall(b"x" * 499 + b"\n")
        assert read_exactly(client, 1000) == b"x" * 999 + b"\n"
    assert echod.echo(b"t" * 999) == b"t" * 999, "a tail that could still have had its LF"
    assert counter(echod, "too_long") == 0
    assert "max_line" not in echod.log_text()


@pytest.mark.parametrize("data", [b"x" * 1000 + b"\n", b"x" * 1000, b"x" * 200000],
                         ids=["with its LF", "without", "much longer"])
def test_line_too_long_ends_the_connection(echod: Echod, data: bytes) -> None:
    """Lines before it are answered; the end is counted, and logged with the reason and the peer."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.max_line": 1000})
    echod.start()
    with echod.connect() as client:
        port = client.getsockname()[1]
        sender = send_all(client, b"good\n" + data)
        assert read_to_end(client) == b"good\n"
        sender.join()
    await_counter(echod, "too_long", 1)
    echod.await_log(rf" notice: line/\d+\[\d+\]: connection from 127\.0\.0\.1:{port} ended: "
                    r".*max_line")
    echod.assert_serves()


def test_idle_timeout(echod: Echod) -> None:
    """Silence ends a connection, with a FIN; a client that keeps talking stays."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.idle_timeout": "600ms",
                           "services.line.defer_accept": 0})
    echod.start("-v")
    with echod.connect() as silent, echod.connect() as half, echod.connect() as busy:
        half.sendall(b"half")
        begun = time.monotonic()
        ended: dict[str, float] = {}

        def watch(name: str, client: socket.socket) -> None:
            assert client.recv(1) == b""
            ended[name] = time.monotonic() - begun

        watchers = [threading.Thread(target=watch, args=pair)
                    for pair in (("silent", silent), ("half", half))]
        for watcher in watchers:
            watcher.start()
        while time.monotonic() - begun < 1.5:
            say(busy)
            time.sleep(0.02)  # the pace of this client
        for watcher in watchers:
            watcher.join(seconds(5))
        say(busy)
    assert set(ended) == {"silent", "half"}
    assert all(0.5 <= after < seconds(5) for after in ended.values()), ended
    assert counter(echod, "idle_timeouts") == 2
    echod.await_log("ended: idle_timeout", count=2)


def test_client_that_never_reads(echod: Echod) -> None:
    """It is not read from: the worker's memory stays bounded, and write_timeout ends it."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 1,
                           "services.line.max_pending": "64k", "services.line.write_timeout": "3s"})
    echod.start()
    [worker] = echod.workers()
    with echod.connect() as client:
        say(client)  # all that is allocated once, is
    before = rss_kib(worker)
    clients = [small_client(echod.port, 4096) for _ in range(8)]
    line = b"x" * 99 + b"\n"
    fillers = [threading.Thread(target=fill, args=(client, line)) for client in clients]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    with echod.connect() as other:
        say(other)
    grown = rss_kib(worker) - before
    if not echod.sanitized:
        # 64 KiB for each, twice that at most by the chunks it is kept in.
        assert grown < 8 * 128 + 256, f"{grown} KiB"
    await_counter(echod, "write_timeouts", 8)
    echod.await_log("ended: write_timeout", count=8)
    await_nobody(echod)
    for client in clients:
        client.close()


def rss_kib(process: Process) -> int:
    return int(process.status["VmRSS"].split()[0])


def test_client_that_reads_slowly_is_not_ended(echod: Echod) -> None:
    """write_timeout means taking nothing at all, not taking little; filling takes 2.5 s."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.write_timeout": "5s"})
    echod.start()
    with small_client(echod.port, 4096) as client:
        line = b"y" * 99 + b"\n"
        sent = fill(client, line)
        got = b""
        begun = time.monotonic()
        while time.monotonic() - begun < 6.5:
            got += read_exactly(client, 25000)
            time.sleep(0.1)  # the pace of this client
        assert counter(echod, "write_timeouts") == 0
        got += read_exactly(client, sent // 100 * 100 - len(got))
        assert got == line * (sent // 100)


def test_idle_connections_own_no_buffer(echod: Echod) -> None:
    """2000 that wait between two lines cost less than 1 KiB of the worker each."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 1})
    echod.start()
    [worker] = echod.workers()
    if int(worker.limit("Max open files")[0]) < 2100:
        pytest.skip("needs 2100 descriptors")
    with echod.connect() as client:
        say(client, b"x" * 60000 + b"\n")
    await_nobody(echod)
    before = anonymous_kib(worker)
    clients = []
    for _ in range(2000):
        clients.append(echod.connect())
        say(clients[-1], b"x" * 700 + b"\n")
    grown = anonymous_kib(worker) - before
    print(f"{grown / 2000 * 1024:.0f} bytes for each idle connection")
    for client in clients:
        client.close()
    if not echod.sanitized:
        assert grown < 2000, f"{grown} KiB"


def anonymous_kib(process: Process) -> int:
    """What the process itself has in memory, from files apart."""
    return int(process.status["RssAnon"].split()[0])


def test_out_of_descriptors(echod: Echod) -> None:
    """
    The others wait in the queue: pauses are counted, ten a second, said once a second at most, cost
    nothing, and end when clients leave.
    """
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 1,
                           "services.line.defer_accept": 0})
    echod.run_command(["prlimit", "--nofile=64:64", *echod.command("start")], expect=0)
    echod.adopt()
    [worker] = echod.workers()
    clients = [echod.connect() for _ in range(100)]
    wait_until(lambda: counter(echod, "accept_pauses") > 0, seconds(10))
    served = counter(echod, "accepted")
    assert 40 <= served <= 64
    begun, ticks, pauses = time.monotonic(), worker.cpu_ticks, counter(echod, "accept_pauses")
    wait_until(lambda: counter(echod, "accept_pauses") >= pauses + 15, seconds(10), "pauses go on")
    took, used = time.monotonic() - begun, worker.cpu_ticks - ticks
    grown = counter(echod, "accept_pauses") - pauses
    assert grown <= took * 11 + 2, f"{grown} pauses in {took:.1f} s"
    assert used <= os.sysconf("SC_CLK_TCK") * took * 0.1, f"{used} ticks in {took:.1f} s"
    said = len(re.findall("cannot accept a connection", echod.log_text()))
    assert 1 <= said <= took + 2
    for client in clients[:10]:
        say(client)  # those that are served do not suffer
    for client in clients[:60]:
        client.close()
    for client in clients[60:]:
        say(client)
        client.close()
    assert counter(echod, "accepted") == 100


# ---- The echo protocol --------------------------------------------------------------------------

@pytest.mark.parametrize("size", [2048, 1 << 20], ids=["tiny buffers", "large buffers"])
def test_echo_of_4_mib_through_a_half_close(echod: Echod, size: int) -> None:
    """Random bytes, cut at random; all come back after the client's FIN, then the server's."""
    echod.configure(echod.service(protocol="echo"))
    echod.start()
    choose = random.Random(size)
    data = choose.randbytes(4 << 20)
    with small_client(echod.port, size) as client:
        def send() -> None:
            at = 0
            while at < len(data):
                step = choose.choice((1, 100, 1460, 65536, 200000))
                client.sendall(data[at:at + step])
                at += step
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert read_to_end(client) == data
        sender.join()
    await_nobody(echod)
    counters = echod.status()["counters"]
    assert counters["bytes_in"] == counters["bytes_out"] == len(data)
    assert counters["requests"] == 0


def test_echo_of_a_client_that_reads_only_after_it_has_sent_all(echod: Echod) -> None:
    """As far as the buffers reach, a half-close with everything unread loses nothing."""
    echod.configure(echod.service(protocol="echo"))
    echod.start()
    data = random.Random(7).randbytes(300000)
    for _ in range(10):
        assert echod.echo(data) == data
    assert echod.echo(b"") == b""


def test_echo_knows_no_lines(echod: Echod) -> None:
    """Bytes go back as they come; limits of lines do not hold."""
    echod.configure(echod.service(protocol="echo", max_lines=1, max_line=10))
    echod.start()
    with echod.connect() as client:
        for part in (b"n", b"o end", b"\n\n\n", b"x" * 5000):
            say(client, part)
    assert counter(echod, "too_long") == 0


# ---- Where it listens ---------------------------------------------------------------------------

def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=seconds(5)).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


@needs_ipv6
def test_ipv6_and_ipv4_each_by_itself(echod: Echod) -> None:
    """[::] does not take IPv4's port: each family has its own socket."""
    echod.configure(echod.service(listen=[f"[::1]:{echod.port}"]))
    echod.start()
    assert echod.echo(host="::1") == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        echod.connect("127.0.0.1")
    echod.configure(echod.service(listen=[f"[::]:{echod.port}"]))
    echod.restart()
    assert echod.echo(host="::1") == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        echod.connect("127.0.0.1")
    echod.configure(echod.service(listen=[f"0.0.0.0:{echod.port}"]))
    echod.restart()
    assert echod.echo() == b"hello\n"
    wait_until(lambda: refused("::1", echod.port), seconds(5), "the former workers let go of [::]")


@needs_ipv6
def test_star_means_all_addresses_of_both_families(echod: Echod) -> None:
    """*:port serves 127.0.0.1, another loopback address and ::1."""
    echod.configure(echod.service(listen=[f"*:{echod.port}"]))
    echod.start("-v")
    for host in ("127.0.0.1", "127.5.6.7", "::1"):
        assert echod.echo(host=host) == b"hello\n"
    echod.await_log(r"connection from 127\.0\.0\.1:\d+ ended", count=2)
    echod.await_log(r"connection from \[::1\]:\d+ ended")


def test_names_are_resolved(echod: Echod) -> None:
    """localhost is 127.0.0.1, and ::1 where the machine says so."""
    echod.configure(echod.service(listen=[f"localhost:{echod.port}"]))
    echod.start()
    wanted = {info[4][0] for info in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    if not has_ipv6():
        wanted.discard("::1")
    for host in wanted:
        assert echod.echo(host=host) == b"hello\n"
    assert len(echod.status()["services"][0]["addresses"]) == len(wanted)


def test_two_services_in_one_configuration(echod: Echod) -> None:
    """Each has its own protocol, limits, addresses, workers; neither serves the other's clients."""
    other = echod.another_port()
    echod.configure(
        echod.service("line", max_lines=2, workers=1),
        echod.service("echo", protocol="echo", listen=[f"127.0.0.1:{other}"], workers=2))
    echod.start()
    assert echod.echo(b"1\n2\n3\n") == b"1\n2\n"
    assert echod.echo(b"1\n2\n3", port=other) == b"1\n2\n3"
    status = echod.status()
    assert sorted(p["name"] for p in status["processes"]) == ["echo/0", "echo/1", "line/0"]
    assert [(s["name"], s["protocol"], s["addresses"]) for s in status["services"]] == [
        ("line", "line", [f"127.0.0.1:{echod.port}"]), ("echo", "echo", [f"127.0.0.1:{other}"])]


def test_every_worker_serves(echod: Echod) -> None:
    """Connections are spread over the sockets of the group."""
    echod.settings.update({"services.line.workers": 3, "services.line.max_lines": 0})
    echod.start()
    clients = [echod.connect() for _ in range(120)]
    for client in clients:
        say(client)
    counts = [p["connections"] for p in echod.status()["processes"]]
    assert sum(counts) == 120 and min(counts) >= 5, counts
    for client in clients:
        client.close()


def descriptor_of(process: Process, fd: int) -> socket.socket:
    """A copy of another process's socket (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(process.pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=copy)


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="pidfd_getfd by number")
def test_listening_sockets_have_their_options(echod: Echod) -> None:
    """Set once on the listening socket; what is accepted inherits them."""
    echod.configure(echod.service(max_lines=0, workers=1, keepalive="90s", defer_accept="2s"))
    echod.start()
    with echod.connect() as client:
        say(client)
        [worker] = echod.workers()
        found = []
        for process in (echod.supervisor, worker):
            for fd, link in process.fds.items():
                if not link.startswith("socket:"):
                    continue
                with descriptor_of(process, fd) as one:
                    if one.family != socket.AF_INET:
                        continue
                    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    found.append((process is worker, bool(listens)))
                    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
                    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
                    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 90
                    assert not os.get_blocking(one.fileno())
                    if listens:
                        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 2
        assert sorted(found) == [(False, True), (True, False), (True, True)]


def test_options_of_a_socket_change_at_a_restart(echod: Echod) -> None:
    """The same socket gets what the new configuration says."""
    echod.configure(echod.service(max_lines=0, workers=1, keepalive="90s"))
    echod.start()
    echod.configure(echod.service(max_lines=0, workers=1, keepalive=0, nodelay=False,
                                  defer_accept=0))
    echod.restart()
    with echod.connect() as client:
        say(client)
        for fd, link in echod.workers()[0].fds.items():
            if not link.startswith("socket:"):
                continue
            with descriptor_of(echod.workers()[0], fd) as one:
                if one.family == socket.AF_INET:
                    assert not one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    assert not one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("how", ["stop", "SIGTERM"])
def test_rule_23_port_is_free_again_at_once(echod: Echod, how: str) -> None:
    """SO_REUSEADDR: connections in TIME_WAIT, which the server closed first, hinder nobody."""
    for _ in range(3):
        echod.start()
        for _ in range(20):
            with echod.connect() as client:
                client.sendall(b"x\n")
                assert read_to_end(client) == b"x\n"  # the server's FIN was first
        if how == "stop":
            echod.stop()
        else:
            echod.signal(15)
            echod.await_end()
        assert waiting_on(echod.port) > 0


def waiting_on(port: int) -> int:
    """Connections of this local port in TIME_WAIT."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        return sum(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "06"
                   for row in table)


# ---- What is counted and said -------------------------------------------------------------------

def test_counters_tell_what_clients_did(echod: Echod) -> None:
    """Connections, lines and bytes to the last one; what a client broke off is a reset."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.max_line": 100})
    echod.start()
    for number in range(10):
        assert echod.echo(b"12345678\n" * number) == b"12345678\n" * number
    with echod.connect() as client:
        client.sendall(b"x" * 101)
        assert read_to_end(client) == b""
    with echod.connect() as client:
        say(client, b"1\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert echod.echo(b"tail") == b"tail"
    await_nobody(echod)
    counters = echod.status()["counters"]
    assert counters["accepted"] == counters["closed"] == 13
    assert counters["requests"] == 45 + 1 + 1
    assert counters["bytes_in"] == 45 * 9 + 101 + 2 + 4
    assert counters["bytes_out"] == 45 * 9 + 2 + 4
    assert (counters["too_long"], counters["resets"]) == (1, 1)
    assert (counters["idle_timeouts"], counters["write_timeouts"], counters["cut_off"]) == (0, 0, 0)
    assert echod.status()["connections"] == {"now": 0, "total": 13}


def test_connection_is_logged_at_level_info(echod: Echod) -> None:
    """Service, peer, lines, bytes in and out, seconds, why it ended; nothing at level notice."""
    echod.settings["services.line.max_lines"] = 0
    echod.start("-v")
    with echod.connect() as client:
        port = client.getsockname()[1]
        say(client, b"1\n")
        say(client, b"22\n")
    echod.await_log(rf" info: line/\d+\[\d+\]: connection from 127\.0\.0\.1:{port} ended: "
                    rf"the client closed; 2 lines, 5 bytes in, 5 bytes out, \d+\.\d+ s$")
    echod.stop()
    echod.log_path.unlink()
    echod.start()
    for _ in range(5):
        echod.assert_serves()
    await_nobody(echod)
    assert "connection from" not in echod.log_text()


# ---- Who the workers are ------------------------------------------------------------------------

@pytest.mark.needs_root
@pytest.mark.parametrize("restarted", [False, True], ids=["after the start", "after a restart"])
def test_workers_have_no_rights(echod: Echod, restarted: bool) -> None:
    """uid, gid and groups of nobody, no capability in any set, and none to be had by exec."""
    echod.settings["user"] = "nobody"
    echod.start()
    if restarted:
        echod.restart()
    nobody = 65534
    for worker in echod.workers():
        status = worker.status
        assert worker.uids == [nobody] * 4
        assert len(set(worker.gids)) == 1 and worker.gids[0] != 0
        assert status["Groups"] == ""
        for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[field], 16) == 0, field
        assert status["NoNewPrivs"] == "1"
    assert echod.supervisor.uids == [0] * 4


def test_workers_hold_only_what_they_need(echod: Echod) -> None:
    """0 to 2, the channel, the service's sockets, and what an event loop and a poller are."""
    other = echod.another_port()
    echod.configure(
        echod.service("one", workers=2),
        echod.service("two", workers=1, max_lines=0, listen=[f"127.0.0.1:{other}"]))
    echod.start()
    for _ in range(2):
        listening = listening_inodes({echod.port, other})
        for worker in echod.workers():
            fds = worker.fds
            assert [fds.pop(fd) for fd in (0, 1, 2)] == ["/dev/null"] * 3
            sockets = {link for link in fds.values() if link.startswith("socket:")}
            service = next(p["service"] for p in echod.status()["processes"]
                           if p["pid"] == worker.pid)
            mine = 2 if service == "one" else 1
            assert len(sockets) == 1 + mine and len(sockets & listening) == mine, fds
            rest = [link for link in fds.values() if link not in sockets]
            for _ in range(2):  # the loop's, and that of its connections
                rest.remove("anon_inode:[eventpoll]")
            rest.remove("anon_inode:[timerfd]")  # of its connections' time-outs
            assert all(link.startswith(("anon_inode:[eventfd]", "pipe:")) for link in rest), rest
            assert len(rest) <= 2
        echod.restart()


def listening_inodes(ports: set[int]) -> set[str]:
    """Links of the sockets that listen on these ports of 127.0.0.1."""
    found = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        for row in list(table)[1:]:
            words = row.split()
            if words[3] == "0A" and int(words[1].split(":")[1], 16) in ports:
                found.add(f"socket:[{words[9]}]")
    return found


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_keepalive_runs_on_accepted_connections(echod: Echod) -> None:
    """As the kernel shows it: the timer of a connection that is idle."""
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    with echod.connect() as client:
        say(client)

        def timer() -> bool:
            rows = subprocess.run(["ss", "-Htno", "state", "established", "sport", "=",
                                   f":{echod.port}"], capture_output=True, text=True, check=True,
                                  timeout=seconds(10)).stdout
            return "timer:(keepalive,1min" in rows or "timer:(keepalive,2min" in rows
        wait_until(timer, seconds(5), "a keepalive timer of two minutes")
