"""
The test driver: one echod with a directory and a port of its own.

    def test_something(echod):              # the fixture makes, and at the end checks, one
        echod.settings["services.line.max_lines"] = 0
        echod.start()                       # returns when it serves, raises when it does not
        with echod.connect() as client:
            ...
        echod.run("restart", expect=0)      # any verb; its output is in .stdout and .stderr
        echod.stop()

What is checked at the end of each test, without being asked: the daemon ends when it is told to, no
process of it is left, its files in the run directory are gone, its log has no line of level error or
worse (see `expect_log`), and no sanitizer has written a report.

Environment:
    ECHOD              the executable to test, installed in a prefix (needed)
    ECHOD_WRAPPER      a command to run the daemon under, e.g. "valgrind --trace-children=yes ..."
    ECHOD_TIME_FACTOR  all time limits are multiplied by this (default 1)
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Sequence

from procfs import Process, ReservedPort, lock_holder, processes_where, wait_until

FACTOR = float(os.environ.get("ECHOD_TIME_FACTOR", "1"))
WRAPPER = shlex.split(os.environ.get("ECHOD_WRAPPER", ""))

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A line of a log file: time, name and pid, level, text. What the handler of a fatal signal writes
# has neither time nor level, and is an error all the same.
_LOG_LINE = re.compile(r"^(?P<time>\S+) echod\[(?P<pid>\d+)\] (?P<level>\w+): (?P<text>.*)$")

# All that the leak check writes when its process is killed under it, as a trial by a stop is.
_KILLED_IN_LEAK_CHECK = re.compile(r"(==\d+==Unable to get registers from thread \d+\.\s*)+")


def seconds(time_limit: float) -> float:
    """A time limit, made longer where the daemon runs under something slow."""
    return time_limit * FACTOR


def executable() -> Path:
    """The installed echod that ECHOD names."""
    path = os.environ.get("ECHOD", "")
    if not path:
        raise RuntimeError("ECHOD is not set: name the installed echod to test, as in "
                           "ECHOD=/tmp/prefix/sbin/echod")
    if not os.path.isabs(path) or not os.access(path, os.X_OK):
        raise RuntimeError(f"ECHOD={path} is not the absolute path of an executable")
    return Path(path)


class Echod:
    """
    One daemon and its surroundings. Public attributes, all to be changed before a start:

    dir         its directory; everybody may traverse it, as workers of root's daemon are nobody
    port        a TCP port that no other test has
    settings    becomes -o key=value on the command line
    listen      becomes -l, one each; for the built-in service
    config      the file for -f, set by `configure`; then port, listen, settings come from there
    env         the environment of every command
    user        run every command as this uid (needs root); None: as who runs the tests
    """

    def __init__(self, name: str = "echod") -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="echod-test-"))
        self.dir.chmod(0o755)
        self.executable = executable()
        self._port = ReservedPort()
        self.port = self._port.number
        self.pidfile = self.dir / f"{name}.pid"
        self.control = self.dir / f"{name}.sock"
        self.stopped = self.dir / f"{name}.stopped"  # what remembers services stopped by order
        self.log_path: Path | None = self.dir / f"{name}.log"
        self.settings: dict[str, Any] = {}
        self.listen: list[str] = ["127.0.0.1"]
        self.config: Path | None = None
        self.user: int | None = None
        self.pid = 0
        self.process: subprocess.Popen[str] | None = None  # of `foreground`
        self._sessions: set[int] = set()
        self._allowed_log: list[str] = []
        self._extra_ports: list[ReservedPort] = []

        self.sanitizer_dir = self.dir / "sanitizer"
        self.sanitizer_dir.mkdir()
        self.sanitizer_dir.chmod(0o1777)
        self.env = {"PATH": PATH}
        for tool in ("ASAN", "UBSAN", "LSAN"):
            given = os.environ.get(f"{tool}_OPTIONS", "")
            report = f"log_path={self.sanitizer_dir}/{tool.lower()}"
            self.env[f"{tool}_OPTIONS"] = f"{given}:{report}" if given else report

    # ---- Command lines -----------------------------------------------------------------------

    def where(self) -> list[str]:
        """The options by which a verb finds this daemon."""
        if self.config is not None:
            return ["-f", str(self.config)]
        return ["-P", str(self.pidfile)]

    def options(self) -> list[str]:
        """The options of a start."""
        options = self.where()
        if self.config is None:
            options += ["-p", str(self.port)]
            for address in self.listen:
                options += ["-l", address]
            if self.log_path is not None and "log.target" not in self.settings:
                options += ["-o", f"log.target=file:{self.log_path}"]
        if FACTOR > 1 and "start_timeout" not in self.settings:
            options += ["-o", f"start_timeout={10 * FACTOR:g}"]
        for key, value in self.settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            options += ["-o", f"{key}={text}"]
        return options

    def command(self, verb: str, *args: str) -> list[str]:
        """A whole command line. `start` (also with -F) is the one that runs under the wrapper."""
        if verb == "start":
            return [*WRAPPER, str(self.executable), *self.options(), *args]
        options = self.options() if verb == "check" else self.where()
        return [str(self.executable), verb, *options, *args]

    def run(self, verb: str, *args: str, expect: int | None = None, timeout: float = 30,
            **popen: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end; `expect` is the exit code it must have. Output is text."""
        return self.run_command(self.command(verb, *args), expect=expect, timeout=timeout, **popen)

    def run_command(self, command: Sequence[str], expect: int | None = None, timeout: float = 30,
                    **popen: Any) -> subprocess.CompletedProcess[str]:
        """Run any command line in this daemon's environment."""
        popen = self._popen(popen)
        popen.setdefault("stdin", subprocess.DEVNULL)
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        done = subprocess.run(command, text=True, timeout=seconds(timeout), **popen)
        if expect is not None and done.returncode != expect:
            raise AssertionError(
                f"{shlex.join(command)}: exit code {done.returncode}, not {expect}\n"
                f"stdout: {done.stdout}\nstderr: {done.stderr}\nlog:\n{self.log_text()}")
        return done

    def _popen(self, popen: dict[str, Any]) -> dict[str, Any]:
        popen.setdefault("env", self.env)
        if self.user is not None and "user" not in popen:
            popen.update(user=self.user, group=self.user, extra_groups=[])
        return popen

    # ---- Life --------------------------------------------------------------------------------

    def start(self, *args: str, expect: int = 0, **popen: Any) -> subprocess.CompletedProcess[str]:
        """Start as a daemon. After success `pid` is the supervisor's."""
        if expect != 0:
            self.expect_log("cannot start: ")
        done = self.run("start", *args, expect=expect, **popen)
        if expect == 0:
            self.adopt()
        return done

    def adopt(self) -> int:
        """Take note of the daemon that now holds the pid lock; returns its pid."""
        self.pid = lock_holder(self.pidfile)
        assert self.pid > 0, f"nobody holds the lock on {self.pidfile}"
        self._sessions.add(Process(self.pid).session)
        return self.pid

    def foreground(self, *args: str, ready: bool = True, **popen: Any) -> subprocess.Popen[str]:
        """Start with -F; `ready`: return only when it serves. stderr is a pipe unless given."""
        popen = self._popen(popen)
        popen.setdefault("stdin", subprocess.DEVNULL)
        popen.setdefault("stdout", subprocess.DEVNULL)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("start_new_session", True)
        self.process = subprocess.Popen(self.command("start", "-F", *args), text=True, **popen)
        if popen["start_new_session"]:
            self._sessions.add(self.process.pid)
        if ready:
            self.await_ready()
        return self.process

    def await_ready(self, timeout: float = 15) -> None:
        """Wait until the daemon says at its control socket that it serves; raise when it ended."""
        def answers() -> bool:
            if self.process is not None and self.process.poll() is not None:
                stderr = self.process.stderr.read() if self.process.stderr else ""
                raise AssertionError(f"echod -F ended with {self.process.returncode}: {stderr}"
                                     f"\nlog:\n{self.log_text()}")
            try:
                answer = self.ask("status")
                return bool(answer.get("ok")) and answer.get("state") == "serving"
            except (OSError, ValueError):
                return False
        wait_until(answers, seconds(timeout), "echod answers at its control socket")
        self.pid = self.ask("status")["pid"]
        if self.process is None:
            self._sessions.add(Process(self.pid).session)

    def tell(self, verb: str, *words: str, expect: int = 0,
             **popen: Any) -> subprocess.CompletedProcess[str]:
        """A verb about a service, or about all: `tell("stop", "line")`, `tell("ps")`."""
        return self.run_command(self.telling(verb, *words), expect=expect, **popen)

    def telling(self, verb: str, *words: str) -> list[str]:
        """The command line of `tell`, for who wants to run it beside something else."""
        return [str(self.executable), verb, *self.where(), *words]

    def stop(self, *args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The verb: a polite stop that returns when the daemon is gone."""
        return self.run("stop", *args, expect=expect, timeout=60)

    def restart(self, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The verb: returns when the new generation serves, or with the reason why it does not."""
        return self.run("restart", expect=expect, timeout=60)

    def start_service(self, name: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The verb `start NAME`, which needs no options of a start."""
        return self.run_command([str(self.executable), "start", *self.where(), name],
                                expect=expect)

    def signal(self, sig: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, sig)

    def await_end(self, timeout: float = 10) -> None:
        """Wait until the supervisor is gone."""
        if self.process is not None and self.process.pid == self.pid:
            self.process.wait(seconds(timeout))  # else it stays a zombie, which never ends
            return
        assert Process(self.pid).await_end(seconds(timeout)), f"{self.pid} is still there"

    def become(self, uid: int) -> None:
        """Run every command as this user, who also gets the directory (needs root)."""
        self.user = uid
        os.chown(self.dir, uid, uid)

    # ---- Questions ---------------------------------------------------------------------------

    @property
    def supervisor(self) -> Process:
        return Process(self.pid)

    def workers(self, state: str = "running") -> list[Process]:
        """The living workers that the daemon says are in this state; no programs."""
        found = [Process(p["pid"]) for p in self.status()["processes"]
                 if p["state"] == state and "/" in p["name"]]
        return [process for process in found if process.alive]

    def ask(self, verb: str, **more: Any) -> dict[str, Any]:
        """One question over the control socket, without the help of the command."""
        return self.ask_raw(json.dumps({"verb": verb, **more}).encode() + b"\n")

    def ask_raw(self, request: bytes, timeout: float = 15) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(self.control))  # blocks while the queue is full
            client.settimeout(seconds(timeout))
            client.sendall(request)
            reply = read_to_end(client)
        return json.loads(reply)

    def status(self) -> dict[str, Any]:
        """What `echod status --json` says."""
        answer = self.ask("status")
        assert answer["ok"], answer
        return answer

    def service_status(self, name: str = "line") -> dict[str, Any]:
        """What `echod status --json` says of one service."""
        [service] = [s for s in self.status()["services"] if s["name"] == name]
        return service

    def ps(self, service: str | None = None) -> list[dict[str, Any]]:
        """The rows of `echod ps`: all, or those of one service."""
        answer = self.ask("ps")
        assert answer["ok"], answer
        return [row for row in answer["services"] if service in (None, row["service"])]

    def row(self, name: str) -> dict[str, Any]:
        """The row of a place: "line/0". What retires from it does not count."""
        [row] = [r for r in self.ps() if r["name"] == name and r["state"] != "retiring"]
        return row

    def await_state(self, name: str, state: str = "running", timeout: float = 10,
                    but: int = 0) -> dict[str, Any]:
        """Wait until a place is in this state, by a process other than `but`; its row."""
        def reached() -> dict[str, Any] | None:
            row = self.row(name)
            return row if row["state"] == state and row["pid"] != but else None
        return wait_until(reached, seconds(timeout), f"{name} is {state}")

    def await_ps(self, name: str, timeout: float = 10, **facts: Any) -> dict[str, Any]:
        """Wait until the row has these facts: await_ps("sensor", state="running"). The row."""
        row: dict[str, Any] = {}

        def holds() -> bool:
            row.clear()
            row.update(self.row(name))
            return all(row[key] == value for key, value in facts.items())
        try:
            wait_until(holds, seconds(timeout))
        except AssertionError:
            raise AssertionError(f"{name} is not {facts} but {row}") from None
        return row

    def await_program(self, name: str, since: int = 0) -> Process:
        """Wait until a program runs, with another pid than `since`; its process."""
        def runs() -> Process | None:
            row = self.row(name)
            executed = row["state"] == "running" and self._is_executed(row["pid"], since)
            return Process(row["pid"]) if executed else None
        return wait_until(runs, seconds(10), f"the program {name} runs")

    def _is_executed(self, pid: int, since: int) -> bool:
        """Until it is, `ps` shows the pid of its keeper, which belongs to the daemon's group."""
        process = Process(pid)
        return pid != since and process.alive and process.pgrp == pid

    def processes(self) -> list[Process]:
        """
        Every living process of this daemon: by its session, or by a command line that names its
        directory. The latter finds what programs leave behind: see `script` and `sleeper`.
        """
        mark = str(self.dir)
        return processes_where(lambda p: p.session in self._sessions
                               or any(mark in word for word in p.cmdline))

    @property
    def sanitized(self) -> bool:
        """Is the executable a build with AddressSanitizer?"""
        return b"__asan_init" in self.executable.read_bytes()

    # ---- Clients -----------------------------------------------------------------------------

    def connect(self, host: str = "127.0.0.1", port: int | None = None) -> socket.socket:
        """A client of the service, with a time limit on everything it does."""
        return socket.create_connection((host, port or self.port), timeout=seconds(10))

    def echo(self, data: bytes = b"hello\n", host: str = "127.0.0.1",
             port: int | None = None) -> bytes:
        """Send, say that this is all, and return everything that comes back."""
        with self.connect(host, port) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_to_end(client)

    def assert_serves(self) -> None:
        assert self.echo(b"are you there?\n") == b"are you there?\n"

    def another_port(self) -> int:
        """One more port of this test's own."""
        self._extra_ports.append(ReservedPort())
        return self._extra_ports[-1].number

    # ---- The configuration file --------------------------------------------------------------

    def service(self, name: str = "line", **keys: Any) -> str:
        """The text of one service, on this daemon's port unless `listen` is given."""
        keys = {"name": name, "listen": [f"127.0.0.1:{self.port}"], **keys}
        return "{ " + " ".join(f"{k} = {_libconfig(v)};" for k, v in keys.items()) + " }"

    def program(self, name: str, *command: str | Path, **keys: Any) -> str:
        """The text of a service that runs a command."""
        keys = {"name": name, "command": [str(word) for word in command], **keys}
        return "{ " + " ".join(f"{k} = {_libconfig(v)};" for k, v in keys.items()) + " }"

    def script(self, name: str, text: str) -> Path:
        """A shell script in the directory, which everybody may execute."""
        path = self.dir / name
        fresh = self.dir / f"{name}.new"
        fresh.write_text("#!/bin/sh\n" + text)
        fresh.chmod(0o755)
        # As a whole: one that is being executed cannot be written to (open(2), ETXTBSY).
        fresh.rename(path)
        return path

    @property
    def sleeper(self) -> Path:
        """A sleep(1) in the directory, so that its processes are known as this daemon's."""
        path = self.dir / "sleep"
        if not path.exists():
            shutil.copy("/bin/sleep", path)
        return path

    def sleepers(self, *words: str) -> list[Process]:
        """The living processes of `sleeper`; with words, those that have such an argument."""
        mark = str(self.sleeper)

        def is_one(process: Process) -> bool:
            cmdline = process.cmdline
            return cmdline[:1] == [mark] and (not words or cmdline[1] in words)
        return processes_where(is_one)

    def configure(self, *services: str, extra: str = "", **settings: Any) -> Path:
        """
        Write the configuration file and use it from now on, or write it anew for a restart.

        `services` are texts made by `service` (none: the built-in default is left out, and one line
        service is written); `settings` are global keys; `extra` is appended as it stands.
        """
        keys = {"pidfile": str(self.pidfile), **settings}
        lines = [f"{key} = {_libconfig(value)};" for key, value in keys.items()]
        if self.log_path is not None:
            lines.append(f'log = {{ target = "file:{self.log_path}"; }};')
        lines.append("services = (\n    " + ",\n    ".join(services or [self.service()]) + "\n);")
        path = self.dir / "echod.conf"
        new = self.dir / "echod.conf.new"
        new.write_text("\n".join(lines) + "\n" + extra)
        new.chmod(0o644)
        new.rename(path)  # a daemon that reads it at this moment sees the old or the new one whole
        self.config = path
        return path

    # ---- The log -----------------------------------------------------------------------------

    def log_text(self) -> str:
        if self.log_path is None or not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")

    def await_log(self, pattern: str, timeout: float = 10, count: int = 1) -> re.Match[str]:
        """Wait until a regular expression is found `count` times in the log; the last match."""
        def found() -> re.Match[str] | None:
            matches = list(re.finditer(pattern, self.log_text(), re.MULTILINE))
            return matches[count - 1] if len(matches) >= count else None
        try:
            return wait_until(found, seconds(timeout))
        except AssertionError:
            raise AssertionError(f"no /{pattern}/ in the log:\n{self.log_text()}") from None

    def expect_log(self, pattern: str) -> None:
        """This test provokes errors: lines that match are no fault. They need not appear."""
        self._allowed_log.append(pattern)

    def log_errors(self) -> list[str]:
        """The lines of level error or worse that the test does not expect."""
        errors = []
        for line in self.log_text().splitlines():
            match = _LOG_LINE.match(line)
            bad = match["level"] in ("error", "critical") if match else True
            if bad and not any(re.search(pattern, line) for pattern in self._allowed_log):
                errors.append(line)
        return errors

    def sanitizer_reports(self) -> list[str]:
        reports = {path.name: path.read_text(errors="replace")
                   for path in sorted(self.sanitizer_dir.iterdir())}
        return [f"{name}:\n{text}" for name, text in reports.items()
                if not _KILLED_IN_LEAK_CHECK.fullmatch(text)]

    # ---- The end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """End the daemon and check that it leaves nothing behind; raise when something is wrong."""
        wrong = []
        try:
            wrong += self._end_daemon()
            left = self._leftovers()
            if left:
                wrong.append(f"processes are left: {left}")
            for path in (self.pidfile, self.control, self.stopped):
                if os.path.lexists(path):
                    wrong.append(f"{path} is left")
            wrong += [f"log: {line}" for line in self.log_errors()]
            wrong += self.sanitizer_reports()
        finally:
            self.discard()
        if wrong:
            raise AssertionError("\n".join(wrong))

    def _end_daemon(self) -> list[str]:
        wrong = []
        holder = 0
        try:
            if self.pidfile.is_file() and not self.pidfile.is_symlink():
                holder = lock_holder(self.pidfile)
        except OSError:
            pass
        if holder > 0:
            begun = time.monotonic()
            # Not by the verb: this must work whatever the test has done to files and options.
            os.kill(holder, signal.SIGTERM)
            if self.process is not None and self.process.pid == holder:
                try:
                    self.process.wait(seconds(10))
                except subprocess.TimeoutExpired:
                    wrong.append("echod -F did not end 10 s after SIGTERM")
            elif not Process(holder).await_end(seconds(10)):
                wrong.append(f"echod did not end 10 s after SIGTERM: {Process(holder).status}")
            elif time.monotonic() - begun > seconds(5):
                wrong.append(f"echod took {time.monotonic() - begun:.1f} s to end after SIGTERM")
        return wrong

    def _leftovers(self) -> list[str]:
        """Processes that do not end by themselves within a moment, for the report."""
        try:
            wait_until(lambda: not self.processes(), seconds(3))
        except AssertionError:
            pass
        return [f"{p.pid} {p.cmdline}" for p in self.processes()]

    def discard(self) -> None:
        """Kill what is left, by pid, and forget the ports; the directory stays (see `remove`)."""
        for process in self.processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        for port in [self._port, *self._extra_ports]:
            port.release()

    def remove(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.dir, ignore_errors=True)


def read_to_end(client: socket.socket) -> bytes:
    """Everything until the other side's FIN."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer when the other side ends."""
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


def _libconfig(value: Any) -> str:
    """A Python value in the syntax of the configuration file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[ " + ", ".join(_libconfig(one) for one in value) + " ]"
    return str(value)
