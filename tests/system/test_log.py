"""The log: each target, and that none of them ever holds up the service."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from echod import Echod, seconds
from procfs import wait_until

FILE_LINE = (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d echod\[\d+\] "
             r"(critical|error|warning|notice|info|debug): [^\n]*")
SYSLOG_LINE = r"<(\d+)>\w{3} [ \d]\d \d\d:\d\d:\d\d echod\[(\d+)\]: (.*)"


class Logger:
    """The system's logger: a datagram socket."""

    def __init__(self, path: Path):
        self.path = path
        self.open()

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path.unlink(missing_ok=True)
        self.socket.bind(str(self.path))
        self.path.chmod(0o666)
        self.socket.settimeout(seconds(10))

    def close(self) -> None:
        self.socket.close()

    def receive(self) -> tuple[int, int, str]:
        """Priority, pid, text of the next message."""
        message = self.socket.recv(8192).decode()
        match = re.fullmatch(SYSLOG_LINE, message)
        assert match, message
        return int(match[1]), int(match[2]), match[3]

    def await_text(self, pattern: str) -> tuple[int, int, str]:
        while not re.search(pattern, (message := self.receive())[2]):
            pass
        return message


@pytest.fixture
def logger(echod: Echod) -> Iterator[Logger]:
    logger = Logger(echod.dir / "log")
    echod.log_path = None
    echod.settings["log.socket"] = logger.path
    yield logger
    logger.close()


def assert_quick(echod: Echod, clients: int = 20) -> None:
    """Clients are served without waiting for anything."""
    begun = time.monotonic()
    for _ in range(clients):
        echod.assert_serves()
    assert time.monotonic() - begun < seconds(3)


# ---- syslog -------------------------------------------------------------------------------------

@pytest.mark.parametrize("facility, number", [("daemon", 3), ("local3", 19), ("user", 1)])
def test_syslog_priority(echod: Echod, logger: Logger, facility: str, number: int) -> None:
    """Facility and level in one number; name and pid of the supervisor."""
    echod.settings.update({"log.facility": facility, "log.level": "info"})
    echod.start()
    echod.assert_serves()
    priority, pid, text = logger.await_text("connection from")
    assert priority == number * 8 + 6
    assert pid == echod.pid
    assert re.match(r"line/\d+\[\d+\]: connection from 127\.0\.0\.1:\d+ ended", text)


def test_syslog_logger_is_not_there(echod: Echod) -> None:
    """That is said once on stderr, and nothing else happens."""
    echod.log_path = None
    echod.settings["log.socket"] = echod.dir / "nobody"
    done = echod.start()
    assert re.search(r"echod: .*logger.*nobody", done.stderr)
    assert_quick(echod)
    echod.restart()
    echod.assert_serves()


def test_syslog_logger_comes_later(echod: Echod) -> None:
    """It is tried again, once a second at most."""
    path = echod.dir / "log"
    echod.log_path = None
    echod.settings.update({"log.socket": path, "log.level": "info"})
    echod.start()
    logger = Logger(path)
    logger.socket.setblocking(False)

    def heard() -> bool:
        echod.assert_serves()
        try:
            return "dropped" in logger.receive()[2] or True
        except BlockingIOError:
            return False
    wait_until(heard, seconds(5))
    logger.close()


def test_syslog_logger_restarts(echod: Echod, logger: Logger) -> None:
    """A new socket under the same name is found again."""
    echod.settings["log.level"] = "info"
    echod.start()
    echod.assert_serves()
    logger.await_text("connection from")
    logger.close()
    logger.open()
    logger.socket.setblocking(False)

    def heard() -> bool:
        echod.assert_serves()
        try:
            return bool(logger.receive())
        except BlockingIOError:
            return False
    wait_until(heard, seconds(5))


def test_syslog_logger_has_stopped(echod: Echod, logger: Logger) -> None:
    """It never reads: the service goes on, and what was dropped is counted and told later."""
    echod.settings["log.level"] = "info"
    echod.start()
    assert_quick(echod, 60)
    echod.restart()
    assert echod.run("status", expect=0)
    assert_quick(echod, 10)
    logger.socket.setblocking(False)
    while True:  # it reads again: its queue is emptied
        try:
            logger.receive()
        except BlockingIOError:
            break
    logger.socket.settimeout(seconds(10))
    echod.assert_serves()
    priority, _, text = logger.await_text("dropped")
    assert int(re.search(r"(\d+) log messages were dropped", text)[1]) > 0
    assert priority % 8 == 4


