"""The control socket: who may ask, what is answered, and that nobody can disturb the daemon."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from echod import Echod, read_to_end, seconds
from launching import NOBODY, start_after
from procfs import wait_until
from test_restart import anonymous_kib

# Connects, sends a question, prints the reply.
_ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
client.connect(sys.argv[1])
try:
    client.sendall(b'{"verb":"status"}\\n')
except BrokenPipeError:
    pass
print(client.recv(65536).decode(), end="")
"""


# Holds the lock on a pidfile and listens at a control socket, but ends every connection at once.
_ENDING = """
import fcntl, socket, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


def connect(echod: Echod) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(echod.control))  # blocks while the queue is full
    client.settimeout(seconds(10))
    return client


def assert_undisturbed(echod: Echod) -> None:
    """It serves, and answers at its control socket."""
    echod.assert_serves()
    assert echod.status()["pid"] == echod.pid


# ---- Who may ask --------------------------------------------------------------------------------

@pytest.mark.parametrize("mask", [0, 0o077])
def test_mode_is_0600_from_the_first_instant(echod: Echod, mask: int) -> None:
    """Whatever the launcher's umask, nobody ever sees another mode."""
    modes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                modes.add(stat.S_IMODE(os.lstat(echod.control).st_mode))
            except FileNotFoundError:
                pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(4):
            start_after(echod, f"os.umask({mask})")
            echod.restart()
            echod.stop()
    finally:
        done.set()
        watcher.join()
    assert modes == {0o600}


def test_owner_is_the_supervisors_user(echod: Echod) -> None:
    echod.start()
    assert echod.control.stat().st_uid == os.geteuid()
    assert stat.S_ISSOCK(echod.control.stat().st_mode)


@pytest.mark.needs_root
def test_foreign_user_is_refused_by_the_mode(echod: Echod) -> None:
    echod.start()
    done = echod.run_command([sys.executable, "-c", _ASK, str(echod.control)], user=NOBODY)
    assert "PermissionError" in done.stderr


@pytest.mark.needs_root
def test_foreign_user_is_refused_by_the_credentials(echod: Echod) -> None:
    """Should somebody open up the mode, the kernel still says who asks; it is logged."""
    echod.start()
    echod.control.chmod(0o666)
    done = echod.run_command([sys.executable, "-c", _ASK, str(echod.control)], user=NOBODY,
                             expect=0)
    answer = json.loads(done.stdout)
    assert answer["ok"] is False and answer["code"] == 4 and answer["error"]
    echod.await_log(rf" warning: .*{NOBODY}")
    assert_undisturbed(echod)


@pytest.mark.needs_root
def test_root_may_ask_the_daemon_of_an_ordinary_user(echod: Echod) -> None:
    """And stop it: root looks after everybody's daemons."""
    echod.become(NOBODY)
    echod.start()
    echod.user = None
    assert echod.status()["ok"]
    echod.run("restart", expect=0)
    echod.stop()


# ---- What is answered ---------------------------------------------------------------------------

def test_status_over_the_socket(echod: Echod) -> None:
    """One line of JSON in, one line of JSON out, and the end of file."""
    echod.start()
    with connect(echod) as client:
        client.sendall(b'{"verb":"status"}\n')
        reply = read_to_end(client)
    assert reply.endswith(b"\n") and reply.count(b"\n") == 1
    answer = json.loads(reply)
    assert answer["ok"] is True and answer["schema"] == 1 and answer["pid"] == echod.pid


def test_request_may_come_in_pieces(echod: Echod) -> None:
    """Byte by byte."""
    echod.start()
    with connect(echod) as client:
        for byte in b'{ "verb" : "status" }\r\n':
            client.send(bytes([byte]))
        assert json.loads(read_to_end(client))["ok"] is True


def test_sender_may_shut_down_its_side(echod: Echod) -> None:
    """`echo '{"verb":"status"}' | socat - UNIX:...` gets its reply."""
    echod.start()
    for _ in range(20):
        with connect(echod) as client:
            client.sendall(b'{"verb":"status"}\n')
            client.shutdown(socket.SHUT_WR)
            assert json.loads(read_to_end(client))["ok"] is True


