"""
The servers that are measured: how each is started on one processor, and how it is ended.

A server offers some kinds of service:

    stream      it sends back what comes over TCP, until the client ends
    paced       the same, at a given rate: latency
    idle        the same, for connections that stay silent: memory
    once        it answers one line, then closes
    datagram    it sends back datagrams

All listen on 127.0.0.1. Each measurement gets a server that has just started.
"""

from __future__ import annotations

import glob
import gzip
import os
import pwd
import select
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from processes import end, ended

START_LIMIT = 10.0  # seconds until it listens
PLENTY = 100000     # a limit that is on and not reached


class Failure(Exception):
    """A server did not do what a row asks for; the text is the reason."""


@dataclass(frozen=True)
class Place:
    """Where everything is, and on which processor servers run."""

    echod: Path
    programs: Path  # tests/bench of a build
    peers: Path
    work: Path
    cpu: int
    private: bool  # in a network of our own, where all ports are free


class Running:
    """A server that listens."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int, port: int) -> None:
        self.process, self.pid, self.port = process, pid, port

    def stop(self) -> None:
        end(self.process)


# ---- Starting -----------------------------------------------------------------------------------

def free_port(kind: str) -> int:
    """A port that nobody has at this moment."""
    what = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, what) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(pid: int, kind: str, port: int) -> bool:
    """Without a connection, for which some servers would fork."""
    table, state = ("udp", "07") if kind == "datagram" else ("tcp", "0A")
    try:
        with open(f"/proc/{pid}/net/{table}", encoding="ascii") as rows:
            fields = [row.split() for row in rows]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return False
    return any(one[1].endswith(f":{port:04X}") and one[3] == state for one in fields)


class Server:
    """One server; `name` is what it is called in the results."""

    name = ""
    title = ""
    kinds: tuple[str, ...] = ()

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        raise NotImplementedError

    def missing(self, place: Place) -> str:
        """Why it cannot be measured here; "" if it can."""
        executable = Path(self.command(self.kinds[0], place, 0)[0])
        return "" if os.access(executable, os.X_OK) else f"{executable} is missing"

    def version(self, place: Place) -> str:
        """"" for what is built here."""
        return ""

    def environment(self, place: Place) -> dict[str, str]:
        return dict(os.environ)

    def spawn(self, command: list[str], place: Place) -> subprocess.Popen[bytes]:
        """On its processor, in a session of its own: a terminal's ^C is for the runner alone."""
        with open(place.work / f"{self.name}.err", "wb") as errors:
            try:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    env=self.environment(place), cwd=place.work, start_new_session=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, {place.cpu}))
            except OSError as error:
                raise Failure(f"{command[0]} cannot be started: {error.strerror}") from None

    def start(self, kind: str, place: Place) -> Running:
        port = free_port(kind)
        process = self.spawn(self.command(kind, place, port), place)
        try:
            return Running(process, process.pid, self.await_port(process, kind, port))
        except Failure as failure:
            end(process)
            said = (place.work / f"{self.name}.err").read_text(errors="replace").strip()
            raise Failure(": ".join(filter(None, (str(failure), said[-300:])))) from None

    def await_port(self, process: subprocess.Popen[bytes], kind: str, port: int) -> int:
        """Wait until it listens; the port where it does."""
        until = time.monotonic() + START_LIMIT
        while not _listens(process.pid, kind, port):
            if process.poll() is not None:
                raise Failure(f"it ended at its start with {process.returncode}")
            if time.monotonic() > until:
                raise Failure(f"it does not listen after {START_LIMIT:g} s")
            time.sleep(0.002)
        return port


class Announcing(Server):
    """One that prints where it listens, as soon as it does."""

    def await_port(self, process: subprocess.Popen[bytes], kind: str, port: int) -> int:
        said = b""
        until = time.monotonic() + START_LIMIT
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise Failure(f"it does not listen after {START_LIMIT:g} s")
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                raise Failure(f"it ended at its start with {process.wait(START_LIMIT)}")
            said += part
        return int(said.split()[-1].rpartition(b":")[2])


# ---- The servers --------------------------------------------------------------------------------

class Echod(Announcing):
    """With what a service on a network has on: time-outs, limits, access rules, counters."""

    name = "echod"
    title = "echod"
    kinds = ("stream", "paced", "idle", "once", "datagram")
    own = {
        "stream": 'protocol = "line"; max_lines = 0;',
        "paced": 'protocol = "line"; max_lines = 0;',
        # A silent client stays in the kernel for defer_accept: then nothing could be measured.
        "idle": 'protocol = "line"; max_lines = 0; defer_accept = 0;',
        "once": 'protocol = "line"; max_lines = 1; defer_accept = 1;',
        "datagram": 'protocol = "echo"; max_datagram_rate = 0;',
    }

    def __init__(self, name: str = "", title: str = "", kinds: tuple[str, ...] = (),
                 more: str = "") -> None:
        self.name, self.title = name or self.name, title or self.title
        self.kinds, self.more = kinds or self.kinds, more

    def configuration(self, kind: str, place: Place) -> str:
        address = "udp:127.0.0.1:0" if kind == "datagram" else "127.0.0.1:0"
        return f"""pidfile = "{place.work}/echod.pid";
log = {{ target = "file:{place.work}/echod.log"; }};
services = ( {{
    name = "bench"; listen = [ "{address}" ]; workers = 1;
    {self.own[kind]}
    idle_timeout = "5m"; write_timeout = "1m";
    max_connections = {PLENTY}; max_connections_per_source = {PLENTY};
    access = [ "allow 127.0.0.0/8", "deny *" ];
    {self.more}
}} );
"""

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        conf = place.work / "echod.conf"
        conf.write_text(self.configuration(kind, place))
        return [str(place.echod), "-F", "-f", str(conf), "--print-ports"]