def test_syslog_stop_with_a_logger_that_has_stopped(echod: Echod, logger: Logger) -> None:
    """Neither kind of end waits for it."""
    echod.settings["log.level"] = "debug"
    for sig in (signal.SIGTERM, signal.SIGUSR1):
        echod.start()
        assert_quick(echod, 20)
        begun = time.monotonic()
        echod.signal(sig)
        echod.await_end()
        assert time.monotonic() - begun < seconds(1)


# ---- Files --------------------------------------------------------------------------------------

def test_file_lines(echod: Echod) -> None:
    """Each line has time, name, pid, level, text."""
    echod.settings["log.level"] = "debug"
    echod.start()
    echod.assert_serves()
    echod.restart()
    echod.stop()
    lines = echod.log_text().splitlines()
    assert len(lines) >= 4
    for line in lines:
        assert re.fullmatch(FILE_LINE, line), line
        assert f"echod[{echod.pid}]" in line


def test_file_records_of_workers_name_their_sender(echod: Echod) -> None:
    """Workers open nothing: the supervisor writes for them, `line/0[PID]: ` in front."""
    echod.settings.update({"log.level": "info", "services.line.workers": 2})
    echod.start()
    pids = {w.pid for w in echod.workers()}
    for _ in range(10):
        echod.assert_serves()
    senders = echod.await_log(r"line/(\d)\[(\d+)\]: connection")
    assert int(senders[2]) in pids
    for worker in echod.workers():
        assert str(echod.log_path) not in worker.fds.values()


