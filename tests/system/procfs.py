"""Facts about processes, read from /proc, and about the pid lock, asked from the kernel."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, TypeVar

T = TypeVar("T")

# struct flock of x86-64, aarch64 and other 64-bit Linux: type, whence, start, len, pid.
_FLOCK = "hhqqi4x"

TIME_WAIT = "06"  # in /proc/net/tcp


def wait_until(predicate: Callable[[], T], timeout: float, what: str = "") -> T:
    """Ask again and again until the answer is true; return it. For facts that send no event."""
    until = time.monotonic() + timeout
    pause = 0.002
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= until:
            raise AssertionError(f"not true within {timeout:g} s: {what or predicate}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


class Process:
    """What /proc says about one process, read afresh on each access."""

    def __init__(self, pid: int):
        self.pid = pid
        self.path = Path("/proc") / str(pid)

    def __repr__(self) -> str:
        return f"Process({self.pid})"

    @property
    def alive(self) -> bool:
        """True while it exists and is no zombie."""
        try:
            return self.stat[0] not in ("Z", "X")
        except (FileNotFoundError, ProcessLookupError):
            return False

    @property
    def stat(self) -> list[str]:
        """The fields of /proc/PID/stat from number 3 on (proc(5)): stat[0] is the state."""
        return (self.path / "stat").read_text().rpartition(")")[2].split()

    @property
    def name(self) -> str:
        """What ps(1) shows: 15 bytes at most. A worker's is "line/0"."""
        return (self.path / "comm").read_text().removesuffix("\n")

    @property
    def state(self) -> str:
        return self.stat[0]

    @property
    def ppid(self) -> int:
        return int(self.stat[1])

    @property
    def pgrp(self) -> int:
        return int(self.stat[2])

    @property
    def session(self) -> int:
        return int(self.stat[3])

    @property
    def tty_nr(self) -> int:
        """The controlling terminal; 0 for none."""
        return int(self.stat[4])

    @property
    def cpu_ticks(self) -> int:
        """Processor time so far, user and system, in clock ticks."""
        return int(self.stat[11]) + int(self.stat[12])

    @property
    def cpu_ticks_of_all(self) -> int:
        """The same, with that of all children that have ended and were waited for."""
        return sum(int(ticks) for ticks in self.stat[11:15])

    @property
    def nice(self) -> int:
        return int(self.stat[16])

    @property
    def start_time(self) -> int:
        return int(self.stat[19])

    @property
    def status(self) -> dict[str, str]:
        """/proc/PID/status as a dictionary."""
        lines = (self.path / "status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def signals(self, field: str) -> set[int]:
        """The signals in SigBlk, SigIgn, SigCgt, SigPnd or ShdPnd."""
        mask = int(self.status[field], 16)
        return {sig for sig in range(1, 65) if mask >> (sig - 1) & 1}

    @property
    def uids(self) -> list[int]:
        """Real, effective, saved and file system uid."""
        return [int(uid) for uid in self.status["Uid"].split()]

    @property
    def gids(self) -> list[int]:
        return [int(gid) for gid in self.status["Gid"].split()]

    @property
    def umask(self) -> int:
        return int(self.status["Umask"], 8)

    @property
    def cwd(self) -> str:
        return os.readlink(self.path / "cwd")

    @property
    def environ(self) -> dict[str, str]:
        """The environment that execve(2) left; what setenv(3) adds later does not show here."""
        entries = (self.path / "environ").read_bytes().split(b"\0")
        return dict(entry.decode().split("=", 1) for entry in entries if b"=" in entry)

    @property
    def cmdline(self) -> list[str]:
        """Empty for a zombie, and for a process that has ended since it was listed."""
        try:
            text = (self.path / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return text.decode(errors="replace").split("\0")[:-1]

    @property
    def fds(self) -> dict[int, str]:
        """Each open descriptor and what its link says."""
        found = {}
        for name in os.listdir(self.path / "fd"):
            try:
                found[int(name)] = os.readlink(self.path / "fd" / name)
            except FileNotFoundError:
                pass  # closed since
        return found

    def limit(self, name: str) -> tuple[str, str]:
        """Soft and hard limit, as in /proc/PID/limits: limit("Max open files")."""
        for line in (self.path / "limits").read_text().splitlines():
            if line.startswith(name):
                soft, hard = line[len(name):].split()[:2]
                return soft, hard
        raise KeyError(name)

    @property
    def children(self) -> list["Process"]:
        """The processes whose parent this is, zombies included."""
        return [p for p in processes() if _quietly(lambda p=p: p.ppid) == self.pid]

    def child_pids(self) -> set[int]:
        """The same as numbers, without a look at every process where the kernel knows better."""
        try:
            return {int(pid) for pid in (self.path / "task" / str(self.pid) / "children")
                    .read_text().split()}
        except FileNotFoundError:
            return {child.pid for child in self.children}

    def await_end(self, timeout: float) -> bool:
        """Wait until the process is gone; true when it is."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            import select
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(fd)


def _quietly(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield Process(int(name))


def processes_where(test: Callable[[Process], bool]) -> list[Process]:
    """All living processes, but not this one, for which the test is true."""
    return [p for p in processes()
            if p.pid != os.getpid() and _quietly(lambda p=p: p.state not in "ZX" and test(p))]


def lock_holder(path: Path | str, kind: int = fcntl.F_RDLCK) -> int:
    """
    Whose record lock stands against a lock of this kind on the file: its pid, or 0.

    Asked with F_RDLCK, only a writer's lock answers: the daemon's.
    """
    with open(path, "rb") as file:
        asked = struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file.fileno(), fcntl.F_GETLK, asked)
    kind_held, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return 0 if kind_held == fcntl.F_UNLCK else pid


@dataclass
class TcpSocket:
    """A row of /proc/net/tcp: a socket on a local port of IPv4."""

    state: int
    peer_port: int
    queue: int  # bytes not read yet; of a listening one: connections that wait to be accepted
    inode: int

    LISTEN = 10


def tcp_sockets(port: int) -> list[TcpSocket]:
    """The sockets with this local port, those in TIME_WAIT left out: they are nobody's."""
    mark = f":{port:04X} "
    found = []
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            row = line.partition(": ")[2]  # local and remote address, state, queues, ...
            if row[8:14] == mark and row[28:30] != TIME_WAIT:
                word = row.split()
                found.append(TcpSocket(int(word[2], 16), int(word[1].rpartition(":")[2], 16),
                                       int(word[3].rpartition(":")[2], 16), int(word[8])))
    return found


def waiting_clients(port: int) -> int:
    """How many connections wait to be accepted on this port."""
    return sum(s.queue for s in tcp_sockets(port) if s.state == TcpSocket.LISTEN)


class ReservedPort:
    """
    A TCP port that no other test uses at the same time, in this run or in another one beside it.

    The reservation is a socket in the abstract namespace (unix(7)): the kernel gives it back
    whatever happens to the tests. Ports are taken from below the range of outgoing connections, so
    that no client of another test can sit on one.
    """

    FIRST, LAST = 10240, 29999

    def __init__(self) -> None:
        try:
            low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        except (OSError, ValueError):
            low = 32768
        last = min(self.LAST, low - 1) if low > self.FIRST + 1000 else self.LAST
        size = last - self.FIRST + 1
        begin = int.from_bytes(os.urandom(4), "little") % size
        for i in range(size):
            port = self.FIRST + (begin + i) % size
            if self._reserve(port):
                self.number = port
                return
        raise RuntimeError("no free port")

    def _reserve(self, port: int) -> bool:
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0echod-test-port-{port}")
            for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                # Without SO_REUSEADDR: not even connections in TIME_WAIT are left on it.
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((host, port))
        except OSError as error:
            import errno
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                reservation.close()
                return False
        self._reservation = reservation
        return True

    def release(self) -> None:
        self._reservation.close()


def signal_name(number: int) -> str:
    """SIGTERM for 15, SIGRTMIN+1 for 35."""
    if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name
