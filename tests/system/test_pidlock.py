"""The pid lock: one daemon a pidfile, and the right process to signal."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from echod import Echod, read_exactly, read_to_end, seconds
from launching import NOBODY, ordinary
from procfs import Process, lock_holder, wait_until

# Holds a lock of the kind fcntl.<argv[2]> on a file until its stdin ends.
_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+" if sys.argv[2] == "LOCK_EX" else "r")
print("opened", flush=True)
fcntl.lockf(file, getattr(fcntl, sys.argv[2]))
print("locked", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that locks a file."""

    def __init__(self, path: Path, kind: str):
        self.process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path), kind], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == "opened\n"
        assert self.process.stdout.readline() == "locked\n"
        self.pid = self.process.pid

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=20)


def refused(echod: Echod, reason: str) -> None:
    """A start and its refusal: one line with the path and the reason, nothing running."""
    done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*{re.escape(str(echod.pidfile))}[^\n]*{reason}[^\n]*\n",
                        done.stderr), done.stderr
    assert echod.processes() == []
    assert not echod.control.exists()


def test_refused_symbolic_link(echod: Echod) -> None:
    """The link's target is neither written nor removed."""
    target = echod.dir / "precious"
    target.write_text("precious\n")
    echod.pidfile.symlink_to(target)
    refused(echod, "symbolic link")
    assert target.read_text() == "precious\n" and echod.pidfile.is_symlink()
    echod.pidfile.unlink()


def test_refused_dangling_symbolic_link(echod: Echod) -> None:
    """Nothing is created where it points to."""
    echod.pidfile.symlink_to(echod.dir / "nowhere")
    refused(echod, "symbolic link")
    assert not (echod.dir / "nowhere").exists()
    echod.pidfile.unlink()


def test_refused_hard_link(echod: Echod) -> None:
    """A second name of somebody's file: the text under the other name would be overwritten."""
    precious = echod.dir / "precious"
    precious.write_text("precious\n")
    os.link(precious, echod.pidfile)
    refused(echod, "hard link")
    assert precious.read_text() == "precious\n"
    echod.pidfile.unlink()


def test_refused_fifo(echod: Echod) -> None:
    """It does not hang either, with a reader on the other side or without."""
    os.mkfifo(echod.pidfile)
    refused(echod, "not a regular file")
    reader = os.open(echod.pidfile, os.O_RDONLY | os.O_NONBLOCK)
    refused(echod, "not a regular file")
    os.close(reader)
    assert stat.S_ISFIFO(echod.pidfile.stat().st_mode)
    echod.pidfile.unlink()


def test_refused_directory(echod: Echod) -> None:
    echod.pidfile.mkdir()
    refused(echod, "directory")
    echod.pidfile.rmdir()


def test_refused_socket(echod: Echod) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(echod.pidfile))
        refused(echod, "not a regular file")
    echod.pidfile.unlink()