class Built(Announcing):
    """One of the small programs of tests/bench/peers."""

    def __init__(self, name: str, title: str, program: str, kinds: tuple[str, ...],
                 options: tuple[str, ...] = ()) -> None:
        self.name, self.title, self.program = name, title, program
        self.kinds, self.options = kinds, options

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        once = ["--once"] if kind == "once" else []
        return [str(place.programs / "peers" / self.program), *self.options, *once]


class Packaged(Server):
    """One of Debian's, from the folder that contrib/peers.sh has filled."""

    package = ""

    def version(self, place: Place) -> str:
        changes = place.peers / "usr/share/doc" / self.package / "changelog.Debian.gz"
        try:
            with gzip.open(changes, "rt", errors="replace") as lines:
                return lines.readline().partition("(")[2].partition(")")[0]
        except OSError:  # provided without a package
            return "of unknown version"

    def environment(self, place: Place) -> dict[str, str]:
        """With the libraries that lie beside the executables."""
        found = [os.path.dirname(file) for folder in ("usr/lib", "lib")
                 for file in glob.glob(f"{place.peers}/{folder}/*/*.so*")]
        path = ":".join(sorted(set(found)))
        return {**os.environ, "LD_LIBRARY_PATH": path}


class Xinetd(Packaged):
    """Of the datagrams that wait it answers one, and throws the others away."""

    name = package = title = "xinetd"
    kinds = ("stream", "datagram")

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        words = ("dgram", "udp", "yes") if kind == "datagram" else ("stream", "tcp", "no")
        conf = place.work / "xinetd.conf"
        conf.write_text(f"""service echo
{{
    type = INTERNAL UNLISTED
    socket_type = {words[0]}
    protocol = {words[1]}
    wait = {words[2]}
    port = {port}
    bind = 127.0.0.1
    user = {pwd.getpwuid(os.geteuid()).pw_name}
    flags = NOLIBWRAP
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 1000000 1
}}
""")
        return [str(place.peers / "usr/sbin/xinetd"), "-dontfork", "-f", str(conf), "-pidfile",
                str(place.work / "xinetd.pid"), "-filelog", str(place.work / "xinetd.log")]


class Inetd(Packaged):
    """Its own echo is on port 7. In the foreground it would print a line for each client."""

    name = "inetd"
    package = title = "inetutils-inetd"
    kinds = ("stream", "datagram")

    def missing(self, place: Place) -> str:
        if not place.private:
            return "its echo is on port 7, which needs root and a network of its own"
        return super().missing(place)

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        conf = place.work / "inetd.conf"
        conf.write_text("echo dgram udp wait root internal\n" if kind == "datagram"
                        else "echo stream tcp nowait root internal\n")
        return [str(place.peers / "usr/sbin/inetutils-inetd"), "--rate=1000000000",
                f"--pidfile={place.work / 'inetd.pid'}", str(conf)]

    def start(self, kind: str, place: Place) -> Running:
        pidfile = place.work / "inetd.pid"
        pidfile.unlink(missing_ok=True)
        process = self.spawn(self.command(kind, place, 0), place)
        if not ended(process, START_LIMIT) or process.returncode != 0:
            end(process)
            raise Failure(f"it did not become a daemon: {process.returncode}")
        until = time.monotonic() + START_LIMIT
        while True:
            pid = int(pidfile.read_text() or 0) if pidfile.exists() else 0
            if pid and _listens(pid, kind, 7):
                return Running(process, pid, 7)
            if time.monotonic() > until:
                end(process)
                raise Failure(f"it does not listen after {START_LIMIT:g} s")
            time.sleep(0.002)


class Ncat(Packaged):
    name = package = "ncat"
    title = "ncat -e cat"
    kinds = ("stream",)

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        return [str(place.peers / "usr/bin/ncat"), "-l", "-k", "--max-conns", str(PLENTY),
                "-e", "/bin/cat", "127.0.0.1", str(port)]


class Socat(Packaged):
    """PIPE, and not EXEC:/bin/cat: one process a connection in place of two."""

    name = package = "socat"
    title = "socat PIPE"
    kinds = ("stream",)

    def command(self, kind: str, place: Place, port: int) -> list[str]:
        return [str(place.peers / "usr/bin/socat"),
                f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=4096", "PIPE"]


SERVERS: tuple[Server, ...] = (
    Echod(),
    Echod("echod-sleeps", "echod, busy_poll = 0", ("stream", "datagram"), "busy_poll = 0;"),
    Built("floor-a", "floor A", "floor", ("stream", "paced", "idle", "once")),
    Built("floor-b", "floor B", "floor", ("stream", "paced", "idle", "once")),
    Built("bufferevent", "bufferevent", "bufferevent", ("stream", "paced", "idle")),
    Built("uv", "libuv", "uv", ("stream", "idle")),
    Built("uring", "io_uring", "uring", ("stream",)),
    Built("udp-floor", "floor --udp", "floor", ("datagram",), ("--udp",)),
    Built("udp-pktinfo", "floor --udp --pktinfo", "floor", ("datagram",), ("--udp", "--pktinfo")),
    Built("udp-gro", "floor --udp --gro", "floor", ("datagram",), ("--udp", "--gro")),
    Xinetd(),
    Inetd(),
    Ncat(),
    Socat(),
)
BY_NAME = {server.name: server for server in SERVERS}
