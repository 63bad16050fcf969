"""
Load: many clients at once that check every byte.

    with Load() as load:
        load.one_line(port, clients=100)          # connect, one line, its echo, the end; again
        load.conversations(port, clients=50)      # line after line on one connection
        load.await_all()
        ...                                       # whatever the daemon has to bear
        load.assert_flows()                       # every kind of client has got on since
    load.lines, load.connections                  # what was exchanged

The end of the block waits until each client has finished what it has begun, and fails with every
fault that one of them met: a connection refused or reset, a reply that is wrong or too late.

Where workers are killed, connections break: with `Load(may_break=True)` that is no fault, but noted
in load.breaks. LoadProcess is the same in a process of its own, which leaves the test's own
processor time alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, AsyncIterator, Awaitable, Callable

from echod import seconds
from procfs import wait_until

PATIENCE = 20.0  # seconds for a single step of a client
PACE = 0.04      # seconds, at most, between two lines: the load shall not starve the daemon


@dataclass
class Kind:
    """One sort of clients: how far they have got."""

    name: str
    clients: int
    lines: int = 0
    connections: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@dataclass
class Span:
    """One conversation that has ended: the epochs in which it began and ended, and its lines."""

    begun: int
    ended: int
    lines: int


class Broken(OSError):
    """The other side ended a connection in the middle."""


@dataclass
class Break:
    """A connection that broke: whose port, and from before it began to when that was seen."""

    kind: str
    port: int
    begun: float  # time.monotonic, the same in all processes
    ended: float
    how: str


class Load:
    """Clients in a thread of their own. `epoch` is for the test to count, as restarts go by."""

    def __init__(self, seed: int = 1, pace: float = PACE, may_break: bool = False) -> None:
        self.epoch = 0
        self.spans: list[Span] = []
        self.faults: list[str] = []
        self.breaks: list[Break] = []
        self._pace = pace
        self._may_break = may_break
        self._kinds: list[Kind] = []
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.finish()
            else:
                self._call(self._cancel())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _call(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds(3 * PATIENCE))

    # ---- What the test asks for --------------------------------------------------------------

    @property
    def lines(self) -> int:
        return sum(kind.lines for kind in self._kinds)

    @property
    def connections(self) -> int:
        return sum(kind.connections for kind in self._kinds)

    def one_line(self, port: int, clients: int, host: str = "127.0.0.1") -> None:
        """Clients that connect, send a line, and must get exactly it and the end of file."""
        self._start(f"one line at {host}:{port}", clients, lambda kind: self._one_line(
            kind, host, port))

    def conversations(self, port: int, clients: int, epochs: int | None = None,
                      host: str = "127.0.0.1") -> None:
        """
        Clients that send line after line. Each conversation ends after this many epochs, and then
        the client begins another one; None: it goes on until the end of the load.
        """
        self._start(f"conversation at {host}:{port}", clients, lambda kind: self._conversation(
            kind, host, port, epochs))

    def await_all(self) -> None:
        """Every client has begun: there were at least as many connections as there are clients."""
        def begun() -> bool:
            self._assert_no_fault()
            return all(kind.connections >= kind.clients for kind in self._kinds)
        wait_until(begun, seconds(PATIENCE), "every client has connected")

    def assert_flows(self, lines: int = 1) -> None:
        """Each kind of client gets so many more lines answered."""
        before = [kind.lines for kind in self._kinds]

        def flows() -> bool:
            self._assert_no_fault()
            return all(kind.lines >= lines + n for kind, n in zip(self._kinds, before))
        wait_until(flows, seconds(PATIENCE), "the load flows")

    def finish(self) -> None:
        """Let every client come to its end, and fail with what went wrong."""
        self._ending = True
        self._call(self._join())
        self._assert_no_fault()
        for kind in self._kinds:
            assert kind.lines > 0, f"{kind.name}: nothing was ever answered"

    def _assert_no_fault(self) -> None:
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults[:20])

    # ---- In the thread -----------------------------------------------------------------------

    def _start(self, name: str, clients: int, make: Callable[[Kind], Awaitable[None]]) -> None:
        kind = Kind(name, clients)
        self._kinds.append(kind)

        async def start() -> None:
            for _ in range(clients):
                kind.tasks.append(asyncio.ensure_future(self._client(kind, make)))
        self._call(start())

    async def _join(self) -> None:
        for kind in self._kinds:
            await asyncio.gather(*kind.tasks)

    async def _cancel(self) -> None:
        self._ending = True
        left = {task for kind in self._kinds for task in kind.tasks if not task.done()}
        while left:  # a task may miss one request: its awaited step had ended in the same moment
            for task in left:
                task.cancel()
            left = (await asyncio.wait(left, timeout=0.1))[1]

    async def _client(self, kind: Kind, make: Callable[[Kind], Awaitable[None]]) -> None:
        """The same sort of connection again and again; a fault ends the client."""
        while not self._ending:
            try:
                await make(kind)
            except (OSError, AssertionError) as error:
                self.faults.append(f"{kind.name}, epoch {self.epoch}: "
                                   f"{type(error).__name__} {error}")
                return

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0, self._pace))

    def _line(self) -> bytes:
        """Mostly short, some longer than one segment."""
        size = self._random.choice((0, 1, 30, 30, 30, 500, 5000))
        return self._random.randbytes(size).replace(b"\n", b"\r") + b"\n"

    async def _step(self, work: Awaitable[bytes | None], what: str) -> bytes:
        try:
            return await asyncio.wait_for(work, seconds(PATIENCE)) or b""
        except asyncio.TimeoutError:
            raise OSError(f"{what}: no end within {PATIENCE} s") from None
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Broken(f"{what}: {error}") from None
        except OSError as error:
            raise OSError(f"{what}: {error}") from None

    async def _connect(self, kind: Kind, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM)
        client.setblocking(False)
        try:
            await self._step(self._loop.sock_connect(client, (host, port)), "connect")
        except BaseException:
            client.close()
            raise
        kind.connections += 1
        return client

    @contextlib.asynccontextmanager
    async def _connection(self, kind: Kind, host: str, port: int) -> AsyncIterator[socket.socket]:
        begun = time.monotonic()
        with await self._connect(kind, host, port) as client:
            own_port = client.getsockname()[1]
            try:
                yield client
            except Broken as error:
                if not self._may_break:
                    raise
                self.breaks.append(Break(kind.name, own_port, begun, time.monotonic(), str(error)))

    async def _exchange(self, kind: Kind, client: socket.socket) -> None:
        """One line there and back, sent in one piece or in two."""
        line = self._line()
        cut = self._random.randrange(len(line)) if self._random.random() < 0.3 else 0
        if cut > 0:
            await self._step(self._loop.sock_sendall(client, line[:cut]), "send")
            await self._pause()
        await self._step(self._loop.sock_sendall(client, line[cut:]), "send")
        got = b""
        while len(got) < len(line):
            part = await self._step(self._loop.sock_recv(client, len(line) - len(got)), "receive")
            if not part:
                raise Broken(f"the end after {len(got)} of {len(line)} bytes")
            got += part
        assert got == line, f"{got[:60]!r} came back for {line[:60]!r}"
        kind.lines += 1

    async def _one_line(self, kind: Kind, host: str, port: int) -> None:
        await self._pause()
        async with self._connection(kind, host, port) as client:
            await self._exchange(kind, client)
            more = await self._step(self._loop.sock_recv(client, 1), "the end")
            assert not more, "more than the line came back"

    async def _conversation(self, kind: Kind, host: str, port: int, epochs: int | None) -> None:
        await self._pause()
        span = Span(self.epoch, self.epoch, 0)
        async with self._connection(kind, host, port) as client:
            while not self._ending and (epochs is None or self.epoch < span.begun + epochs):
                await self._exchange(kind, client)
                span.lines += 1
                await self._pause()
            client.shutdown(socket.SHUT_WR)
            more = await self._step(self._loop.sock_recv(client, 1), "the end")
            assert not more, "more than the lines came back"
        span.ended = self.epoch
        self.spans.append(span)


def say(client: socket.socket, line: bytes = b"a line\n") -> None:
    """One line there and back on a connection that stays open."""
    client.sendall(line)
    got = b""
    while len(got) < len(line) and (part := client.recv(len(line) - len(got))):
        got += part
    assert got == line, f"{got!r} came back for {line!r}"


def small_client(port: int, size: int = 2048, host: str = "127.0.0.1") -> socket.socket:
    """A connection with the smallest buffers that the kernel gives, so that replies must wait."""
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.settimeout(seconds(PATIENCE))
    client.connect((host, port))
    return client


def fill(client: socket.socket, line: bytes) -> int:
    """
    Send the line again and again, and read nothing, until the server takes no more: neither its
    buffers nor the kernel's have room for a third of a second. Returns the bytes sent; the last
    line may be half.
    """
    client.setblocking(False)
    block = line * (1 + 65536 // len(line))
    sent = 0
    while select.select([], [client], [], seconds(0.3))[1]:
        try:
            sent += client.send(block[sent % len(line):])
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            break  # the server has had enough
    client.settimeout(seconds(PATIENCE))
    return sent


class LoadProcess:
    """
    Load in a process of its own, from the beginning to the end of the block.

        with LoadProcess(("one_line", port, 500), ("conversations", port, 500), pace=1) as load:
            ...
            load.report()  # lines, connections, breaks so far
    """

    def __init__(self, *kinds: tuple[str, int, int], **options: Any) -> None:
        self._order = json.dumps({"kinds": kinds, "options": options})
        self.lines = self.connections = 0
        self.breaks: list[Break] = []

    def __enter__(self) -> "LoadProcess":
        self._process = subprocess.Popen([sys.executable, __file__, self._order], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.report()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._process:
            if kind is not None:
                self._process.kill()
                return
            self._process.stdin.close()  # this is all
            self._take()

    def report(self) -> None:
        """Take note of what was exchanged until now; fails with the faults that there were."""
        print(file=self._process.stdin, flush=True)
        self._take()

    def _take(self) -> None:
        answer = json.loads(self._process.stdout.readline() or '{"faults": ["no answer"]}')
        assert not answer["faults"], "\n".join(answer["faults"][:20])
        self.lines, self.connections = answer["lines"], answer["connections"]
        self.breaks = [Break(**one) for one in answer["breaks"]]


def _serve_order(order: dict[str, Any]) -> None:
    """The process of LoadProcess: reports at each line that comes in, and at their end."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = Load(**order["options"])

    def report() -> None:
        print(json.dumps({"faults": load.faults, "lines": load.lines,
                          "connections": load.connections,
                          "breaks": [asdict(one) for one in list(load.breaks)]}), flush=True)
    try:
        with load:
            for kind, port, clients in order["kinds"]:
                getattr(load, kind)(port, clients)
            load.await_all()
            for _ in sys.stdin:
                report()
    except AssertionError as error:
        load.faults.append(str(error))
    report()


if __name__ == "__main__":
    _serve_order(json.loads(sys.argv[1]))