def test_file_connection_line(echod: Echod) -> None:
    """Service, peer, lines, bytes in and out, seconds, why it ended; at level info."""
    echod.settings.update({"log.level": "info", "services.line.max_lines": 0})
    echod.start()
    with echod.connect() as client:
        host, port = client.getsockname()
        client.sendall(b"one\ntwo\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(100):
            pass
    text = echod.await_log(rf"connection from {host}:{port} ended: .*")[0]
    assert re.search(r"2 lines, 8 bytes in, 8 bytes out, \d+\.\d{3} s", text)


def test_file_connections_are_not_logged_by_default(echod: Echod) -> None:
    """Level notice."""
    echod.start()
    echod.assert_serves()
    echod.stop()
    assert "connection from" not in echod.log_text()


def test_file_is_appended_to(echod: Echod) -> None:
    """What stood there before stays."""
    echod.log_path.write_text("2000-01-01T00:00:00.000+00:00 echod[1] notice: before\n")
    echod.start()
    echod.stop()
    lines = echod.log_text().splitlines()
    assert lines[0].endswith("notice: before") and len(lines) > 1


def test_file_is_opened_anew_at_a_restart(echod: Echod) -> None:
    """logrotate: the old file is renamed, and the restart goes on in a new one."""
    echod.start()
    old = echod.dir / "old.log"
    echod.log_path.rename(old)
    echod.restart()
    assert stat.S_IMODE(echod.log_path.stat().st_mode) == 0o640
    wait_until(lambda: "generation 2 serves" in echod.log_text(), seconds(5))
    assert str(old) not in echod.supervisor.fds.values()


def test_file_that_cannot_be_opened(echod: Echod) -> None:
    """At the start an error with its path; at a restart a refusal."""
    echod.settings["log.target"] = "file:/nonexistent/log"
    done = echod.start(expect=1)
    assert re.fullmatch(r"echod: [^\n]*/nonexistent/log: No such file or directory\n", done.stderr)
    assert not echod.pidfile.exists()

    echod.settings.clear()
    echod.configure()
    echod.start()
    echod.expect_log("/nonexistent/log")
    echod.log_path, log = None, echod.log_path
    echod.configure(extra='log = { target = "file:/nonexistent/log"; };\n')
    done = echod.restart(expect=None)
    echod.log_path = log
    assert done.returncode != 0 and "/nonexistent/log" in done.stderr
    echod.assert_serves()
    assert "/nonexistent/log" in log.read_text(), "the refusal is in the log that was"


def test_file_on_a_full_device(echod: Echod) -> None:
    """/dev/full: every write fails for want of space, and nobody minds."""
    echod.log_path = None
    echod.settings.update({"log.target": "file:/dev/full", "log.level": "debug"})
    echod.start()
    assert_quick(echod)
    echod.restart()
    assert_quick(echod)
    echod.stop()


def test_fifo_without_a_reader_is_refused(echod: Echod) -> None:
    """It is not waited for."""
    fifo = echod.dir / "fifo"
    os.mkfifo(fifo)
    echod.settings["log.target"] = f"file:{fifo}"
    done = echod.start(expect=1)
    assert str(fifo) in done.stderr


def test_fifo_whose_reader_does_not_read(echod: Echod) -> None:
    """It fills up; service and verbs go on."""
    fifo = echod.dir / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    echod.log_path = None
    echod.settings.update({"log.target": f"file:{fifo}", "log.level": "info"})
    echod.start()
    filler = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while os.write(filler, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    assert_quick(echod)
    echod.stop()
    os.close(filler)
    os.close(reader)


# ---- stderr -------------------------------------------------------------------------------------

def test_stderr_in_the_foreground(echod: Echod) -> None:
    """The default of -F; name and pid in front."""
    echod.log_path = None
    process = echod.foreground("-v")
    echod.assert_serves()
    echod.stop()
    lines = process.stderr.read().splitlines()
    assert lines
    assert all(re.match(rf"echod\[{echod.pid}\]: |echod: ", line) for line in lines), lines
    assert any("connection from" in line for line in lines)


def test_stderr_is_read_by_journald(echod: Echod) -> None:
    """JOURNAL_STREAM names that very pipe: the level stands in front as <N>."""
    reading, writing = os.pipe()
    st = os.fstat(writing)
    echod.log_path = None
    echod.env["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino}"
    echod.foreground("-v", stderr=writing)
    os.close(writing)
    echod.assert_serves()
    echod.restart()
    echod.assert_serves()
    echod.stop()
    with open(reading) as stream:
        lines = stream.read().splitlines()
    assert lines
    for line in lines:
        assert re.match(r"<[2-7]>(?!echod\[)", line), line
    assert len([line for line in lines if re.match(r"<6>.*connection from", line)]) == 2
    assert any(line.startswith("<5>") for line in lines)


def test_stderr_is_not_the_journals(echod: Echod) -> None:
    """JOURNAL_STREAM was inherited, but names another stream: no prefix."""
    echod.log_path = None
    echod.env["JOURNAL_STREAM"] = "1:2"
    process = echod.foreground("-v")
    echod.stop()
    assert not re.search(r"^<\d>", process.stderr.read(), re.MULTILINE)


def test_stderr_that_nobody_reads(echod: Echod) -> None:
    """A pipe that is full: the service goes on."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    echod.log_path = None
    process = echod.foreground("-v", stderr=writing)
    try:
        while os.write(writing, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.close(writing)
    assert_quick(echod)
    echod.restart()
    assert_quick(echod)
    echod.stop()
    assert process.wait(seconds(10)) == 0
    os.close(reading)


def test_stderr_whose_reader_has_gone(echod: Echod) -> None:
    """`echod -F 2>&1 | head`: a broken pipe ends nothing."""
    reading, writing = os.pipe()
    echod.log_path = None
    process = echod.foreground("-v", stderr=writing)
    os.close(writing)
    os.close(reading)
    assert_quick(echod)
    echod.stop()
    assert process.wait(seconds(10)) == 0


def test_stderr_is_refused_for_a_daemon(echod: Echod) -> None:
    """A daemon has no stderr."""
    echod.settings["log.target"] = "stderr"
    done = echod.start(expect=6)
    assert "foreground" in done.stderr


# ---- What is written ----------------------------------------------------------------------------

def test_start_and_stop_are_notices(echod: Echod) -> None:
    """Whoever reads the log sees when it began to serve, and when and why it ended."""
    echod.start()
    echod.stop()
    text = echod.log_text()
    assert re.search(r" notice: ", text)
    assert len(text.splitlines()) >= 2


def test_refusals_are_logged_with_the_reason(echod: Echod) -> None:
    """A line that is too long: why, who, which service; a worker that goes mad is limited."""
    echod.settings["services.line.max_line"] = 64
    echod.start()
    with echod.connect() as client:
        port = client.getsockname()[1]
        client.sendall(b"x" * 100)
        client.recv(1)
    echod.await_log(rf" notice: line/\d+\[\d+\]: .*127\.0\.0\.1:{port}.*max_line")


def test_log_flood_of_a_worker_is_limited(echod: Echod) -> None:
    """More messages than 50 at once and 10 a second are counted, not written."""
    echod.settings.update({"services.line.max_line": 16, "services.line.workers": 1})
    echod.start()
    for _ in range(150):
        with echod.connect() as client:
            client.sendall(b"x" * 20)
            client.recv(1)
    echod.stop()
    text = echod.log_text()
    written = len(re.findall("is longer than max_line", text))
    assert 50 <= written < 140
    suppressed = sum(int(n) for n in re.findall(r"(\d+) more messages in too short a time", text))
    assert written + suppressed == 150


def test_control_bytes_never_reach_log_or_terminal(echod: Echod) -> None:
    """Names and values from the command line are escaped."""
    done = echod.start("-o", "services.line.protocol=\x1b[2J\nforged line", expect=6)
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_level_names_are_obeyed(echod: Echod) -> None:
    """level error: no notice is written; debug: most of all."""
    echod.settings["log.level"] = "error"
    echod.start()
    echod.restart()
    echod.stop()
    assert echod.log_text() == ""


# ---- A file system without space ----------------------------------------------------------------

@pytest.fixture
def tiny(echod: Echod) -> list[str]:
    """
    The words in front of a command that has a file system of 32 KiB at DIR/tiny.

    It is mounted in a namespace of that command alone; its files are found under /proc/PID/root.
    """
    (echod.dir / "tiny").mkdir()
    script = (f"mount --make-rprivate / && "
              f"mount -t tmpfs -o size=32k,mode=755 tiny {echod.dir}/tiny && "
              "eval \"$1\" && shift && exec \"$@\"")
    return ["unshare", "-m", "sh", "-c", script, "sh"]


@pytest.mark.needs_root
def test_full_file_system_for_the_log(echod: Echod, tiny: list[str]) -> None:
    """Service goes on without space for the log; with space again it is told what was dropped."""
    log = echod.dir / "tiny" / "log"
    echod.log_path = None
    echod.settings.update({"log.target": f"file:{log}", "log.level": "info",
                           "services.line.workers": 4})
    echod.run_command([*tiny, ":", *echod.command("start")], expect=0)
    echod.adopt()
    seen = Path(f"/proc/{echod.pid}/root{log}")
    fill = seen.parent / "fill"
    try:
        with open(fill, "wb", buffering=0) as file:
            while file.write(b"x" * 1024):
                pass
    except OSError:
        pass
    # The rest of the log's last page.
    for _ in range(5):
        assert_quick(echod, 20)
    echod.restart()
    assert_quick(echod, 20)
    size = seen.stat().st_size
    fill.unlink()
    echod.assert_serves()
    wait_until(lambda: seen.stat().st_size > size, seconds(5))
    assert "log messages were dropped" in seen.read_text()
    echod.stop()


@pytest.mark.needs_root
def test_full_file_system_for_the_pidfile(echod: Echod, tiny: list[str]) -> None:
    """A clear error, exit code 1, and no empty pidfile is left."""
    echod.pidfile = echod.dir / "tiny" / "echod.pid"
    echod.expect_log("cannot start: ")
    fill = f"dd if=/dev/zero of={echod.dir}/tiny/fill bs=1k 2>/dev/null || :"
    done = echod.run_command(
        [*tiny, fill, "sh", "-c", '"$@"; code=$?; ls ' + f"{echod.dir}/tiny" + "; exit $code", "sh",
         *echod.command("start")], expect=1)
    assert re.search(rf"^echod: [^\n]*{echod.pidfile}: No space left on device$", done.stderr,
                     re.MULTILINE)
    assert done.stdout.split() == ["fill"]
    assert echod.processes() == []


@pytest.mark.needs_root
def test_read_only_file_system_for_the_pidfile(echod: Echod, tiny: list[str]) -> None:
    """Another reason, as clear."""
    echod.expect_log("cannot start: ")
    echod.pidfile = echod.dir / "tiny" / "echod.pid"
    done = echod.run_command([*tiny, f"mount -o remount,ro {echod.dir}/tiny",
                              *echod.command("start")], expect=1)
    assert re.fullmatch(rf"echod: [^\n]*{echod.pidfile}: Read-only file system\n", done.stderr)


def test_stop_works_though_the_log_is_gone(echod: Echod) -> None:
    """The directory of the log was removed: nobody waits for it."""
    place = echod.dir / "logs"
    place.mkdir()
    echod.settings["log.target"] = f"file:{place}/log"
    echod.start()
    (place / "log").unlink()
    place.rmdir()
    assert_quick(echod)
    done = echod.restart(expect=None)  # the target cannot be opened again: refused, or kept
    assert done.returncode in (0, 1)
    assert_quick(echod)
    assert subprocess.run(echod.command("stop"), env=echod.env, timeout=seconds(20)).returncode == 0