@pytest.mark.parametrize("request_line", [
    b"\n", b"garbage\n", b"{}\n", b"[]\n", b"null\n", b"42\n", b'"status"\n', b'{"verb":7}\n',
    b'{"verb":null}\n', b'{"verb":["status"]}\n', b'{"verb":"no-such-verb"}\n', b'{"verb":""}\n',
    b'{"verb":"status"\n', b'{"verb":"status"}}\n', b'{"verb":"status","verb":"status"}\n',
    b"\0\0\0\n", b"\xff\xfe\n", b'{"verb":"\xff"}\n', b'{"verb":"\\u0000"}\n', b"[" * 4000 + b"\n",
    b'{"verb":"' + b"x" * 3000 + b'"}\n', b'{"verb":"\x1b[2J"}\n',
    b'{"verb":"\\u001b[2J\\n"}\n',
], ids=lambda line: repr(line[:20]))
def test_garbage_gets_a_clear_error(echod: Echod, request_line: bytes) -> None:
    """Not a request: {"ok":false,"error":…,"code":2}, and nothing else happens."""
    echod.start()
    answer = echod.ask_raw(request_line)
    assert answer["ok"] is False and answer["code"] == 2
    assert isinstance(answer["error"], str) and len(answer["error"]) > 5
    assert_undisturbed(echod)