@pytest.mark.needs_root
def test_refused_device(echod: Echod) -> None:
    os.mknod(echod.pidfile, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    refused(echod, "not a regular file")
    echod.pidfile.unlink()


def test_refused_in_a_directory_that_is_not_there(echod: Echod) -> None:
    echod.pidfile = echod.dir / "missing" / "echod.pid"
    refused(echod, "No such file or directory")


def test_refused_for_an_ordinary_user_in_a_directory_of_others(echod: Echod) -> None:
    """Exit code 4: not permitted."""
    ordinary(echod)
    closed = echod.dir / "closed"
    closed.mkdir(mode=0o555)
    echod.pidfile = closed / "echod.pid"
    done = echod.start(expect=4)
    assert re.fullmatch(r"echod: [^\n]*echod\.pid[^\n]*Permission denied\n", done.stderr)


def test_readers_lock_is_named(echod: Echod) -> None:
    """Whoever can read the file can block a cold start: the message says who it is."""
    echod.pidfile.write_text("")
    with Holder(echod.pidfile, "LOCK_SH") as stranger:
        done = echod.start(expect=1)
        assert re.fullmatch(rf"echod: [^\n]*\b{stranger.pid}\b[^\n]*read lock[^\n]*\n", done.stderr)
        # It is no daemon: no verb takes it for one.
        echod.stop(expect=7)
        echod.run("status", expect=1)
    echod.start()


def test_readers_lock_is_refused_while_running(echod: Echod) -> None:
    """A stranger who waits for a read lock does not get it, and disturbs no verb."""
    echod.start()
    waiting = subprocess.Popen([sys.executable, "-c", _HOLDER, str(echod.pidfile), "LOCK_SH"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout.readline() == "opened\n"
    echod.run("status", expect=0)
    echod.restart()
    assert lock_holder(echod.pidfile) == echod.pid
    echod.stop()
    assert waiting.stdout.readline() == "locked\n"
    waiting.communicate(timeout=20)


def test_writers_lock_counts_whatever_the_text(echod: Echod) -> None:
    """Another program's lock: "already running", with the pid of the lock."""
    echod.pidfile.write_text("1\n")
    with Holder(echod.pidfile, "LOCK_EX") as other:
        done = echod.start(expect=1)
        assert done.stderr == f"echod: already running (pid {other.pid})\n"
        assert str(other.pid) in echod.run("status", expect=0).stdout
        assert echod.pidfile.read_text() == "1\n"
    echod.pidfile.unlink()


def test_whoever_else_opens_and_closes_the_file_does_no_harm(echod: Echod) -> None:
    """cat, editors, other locks' owners: the lock is the daemon's own descriptor's."""
    echod.start()
    for mode in ("r", "r+"):
        with open(echod.pidfile, mode):
            pass
    subprocess.run(["cat", echod.pidfile], check=True, stdout=subprocess.DEVNULL)
    for verb in ("status", "check", "restart"):
        echod.run(verb, expect=0)
    assert lock_holder(echod.pidfile) == echod.pid
    links = [link for link in echod.supervisor.fds.values() if link == str(echod.pidfile)]
    assert len(links) == 1, "a second descriptor would drop the lock when it is closed"


def test_workers_do_not_hold_the_pidfile(echod: Echod) -> None:
    """After kill -9 of the supervisor the lock is free though workers live on."""
    echod.start()
    for worker in echod.workers():
        assert str(echod.pidfile) not in worker.fds.values()
    echod.signal(signal.SIGKILL)
    echod.await_end()
    assert lock_holder(echod.pidfile) == 0
    echod.pidfile.unlink()
    echod.control.unlink()


@pytest.mark.parametrize("text", ["", "0\n", "1\n", "4194304", "99999999999999999999\n"], ids=repr)
def test_stale_file_with_any_pid_is_taken_over(echod: Echod, text: str) -> None:
    """Nobody is signalled because of it, and the next start replaces it whole."""
    echod.pidfile.write_text(text)
    echod.stop(expect=7)
    echod.run("status", expect=1)
    echod.start()
    assert echod.pidfile.read_text() == f"{echod.pid}\n"


@pytest.mark.parametrize("text", ["-1\n", "no pid\n", "127.0.0.1 localhost\n", "12\x1b[31m\n",
                                  "x" * 5000], ids=lambda text: repr(text[:20]))
def test_file_that_holds_no_pid_is_not_overwritten(echod: Echod, text: str) -> None:
    """A slip such as -P /etc/hosts must not cost that file; no verb signals anybody for it."""
    echod.pidfile.write_text(text)
    echod.stop(expect=7)
    refused(echod, "pid")
    assert echod.pidfile.read_text() == text
    assert echod.stop(expect=7).stderr.startswith("echod: ")
    echod.pidfile.unlink()


def test_stale_file_of_another_mode_gets_the_right_one(echod: Echod) -> None:
    """0600 would hide the pid from status, 0666 would let anybody change it."""
    for mode in (0o600, 0o666):
        echod.pidfile.write_text("1\n")
        echod.pidfile.chmod(mode)
        echod.start()
        assert stat.S_IMODE(echod.pidfile.stat().st_mode) == 0o644
        echod.stop()


def test_stale_file_is_told_in_the_log(echod: Echod) -> None:
    """On the launcher's stderr and in the log, with the pid that stood in it."""
    echod.pidfile.write_text("4194304\n")
    done = echod.start()
    for text in (done.stderr, echod.log_text()):
        assert re.search(r"process 4194304\b.*taken over", text)


def test_start_right_after_the_supervisor_was_killed(echod: Echod) -> None:
    """Its workers retire: they finish their clients, and the port is free for the next daemon."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 2})
    echod.start()
    with echod.connect() as old:
        old.sendall(b"before\n")
        assert read_exactly(old, 7) == b"before\n"
        old_workers = echod.workers()
        echod.signal(signal.SIGKILL)
        echod.await_end()
        echod.start()
        echod.assert_serves()
        old.sendall(b"after\n")
        assert read_exactly(old, 6) == b"after\n", "the orphaned worker serves its client on"
        old.shutdown(socket.SHUT_WR)
        assert read_to_end(old) == b""
    for worker in old_workers:
        assert worker.await_end(seconds(10))


def test_orphaned_workers_end_after_drain_timeout(echod: Echod) -> None:
    """A client that stays does not keep them for ever."""
    echod.settings.update({"services.line.max_lines": 0, "drain_timeout": 1})
    echod.start()
    with echod.connect() as client:
        client.sendall(b"begun\n")
        assert read_exactly(client, 6) == b"begun\n"
        workers = echod.workers()
        echod.signal(signal.SIGKILL)
        echod.await_end()
        for worker in workers:
            assert worker.await_end(seconds(10))
    echod.pidfile.unlink()
    echod.control.unlink()


def test_held_for_life_through_restarts_and_stops(echod: Echod) -> None:
    """There is no instant in which another start could slip in."""
    echod.start()
    echod.expect_log("cannot start: already running")
    starts = []
    for _ in range(3):
        restart = subprocess.Popen(echod.command("restart"), env=echod.env)
        while restart.poll() is None:
            starts.append(echod.run("start").returncode)
        assert restart.returncode == 0
    assert set(starts) <= {1}, "each start beside a restart was refused"
    assert lock_holder(echod.pidfile) == echod.pid
    echod.assert_serves()


def test_file_replaced_while_running(echod: Echod) -> None:
    """Another file under the name: the verbs see no lock on it, and act on nobody."""
    echod.start()
    echod.pidfile.unlink()
    echod.run("status", expect=3)
    echod.stop(expect=7)
    echod.pidfile.write_text(f"{echod.pid}\n")
    echod.run("status", expect=1)
    echod.stop(expect=7)
    echod.assert_serves()
    # Whoever starts another one now meets the port and the control socket.
    done = echod.start(expect=1)
    assert re.search(r"in use", done.stderr)
    echod.assert_serves()
    assert echod.status()["pid"] == echod.pid
    echod.signal(signal.SIGTERM)
    echod.await_end()
    echod.pidfile.unlink(missing_ok=True)


@pytest.mark.slow
def test_starts_and_stops_that_race(echod: Echod) -> None:
    """Never two daemons, never a wrong exit code, whatever the order."""
    echod.expect_log("cannot start: (already running|ended by SIGUSR1)")
    verbs = ("start", "stop", "start", "stop", "status", "start")
    for _ in range(3):
        running = [subprocess.Popen(echod.command(verb), env=echod.env, text=True,
                                    stderr=subprocess.PIPE)
                   for verb in verbs]
        ended = [(p.communicate(timeout=seconds(60))[1], p.returncode) for p in running]
        for (stderr, code), verb in zip(ended, verbs):
            allowed = {"start": {0, 1}, "stop": {0, 7}, "status": {0, 1, 3}}[verb]
            assert code in allowed, (verb, code, stderr)
            if verb == "start" and code == 1:
                reasons = r"already running \(pid \d+\)|ended by SIGUSR1 [^\n]*"
                assert re.fullmatch(rf"echod: ({reasons})\n", stderr), stderr
        held = lock_holder(echod.pidfile) if echod.pidfile.exists() else 0
        if held:
            echod.adopt()
            echod.assert_serves()
            echod.stop()


@pytest.mark.needs_root
def test_reading_the_lock_needs_no_rights_on_the_daemon(echod: Echod) -> None:
    """Everybody may see who runs; the lock is not harmed by their looking."""
    echod.start()
    for _ in range(3):
        echod.run("status", expect=0, user=NOBODY)
    assert lock_holder(echod.pidfile, fcntl.F_RDLCK) == echod.pid
    assert Process(echod.pid).alive


def test_status_while_another_daemon_starts(echod: Echod) -> None:
    """A start that has the lock but does not serve yet is never reported as a dead pidfile."""
    start = subprocess.Popen(echod.command("start"), env=echod.env)
    codes = set()
    while start.poll() is None:
        codes.add(echod.run("status").returncode)
    assert start.returncode == 0
    assert codes <= {0, 3}
    echod.adopt()
    wait_until(lambda: echod.run("status").returncode == 0, seconds(5))
