"""
The small servers that the benchmark compares echod with: none of them may be fast by being wrong.

    BENCH_PROGRAMS  the folder tests/bench of a build, after "make bench-programs"; without it,
                    nothing is tested

uv and uring are built only where their libraries are, and uring needs a kernel that lets it.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from clients import Load, fill
from echod import read_to_end, seconds
from procfs import ReservedPort

PROGRAMS = ("floor", "bufferevent", "uv", "uring")
OPTIONAL = ("uv", "uring")
CANNOT = 77      # uring's exit code where the kernel does not let it
PATIENCE = 20.0  # seconds for a single step
HOST = "127.0.0.1"
LINE = 4096
LONGEST = 65507  # bytes of a datagram

# linux/udp.h
UDP_SEGMENT = 103
UDP_GRO = 104

FOLDER = os.environ.get("BENCH_PROGRAMS")

pytestmark = pytest.mark.skipif(not FOLDER, reason="BENCH_PROGRAMS names no folder")


# ---- The servers --------------------------------------------------------------------------------

def read_port(process: subprocess.Popen[bytes]) -> int:
    """The first line, once the server listens."""
    assert select.select([process.stdout], [], [], seconds(PATIENCE))[0], "it prints no port"
    return int(process.stdout.readline() or 0)


def executable(program: str) -> Path:
    path = Path(FOLDER or "") / "peers" / program
    if program in OPTIONAL and not path.exists():
        pytest.skip(f"{program} was not built: its library is missing")
    return path


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """To its end, which must come soon."""
    return subprocess.run([executable(program), *words], capture_output=True, text=True,
                          timeout=seconds(PATIENCE), check=False)


@contextlib.contextmanager
def serving(program: str, *options: str) -> Iterator[int]:
    """Serves on the port that is returned; at the end it must be there, without complaint."""
    with subprocess.Popen([executable(program), *options], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        try:
            port = read_port(process)
            if port == 0:
                why = process.stderr.read().decode()
                (pytest.skip if process.wait(seconds(PATIENCE)) == CANNOT else pytest.fail)(why)
            yield port
        finally:
            process.terminate()
        said = process.stderr.read().decode()
        assert (process.wait(seconds(PATIENCE)), said) == (-signal.SIGTERM, "")


# ---- TCP ----------------------------------------------------------------------------------------

def lines(total: int, seed: int = 1) -> bytes:
    """So many random bytes, in lines; of each seed others."""
    filling = random.Random(seed)
    sizes = [LINE] * (total // LINE) + [total % LINE] * (total % LINE > 0)
    return b"".join(filling.randbytes(size - 1).replace(b"\n", b"\r") + b"\n" for size in sizes)


def converse(talks: list[tuple[socket.socket, bytes]]) -> list[bytes]:
    """Each client sends all its data while it reads, shuts its half down, and reads to the end."""
    came = {client: bytearray() for client, _ in talks}
    unsent = {client: memoryview(data) for client, data in talks}
    unread = set(came)
    for client in came:
        client.setblocking(False)
    while unread:
        readable, writable, _ = select.select(unread, unsent, [], seconds(PATIENCE))
        assert readable or writable, (f"nothing moves: {len(unsent)} clients still send, and there "
                                      f"came back {[len(data) for data in came.values()]} bytes")
        for client in writable:
            unsent[client] = unsent[client][client.send(unsent[client][:100_000]):]
            if not unsent[client]:
                client.shutdown(socket.SHUT_WR)
                del unsent[client]
        for client in readable:
            part = client.recv(100_000)
            came[client] += part
            if not part:
                unread.remove(client)
    return [bytes(data) for data in came.values()]


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=seconds(PATIENCE))


def assert_comes_back(port: int, data: bytes) -> None:
    with connect(port) as client:
        # Not compared by pytest, which would show all the differences of a mebibyte.
        assert (converse([(client, data)]) == [data]) is True, "other bytes came back"


@pytest.mark.parametrize("program", PROGRAMS)
def test_fifty_clients_at_once_get_each_its_own_lines(program: str) -> None:
    with serving(program) as port, Load(pace=0) as load:
        load.conversations(port, 50)
        load.await_all()
        load.assert_flows(2000)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("size", (LINE, 1 << 20))
def test_a_stream_comes_back_whole_after_the_client_has_ended_its_half(
        program: str, size: int) -> None:
    with serving(program) as port:
        for seed in range(10):
            assert_comes_back(port, lines(size, seed))


@pytest.mark.parametrize("program", PROGRAMS)
def test_eight_streams_at_once_come_back_whole(program: str) -> None:
    with serving(program) as port, contextlib.ExitStack() as stack:
        talks = [(stack.enter_context(connect(port)), lines(1 << 20, seed)) for seed in range(8)]
        same = [came == data for came, (_, data) in zip(converse(talks), talks)]
    assert same == [True] * 8


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_has_no_line_feed_comes_back_at_the_end_of_the_stream(program: str) -> None:
    with serving(program) as port:
        assert_comes_back(port, b"a line\nand a half")
        assert_comes_back(port, b"")


# bufferevent would take it all into memory, without end.
@pytest.mark.parametrize("program", ("floor", "uv", "uring"))
def test_a_client_that_reads_late_gets_all_and_others_are_served_then(program: str) -> None:
    line = lines(LINE)
    with serving(program) as port, connect(port) as client:
        sent = fill(client, line)
        client.shutdown(socket.SHUT_WR)
        came = read_to_end(client)
        assert len(came) == sent
        assert (came == (line * (1 + sent // LINE))[:sent]) is True, "other bytes came back"
        assert_comes_back(port, line)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client_that_resets_its_connection_disturbs_nobody(program: str) -> None:
    with serving(program) as port:
        for size in (0, 1, 1 << 18):
            with connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.send(b"x" * size)
        assert_comes_back(port, lines(LINE))


def one_line_each(port: int, clients: int) -> None:
    """Clients at once that send a line in one piece, and get it and the end of file."""
    with contextlib.ExitStack() as stack:
        talks = [(stack.enter_context(connect(port)), lines(32, seed)) for seed in range(clients)]
        for client, line in talks:
            client.sendall(line)
        assert [read_to_end(client) for client, _ in talks] == [line for _, line in talks]


@pytest.mark.parametrize("program", PROGRAMS)
def test_once_closes_after_one_line(program: str) -> None:
    with serving(program, "--once") as port:
        for size in (1, 32, LINE):
            with connect(port) as client:
                client.sendall(lines(size))
                assert read_to_end(client) == lines(size)
        with connect(port):
            pass  # without a word
        for _ in range(20):
            one_line_each(port, 50)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_port_can_be_given(program: str) -> None:
    port = ReservedPort()
    with serving(program, "--port", str(port.number)) as same:
        assert same == port.number
        assert_comes_back(same, b"a line\n")
    port.release()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", (["--port", "65536"], ["--port", "x"], ["--port"], ["--what"],
                                   ["word"]))
def test_what_is_not_understood_is_said(program: str, words: list[str]) -> None:
    done = run(program, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{program}: ") or f"/{program}: " in done.stderr


# ---- UDP ----------------------------------------------------------------------------------------

FORMS = ((), ("--pktinfo",), ("--gro",), ("--pktinfo", "--gro"))


def datagram_client(port: int, host: str = HOST) -> socket.socket:
    """It hears only what comes from the very address and port that it asks."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(seconds(PATIENCE))
    client.connect((host, port))
    return client


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", (0, 1, 32, 1400, 9000, LONGEST))
def test_a_datagram_comes_back(form: tuple[str, ...], size: int) -> None:
    with serving("floor", "--udp", *form) as port, datagram_client(port) as client:
        for seed in range(10):
            data = random.Random(seed).randbytes(size)
            client.send(data)
            assert client.recv(LONGEST + 1) == data