def test_oversize_request(echod: Echod) -> None:
    """A megabyte without a newline is neither stored nor waited for."""
    echod.start()
    with connect(echod) as client:
        reply = b""
        try:
            client.sendall(b"x" * 1_000_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            reply = read_to_end(client)
        except ConnectionResetError:
            pass
    if reply:
        assert json.loads(reply)["ok"] is False
    assert_undisturbed(echod)


def test_oversize_request_is_told(echod: Echod) -> None:
    """Just over the limit: the reply says what the limit is."""
    echod.start()
    answer = echod.ask_raw(b"x" * 16384)
    assert answer["ok"] is False and "16384" in answer["error"]


@pytest.mark.slow
def test_half_request_runs_into_a_limit(echod: Echod) -> None:
    """A client that does not finish its line is told so and let go, as is one that says nothing."""
    echod.start()
    with connect(echod) as half, connect(echod) as silent:
        half.sendall(b'{"verb":"sta')
        assert_undisturbed(echod)
        begun = time.monotonic()
        for client in (half, silent):
            answer = json.loads(read_to_end(client))
            assert answer["ok"] is False and "second" in answer["error"]
        assert 1 < time.monotonic() - begun < seconds(9)


def test_many_clients_at_once(echod: Echod) -> None:
    """More than are served at once: each gets an answer or an error, and the service goes on."""
    echod.start()
    clients = [connect(echod) for _ in range(16)]
    for client in clients:
        client.sendall(b'{"verb":')
    echod.assert_serves()
    for client in clients:
        client.sendall(b'"status"}\n')
    answers = [json.loads(read_to_end(client)) for client in clients]
    assert all(isinstance(answer["ok"], bool) for answer in answers)
    assert any(answer["ok"] for answer in answers)
    for client in clients:
        client.close()
    assert_undisturbed(echod)


def test_clients_that_vanish(echod: Echod) -> None:
    """At every moment: before, in and after the request, without reading the reply."""
    echod.start()
    before = len(echod.supervisor.fds)
    for part in (b"", b'{"ver', b'{"verb":"status"}\n', b'{"verb":"await-restart"}\n'):
        for _ in range(10):
            client = connect(echod)
            client.sendall(part)
            client.close()
    assert_undisturbed(echod)
    wait_until(lambda: len(echod.supervisor.fds) <= before, seconds(5), "nothing is kept")


def test_second_request_on_one_connection_is_not_answered(echod: Echod) -> None:
    """One request a connection."""
    echod.start()
    with connect(echod) as client:
        client.sendall(b'{"verb":"status"}\n{"verb":"status"}\n')
        assert read_to_end(client).count(b"\n") == 1
    assert_undisturbed(echod)


def test_client_that_waits_is_answered_over_a_restart(echod: Echod) -> None:
    """The hand-over carries control clients to the next image, half a request included."""
    echod.start()
    with connect(echod) as client:
        client.sendall(b'{"verb":')
        echod.restart()
        client.sendall(b'"status"}\n')
        answer = json.loads(read_to_end(client))
    assert answer["ok"] is True and answer["generation"] == 2


# ---- Requests that are no orders ----------------------------------------------------------------

_DEEP = "[" * 3000 + "]" * 3000

WRONG = {
    # What an order is about is the first of args, a text.
    **{f"stop {args[:24]}": f'{{"verb":"stop","args":{args}}}' for args in (
        "null", '"line"', "7", "true", '{"0":"line"}', "[]", "[null]", "[7]", "[true]", "[1e5]",
        '[["line"]]', '[{"name":"line"}]', '[""]', '["line","line"]', '["line",7]', '["nothing"]',
        '["line\\u0000"]', '["\\u0000"]', '["line\\n"]', '["\\ud800"]', '["LINE"]',
        '["' + "x" * 10000 + '"]', _DEEP, '["line"],"args":["line"]')},
    "stop without args": '{"verb":"stop"}',
    "two verbs": '{"verb":"ps","verb":"stop","args":["line"]}',
    "nested verb": '{"verb":{"verb":"stop"},"args":["line"]}',
    **{f"{verb} two": f'{{"verb":"{verb}","args":["line","other"]}}' for verb in
       ("start", "stop", "kill", "remove")},
    # Signals are texts, too.
    **{f"kill {sig[:24]}": f'{{"verb":"kill","args":["line"],"signal":{sig}}}' for sig in (
        "9", "15", "0", "-1", "true", "[]", '["KILL"]', "{}", '""', '"0"', '"-1"', '"99"',
        '"SIGNOTHING"', '"KILL "', '"9223372036854775808"', '"' + "9" * 5000 + '"', "1e999",
        "99999999999999999999")},
    # A command is made of texts.
    **{f"add {args[:24]}": f'{{"verb":"add","args":{args}}}' for args in (
        '["new"]', '["new",""]', '["new",7]', '["new",null]', '["new",["/bin/sleep"]]',
        '["new","/bin/sleep",60]', '["new","/bin/sleep",null]', '["new","sleep","60"]',
        '["new","/nonexistent/command"]', '["new","/tmp"]', '["line","/bin/sleep","60"]',
        '["two words","/bin/sleep","60"]', '["../new","/bin/sleep","60"]',
        '["new\\u0000","/bin/sleep","60"]', '["new","/bin/sleep\\u0000","60"]',
        '["' + "n" * 200 + '","/bin/sleep","60"]', '[' + '"new",' * 9999 + '"new"]',
        '["new","/bin/echo"' + ',"x"' * 2000 + ']')},
    **{f"add with {more}": f'{{"verb":"add","args":["new","/bin/sleep","60"],{more}}}' for more in (
        '"user":0', '"user":["root"]', '"user":""', '"user":"no-such-user-here"', '"restart":true',
        '"restart":["always"]', '"restart":"sometimes"', '"restart":""')},
}


@pytest.mark.timeout(120)
def test_orders_of_wrong_types_are_refused(echod: Echod) -> None:
    """Each with a clear error in one line; no service and no process is touched by any of them."""
    echod.configure(echod.service(workers=1), echod.service(
        "other", listen=[f"127.0.0.1:{echod.another_port()}"], workers=1))
    echod.start()
    before = [(p["name"], p["pid"], p["state"]) for p in echod.status()["processes"]]
    memory, wrong = [], []
    for _ in range(3):
        for name, request in WRONG.items():
            with connect(echod) as client:
                client.sendall(request.encode() + b"\n")
                reply = read_to_end(client)
            answer = json.loads(reply)
            if answer["ok"] is not False or answer["code"] not in (1, 2, 6) or \
                    len(answer["error"]) < 10 or reply.count(b"\n") != 1:
                wrong.append(f"{name}: {reply[:200]!r}")
        assert not wrong, "\n".join(wrong)
        memory.append(anonymous_kib(echod.supervisor))  # the first of them may need some more
    status = echod.status()
    assert [(p["name"], p["pid"], p["state"]) for p in status["processes"]] == before
    assert [(s["name"], s["state"]) for s in status["services"]] == \
        [("line", "running"), ("other", "running")]
    # Sanitizers keep what was freed for a while.
    assert echod.sanitized or memory[2] <= memory[0] * 1.05 + 16, memory
    assert_undisturbed(echod)


def test_invalid_utf8_is_refused_wherever_it_stands(echod: Echod) -> None:
    echod.start()
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"):
        for request in (b'{"verb":"stop","args":["line%s"]}\n', b'{"verb":"ps%s"}\n',
                        b'{"%s":1,"verb":"status"}\n', b'{"verb":"kill","args":["line"],'
                        b'"signal":"KILL%s"}\n', b"%s\n"):
            answer = echod.ask_raw(request % bad)
            assert answer["ok"] is False and answer["code"] == 2 and answer["error"]
    assert_undisturbed(echod)


# ---- Crowds -------------------------------------------------------------------------------------

def latency(ask: Callable[[], object], tries: int = 15) -> float:
    """The median of some round trips, in seconds."""
    took = []
    for _ in range(tries):
        begun = time.monotonic()
        ask()
        took.append(time.monotonic() - begun)
    return sorted(took)[tries // 2]


class Unmoved:
    """Around whatever clients do: memory, descriptors and both round trips stay as they were."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        for _ in range(5):
            assert_undisturbed(echod)
        self.memory, self.fds = anonymous_kib(echod.supervisor), len(echod.supervisor.fds)
        self.status, self.line = latency(self.ask), latency(echod.assert_serves)

    def ask(self) -> None:
        assert self.echod.status()["pid"] == self.echod.pid

    def check(self) -> None:
        """While they are there."""
        status, line = latency(self.ask), latency(self.echod.assert_serves)
        # On a machine that does other things as well, more than this cannot be told.
        assert status <= 5 * self.status + seconds(0.05), (status, self.status)
        assert line <= 5 * self.line + seconds(0.05), (line, self.line)
        self.check_memory(512)

    def check_end(self) -> None:
        """When they have gone."""
        wait_until(lambda: len(self.echod.supervisor.fds) <= self.fds, seconds(10),
                   "no descriptor is kept")
        self.check_memory(256)

    def check_memory(self, more: int) -> None:
        if not self.echod.sanitized:  # else what was freed is kept for a while
            assert anonymous_kib(self.echod.supervisor) <= self.memory * 1.1 + more


def test_1000_silent_clients(echod: Echod) -> None:
    """They connect and say nothing: whoever comes after them is answered at once all the same."""
    echod.start()
    unmoved = Unmoved(echod)
    clients = [connect(echod) for _ in range(1000)]
    unmoved.check()
    for half in clients[-10:]:
        try:
            half.sendall(b'{"verb":"sta')
        except BrokenPipeError:
            pass
    unmoved.check()
    told = 0
    for client in clients[:900]:  # who was silent for longest had to make room, and hears why
        reply = read_to_end(client)
        answer = json.loads(reply)
        assert reply.count(b"\n") == 1 and answer["ok"] is False and "too many" in answer["error"]
        told += 1
    assert told == 900
    for client in clients:
        client.close()
    unmoved.check_end()


def test_who_waits_for_an_outcome_is_not_sent_away_by_a_crowd(echod: Echod) -> None:
    """Silent clients have to make room, not one whose order has been accepted."""
    echod.configure(echod.service(workers=1), drain_timeout=20)
    echod.start()
    with echod.connect() as begun, connect(echod) as waiting:
        begun.sendall(b"half a line")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] > 0, seconds(5))
        waiting.sendall(b'{"verb":"stop","args":["line"]}\n')
        wait_until(lambda: echod.status()["services"][0]["state"] == "stopping", seconds(5))
        crowd = [connect(echod) for _ in range(60)]
        assert echod.status()["ok"]
        begun.sendall(b"\n")
        assert read_to_end(begun) == b"half a line\n"
        answer = json.loads(read_to_end(waiting))
    assert answer["ok"] is True and answer["text"] == "line is stopped"
    for client in crowd:
        client.close()


def test_clients_that_never_read(echod: Echod) -> None:
    """A thousand questions whose answers nobody takes."""
    echod.configure(*(echod.service(f"service-{number}", workers=1, listen=[
        f"127.0.0.1:{port}"]) for number, port in enumerate(
            [echod.port, *(echod.another_port() for _ in range(9))])))
    echod.start()
    unmoved = Unmoved(echod)
    clients = []
    for number in range(1000):
        clients.append(connect(echod))
        clients[-1].sendall(b'{"verb":"%s"}\n' % (b"status", b"ps", b"nothing")[number % 3])
    unmoved.check()
    for client in clients:
        client.close()
    unmoved.check_end()


def test_long_and_broken_requests_leave_nothing_behind(echod: Echod) -> None:
    """A megabyte without a newline, many times, and ends in the middle of everything."""
    echod.start()
    unmoved = Unmoved(echod)
    block = b"x" * 1048576
    for number in range(30):
        with connect(echod) as client:
            try:
                client.sendall(block if number % 3 else b'{"verb":"stop","args":["' + block)
                client.shutdown(socket.SHUT_WR)
                reply = read_to_end(client)
            except (BrokenPipeError, ConnectionResetError):
                reply = b""  # more was sent than it would ever read
        assert reply == b"" or "16384" in json.loads(reply)["error"]
    unmoved.check()
    for cut in range(1, 36):
        with connect(echod) as client:
            client.sendall(b'{"verb":"stop","args":["no-such-name"]}'[:cut])
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
    unmoved.check()
    unmoved.check_end()


# ---- The file of the socket ---------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["full", "datagram", "link to a living", "link to a stale"])
def test_socket_of_somebody_else_is_left_alone(echod: Echod, kind: str) -> None:
    """Whether he answers at the moment or not: the start is refused, and his socket stays."""
    place = echod.dir / "other.sock" if kind.startswith("link") else echod.control
    other = socket.socket(socket.AF_UNIX,
                          socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
    other.bind(str(place))
    waiting = []
    if kind != "datagram":
        other.listen(0)
    if kind == "link to a stale":
        other.close()
    if kind == "full":  # he does not accept, and his queue takes no more
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(str(place))
            except BlockingIOError:
                break
    if kind.startswith("link"):
        echod.control.symlink_to(place)
    before = [os.lstat(path).st_ino for path in (place, echod.control)]
    done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*{echod.control}[^\n]*\n", done.stderr)
    assert [os.lstat(path).st_ino for path in (place, echod.control)] == before
    assert not echod.pidfile.exists() and echod.processes() == []
    for client in waiting:
        client.close()
    other.close()
    for path in {place, echod.control}:
        path.unlink()
    echod.start()
    assert_undisturbed(echod)


def test_stale_socket_is_replaced(echod: Echod) -> None:
    """After kill -9 both files remain; the next start takes over."""
    echod.start()
    echod.signal(signal.SIGKILL)
    echod.await_end()
    old = echod.control.stat().st_ino
    echod.start()
    assert_undisturbed(echod)
    assert echod.control.stat().st_ino != old or True  # inode numbers may be used again
    echod.await_log("the socket .* replaced")


def test_socket_of_another_daemon_is_not_taken(make_echod) -> None:
    """Two pidfiles, one control path: the second start is refused, the first goes on."""
    first, second = make_echod(), make_echod()
    first.start()
    done = second.start("-o", f"control={first.control}", expect=1)
    assert re.fullmatch(rf"echod: [^\n]*{first.control}[^\n]*\n", done.stderr)
    assert not second.pidfile.exists()
    assert_undisturbed(first)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_what_is_no_socket_is_left_alone(echod: Echod, kind: str) -> None:
    """The start is refused with the reason; nothing is removed or followed."""
    target = echod.dir / "target"
    if kind == "file":
        echod.control.write_text("precious")
    elif kind == "directory":
        echod.control.mkdir()
    elif kind == "link":
        echod.control.symlink_to(target)
    else:
        os.mkfifo(echod.control)
    before = os.lstat(echod.control)
    done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*{echod.control}[^\n]*\n", done.stderr)
    after = os.lstat(echod.control)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert not target.exists()
    assert not echod.pidfile.exists()
    echod.control.rmdir() if kind == "directory" else echod.control.unlink()


def test_socket_that_was_replaced_is_not_unlinked_at_the_end(echod: Echod) -> None:
    """Somebody else's socket under the name stays, as does a file."""
    for make in (lambda: echod.control.write_text("x"), lambda: _listen(echod.control)):
        echod.start()
        echod.control.unlink()
        other = make()
        echod.signal(signal.SIGTERM)
        echod.await_end()
        assert echod.control.exists()
        echod.control.unlink()
        del other


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_socket_that_was_removed(echod: Echod) -> None:
    """The verbs still work by the lock: status says that it runs, stop stops."""
    echod.start()
    echod.control.unlink()
    assert str(echod.pid) in echod.run("status", expect=0).stdout
    echod.stop()


def test_verbs_believe_only_the_holder_of_the_lock(echod: Echod) -> None:
    """An impostor listens at the control path: his answer is not taken for the daemon's."""
    echod.start()
    echod.control.unlink()
    impostor = _listen(echod.control)
    impostor.settimeout(seconds(10))

    def answer() -> None:
        try:
            while True:
                client, _ = impostor.accept()
                try:
                    client.sendall(b'{"ok":true,"schema":1,"pid":1,"version":"6.6.6"}\n')
                except OSError:
                    pass
                client.close()
        except OSError:
            pass

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    done = echod.run("status", expect=0)
    assert str(echod.pid) in done.stdout and "6.6.6" not in done.stdout
    done = echod.run("status", "--json", expect=0)
    assert json.loads(done.stdout)["pid"] == echod.pid and "6.6.6" not in done.stdout
    impostor.shutdown(socket.SHUT_RDWR)
    impostor.close()
    thread.join(seconds(10))
    echod.control.unlink()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_verb_survives_a_daemon_that_is_just_ending(echod: Echod) -> None:
    """The connection ends between connect and the question: no SIGPIPE, the lock still answers."""
    command = [sys.executable, "-c", _ENDING, str(echod.pidfile), str(echod.control)]
    ending = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ending.stdout.readline() == "ready\n"
        echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"  # that check does not work under strace
        slow = ["strace", "-o", "/dev/null", "-e", "trace=connect",
                "-e", "inject=connect:delay_exit=200000"]
        done = echod.run_command([*slow, *echod.command("status")], expect=0)
        assert str(ending.pid) in done.stdout
    finally:
        ending.kill()
        ending.communicate()
    echod.pidfile.unlink()
    echod.control.unlink()


def test_own_place_for_the_socket(echod: Echod) -> None:
    """`control` in the configuration; the verbs find it through the same file."""
    place = echod.dir / "elsewhere.sock"
    echod.configure(control=str(place))
    echod.control = place
    echod.start()
    assert echod.status()["control"] == str(place)
    assert not (echod.dir / "echod.sock").exists()
    echod.run("restart", expect=0)
    assert json.loads(echod.run("status", "--json", expect=0).stdout)["generation"] == 2


def test_two_daemons_beside_each_other(make_echod) -> None:
    """Different pidfiles and ports: verbs reach the one that they name."""
    first, second = make_echod("first"), make_echod("second")
    first.start()
    second.start()
    first.restart()
    assert first.status()["generation"] == 2 and second.status()["generation"] == 1
    first.stop()
    second.assert_serves()
    assert subprocess.run(second.command("status"), env=second.env,
                          stdout=subprocess.DEVNULL).returncode == 0


def test_want_of_descriptors_does_not_burn_the_processor(echod: Echod) -> None:
    """A control client that cannot be accepted waits; the supervisor does not spin meanwhile."""
    echod.start()
    pid = echod.pid
    in_use = len(echod.supervisor.fds)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The highest number in use counts: nothing beyond it may be opened.
    highest = max(echod.supervisor.fds)
    free = highest + 1 - in_use
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    clients = []
    for _ in range(free + 1):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(echod.control))
        clients.append(client)
    wait_until(lambda: len(echod.supervisor.fds) == in_use + free, seconds(5), "all are in use")
    ticks = echod.supervisor.cpu_ticks
    time.sleep(0.5)  # a span to measure over, not an event to wait for
    used = echod.supervisor.cpu_ticks - ticks
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert used <= 15, f"{used} ticks in half a second"
    assert echod.status()["ok"]


def test_reason_that_is_not_utf8_is_answered_at_once(echod: Echod) -> None:
    """A file may have any name; the verb still learns what is wrong."""
    path = echod.dir / os.fsdecode(b"latin-\xe9.conf")
    echod.config = path
    path.write_text(f'log = {{ target = "file:{echod.log_path}"; }};\n'
                    f'pidfile = "{echod.pidfile}";\n'
                    f'services = ( {echod.service()} );\n')
    echod.start()
    echod.expect_log("restart in place refused")
    with open(path, "a") as file:
        file.write("nonsense = 1;\n")
    begun = time.monotonic()
    done = echod.run("restart", "-P", str(echod.pidfile), expect=6)
    assert "nonsense" in done.stderr
    assert time.monotonic() - begun < seconds(3)


def test_socket_that_was_lost_is_bound_anew_at_a_restart(echod: Echod) -> None:
    """Its directory goes, a restart finds no place for it, and a later one does."""
    place = echod.dir / "place"
    place.mkdir()
    echod.control = place / "echod.sock"
    echod.settings["control"] = echod.control
    echod.start()
    echod.expect_log("control socket")
    echod.expect_log("control: cannot bind")
    shutil.rmtree(place)
    echod.signal(signal.SIGHUP)
    echod.await_log("generation 2 serves")
    place.mkdir()
    echod.signal(signal.SIGHUP)
    echod.await_log("generation 3 serves")
    assert echod.status()["generation"] == 3