@pytest.mark.parametrize("form", FORMS)
def test_fifty_sockets_get_each_its_own_datagrams(form: tuple[str, ...]) -> None:
    with serving("floor", "--udp", *form) as port, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(datagram_client(port)) for _ in range(50)]
        for number in range(40):
            said = [f"{number} of {client.getsockname()}".encode() for client in clients]
            for client, data in zip(clients, said):
                client.send(data)
            assert [client.recv(LONGEST) for client in clients] == said


@pytest.mark.parametrize("form", [form for form in FORMS if "--pktinfo" in form])
def test_pktinfo_answers_from_the_address_that_was_asked(form: tuple[str, ...]) -> None:
    with serving("floor", "--udp", *form) as port:
        for host in ("127.0.0.1", "127.0.0.2", "127.255.255.254"):
            with datagram_client(port, host) as client:
                client.send(host.encode())
                assert client.recv(LONGEST) == host.encode()


def send_train(client: socket.socket, data: bytes, size: int) -> None:
    """All of it in one call, as datagrams of this size; the last may be shorter."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", size))]
    assert client.sendmsg([data], control) == len(data)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size, total", ((32, 320), (32, 64 * 32), (1400, 20 * 1400 + 1),
                                         (1400, 1401), (30000, LONGEST)))
def test_a_train_comes_back_as_the_datagrams_that_it_brought(
        form: tuple[str, ...], size: int, total: int) -> None:
    data = random.Random(total).randbytes(total)
    with serving("floor", "--udp", *form) as port, datagram_client(port) as client:
        send_train(client, data, size)
        came = [client.recv(LONGEST) for _ in range(0, total, size)]
    assert (came == [data[at:at + size] for at in range(0, total, size)]) is True


@pytest.mark.parametrize("form", FORMS)
def test_gro_answers_a_train_with_one_train(form: tuple[str, ...]) -> None:
    data = random.Random(1).randbytes(20 * 1400)
    with serving("floor", "--udp", *form) as port, datagram_client(port) as client:
        client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        send_train(client, data, 1400)
        came, control, _, _ = client.recvmsg(LONGEST, socket.CMSG_SPACE(4))
    if "--gro" in form:
        assert came == data
        assert control == [(socket.IPPROTO_UDP, UDP_GRO, struct.pack("i", 1400))]
    else:
        assert (came, control) == (data[:1400], [])


@pytest.mark.parametrize("words", (["--once", "--udp"], ["--pktinfo"], ["--gro"]))
def test_what_does_not_go_together_is_said(words: list[str]) -> None:
    done = run("floor", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--once is for TCP" in done.stderr
