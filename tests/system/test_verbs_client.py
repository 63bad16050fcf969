"""The command's side of the verbs for services: what is asked, what is printed, how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any, Iterator

import pytest

from echod import Echod, seconds
from fakedaemon import FakeDaemon

ONE_LINE = r"echod: [^\n]+\n"


@pytest.fixture
def fake(echod: Echod) -> Iterator[FakeDaemon]:
    with FakeDaemon(echod.pidfile, echod.control) as daemon:
        yield daemon


def run(echod: Echod, verb: str, *words: str, expect: int,
        **popen: Any) -> subprocess.CompletedProcess[str]:
    """A verb, found by its pidfile; `start` too, which with a NAME takes no option of a start."""
    return echod.run_command([str(echod.executable), verb, "-P", str(echod.pidfile), *words],
                             expect=expect, **popen)


def line(**request: Any) -> bytes:
    """A request as it has to come."""
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


# ---- What is asked ------------------------------------------------------------------------------

@pytest.mark.parametrize("words, request_line", [
    (["ps", "--json"], b'{"verb":"ps"}\n'),
    (["start", "sensor"], b'{"verb":"start","args":["sensor"]}\n'),
    (["stop", "line"], b'{"verb":"stop","args":["line"]}\n'),
    (["remove", "x"], b'{"verb":"remove","args":["x"]}\n'),
    (["kill", "line"], b'{"verb":"kill","args":["line"],"signal":"SIGKILL"}\n'),
    (["kill", "line/0", "-s", "HUP"], b'{"verb":"kill","args":["line/0"],"signal":"SIGHUP"}\n'),
    (["kill", "-s", "SIGHUP", "x"], b'{"verb":"kill","args":["x"],"signal":"SIGHUP"}\n'),
    (["kill", "-s1", "x"], b'{"verb":"kill","args":["x"],"signal":"SIGHUP"}\n'),
    (["kill", "x", "--signal=term"], b'{"verb":"kill","args":["x"],"signal":"SIGTERM"}\n'),
    (["kill", "--", "-x"], b'{"verb":"kill","args":["-x"],"signal":"SIGKILL"}\n'),
    (["add", "x", "--", "/bin/sh"], b'{"verb":"add","args":["x","/bin/sh"]}\n'),
    (["add", "x", "--user", "nobody", "--", "/bin/sh"],
     b'{"verb":"add","args":["x","/bin/sh"],"user":"nobody"}\n'),
    (["add", "x", "--restart=on-failure", "--user=nobody", "--", "/bin/sh"],
     b'{"verb":"add","args":["x","/bin/sh"],"user":"nobody","restart":"on-failure"}\n'),
], ids=lambda value: "_".join(value) if isinstance(value, list) else "")
def test_request(echod: Echod, fake: FakeDaemon, words: list[str], request_line: bytes) -> None:
    """One line of JSON, byte for byte."""
    fake.answer({"ok": True, "schema": 1, "text": "done", "services": []})
    run(echod, *words, expect=0)
    assert fake.requests == [request_line]


def test_options_of_an_added_command_are_its_own(echod: Echod, fake: FakeDaemon) -> None:
    """Behind "--" nothing is echod's: no option, no second "--"."""
    command = ["/bin/sh", "-c", "exit", "-q", "-P", "/nowhere", "--", "--json", "stop"]
    run(echod, "add", "x", "--", *command, expect=0)
    assert fake.requests == [line(verb="add", args=["x", *command])]


def test_words_arrive_as_they_were_typed(echod: Echod, fake: FakeDaemon) -> None:
    """Quotes, control bytes, UTF-8, nothing at all."""
    command = ["/bin/sh", "", " ", '"', "\\", "a\nb", "\x01", "grüße", "\U0001f600", "$HOME", "'"]
    run(echod, "add", "x", "--", *command, expect=0)
    [request] = fake.requests
    assert json.loads(request) == {"verb": "add", "args": ["x", *command]}
    assert request.count(b"\n") == 1


def test_add_looks_the_command_up_where_it_is_typed(echod: Echod, fake: FakeDaemon) -> None:
    """In the caller's PATH and directory: the daemon has others."""
    tools = echod.dir / "tools"
    tools.mkdir()
    (tools / "tool").write_text("#!/bin/sh\n")
    (tools / "tool").chmod(0o755)
    echod.env["PATH"] = f"/nowhere:{tools}"
    run(echod, "add", "x", "--", "tool", expect=0)
    run(echod, "add", "x", "--", "tools/tool", expect=0, cwd=echod.dir)
    run(echod, "add", "x", "--", "./tool", expect=0, cwd=tools)
    paths = [json.loads(request)["args"][1] for request in fake.requests]
    assert paths == [f"{tools}/tool", f"{tools}/tool", f"{tools}/./tool"]


@pytest.mark.parametrize("command, reason", [
    ("no-such-tool", "no-such-tool' in PATH"),
    ("./nothing", "./nothing: No such file or directory"),
    ("./data", "./data: it is not an executable file"),
    (".", "'.' in PATH"),
    ("/tmp", "/tmp: it is not an executable file"),
    ("", "'' in PATH"),
])
def test_add_of_what_cannot_be_executed(echod: Echod, fake: FakeDaemon, command: str,
                                        reason: str) -> None:
    """An error before anything is asked."""
    (echod.dir / "data").write_text("")
    done = run(echod, "add", "x", "--", command, expect=1, cwd=echod.dir)
    assert re.fullmatch(ONE_LINE, done.stderr) and reason in done.stderr
    assert fake.requests == []


def test_a_request_may_have_16384_bytes(echod: Echod, fake: FakeDaemon) -> None:
    """Its newline included; a longer one is refused before it is sent."""
    room = 16384 - len(line(verb="add", args=["x", "/bin/sh", ""]))
    run(echod, "add", "x", "--", "/bin/sh", "a" * room, expect=0)
    assert [len(request) for request in fake.requests] == [16384]
    done = run(echod, "add", "x", "--", "/bin/sh", "a" * (room + 1), expect=2)
    assert re.fullmatch(ONE_LINE, done.stderr) and "16384" in done.stderr
    assert [len(request) for request in fake.requests] == [16384]


@pytest.mark.parametrize("words", [
    ["stop", "caf\udce9"],
    ["kill", "\udcff"],
    ["add", "x", "--", "/bin/sh", "caf\udce9"],
    ["add", "x", "--user", "caf\udce9", "--", "/bin/sh"],
], ids=lambda words: words[0] + str(len(words)))
def test_words_that_are_not_utf8(echod: Echod, fake: FakeDaemon, words: list[str]) -> None:
    """JSON cannot carry them: said, with the word in a form that any terminal can show."""
    done = run(echod, *words, expect=2)
    assert re.fullmatch(ONE_LINE, done.stderr)
    assert "not valid UTF-8" in done.stderr and re.search(r"\\x(e9|ff)", done.stderr)
    assert fake.requests == []


# ---- Usage --------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, reason", [
    (["kill"], "kill needs a NAME: 'echod ps' lists them"),
    (["remove"], "remove needs a NAME: 'echod ps' lists them"),
    (["add"], "add needs a NAME and, behind '--', a COMMAND"),
    (["add", "x"], "add needs a NAME and, behind '--', a COMMAND"),
    (["add", "x", "--"], "add needs a NAME and, behind '--', a COMMAND"),
    (["add", "x", "/bin/sh"], "add needs '--' in front of the COMMAND"),
    (["add", "x", "/bin/sh", "-T", "--"], "-T needs a time such as 10, 0.5 or 2m, not '--'"),
    (["stop", "a", "b"], "stop takes no 'b' behind it: one NAME at a time"),
    (["start", "a", "b"], "start takes no 'b' behind it: one NAME at a time"),
    (["kill", "a", "b"], "kill takes no 'b' behind it: one NAME at a time"),
    (["ps", "line"], "ps takes no 'line' behind it"),
    (["stop", ""], "the NAME behind stop is empty"),
    (["start", "x", "-F"], "-F is for a start of the daemon"),
    (["start", "x", "-v"], "-v is for a start of the daemon"),
    (["stop", "x", "-o", "drain_timeout=1"], "-o is for a start of the daemon"),
    (["add", "x", "-p", "4000", "--", "/bin/sh"], "-p is for a start of the daemon"),
    (["kill", "x", "-l", "::1"], "-l is for a start of the daemon"),
    (["stop", "x", "--json"], "--json is for access, ps and status, not for stop"),
    (["stop", "x", "-s", "HUP"], "-s is for kill, not for stop"),
    (["kill", "x", "--user", "nobody"], "--user is for add, not for kill"),
    (["start", "x", "--restart", "never"], "--restart is for add, not for start"),
    (["kill", "x", "-s", "NOPE"], "-s needs a signal such as HUP, SIGHUP or 1, not 'NOPE'"),
    (["kill", "x", "-s", ""], "-s needs a signal such as HUP, SIGHUP or 1, not ''"),
    (["kill", "x", "-s", "0"], "-s needs a signal such as HUP, SIGHUP or 1, not '0'"),
    (["add", "x", "--restart", "no", "--", "/bin/sh"],
     "--restart needs always, on-failure or never, not 'no'"),
    (["add", "x", "--user", "", "--", "/bin/sh"], "--user needs a name, not ''"),
    (["restart", "line"], "'echod stop NAME' and 'echod start NAME', or 'echod kill NAME'"),
    (["reload", "line"], "'echod stop NAME' and 'echod start NAME', or 'echod kill NAME'"),
    (["pss"], "did you mean 'ps'?"),
    (["remvoe"], "did you mean 'remove'?"),
    (["kill", "x", "--singal", "HUP"], "did you mean --signal?"),
], ids=lambda value: "_".join(value) if isinstance(value, list) else "")
def test_wrong_usage(echod: Echod, fake: FakeDaemon, words: list[str], reason: str) -> None:
    """Exit 2, the reason and the usage on stderr, and nothing is asked."""
    done = run(echod, *words, expect=2)
    first, rest = done.stderr.split("\n", 1)
    assert first.startswith("echod: ") and reason in first
    assert rest.startswith("Usage: echod ") and done.stdout == ""
    assert fake.requests == []


@pytest.mark.parametrize("words", [
    ["ps"], ["start", "x"], ["stop", "x"], ["kill", "x"], ["remove", "x"],
    ["add", "x", "--", "/bin/sh"],
], ids=lambda words: words[0])
def test_exit_7_without_a_daemon(echod: Echod, words: list[str]) -> None:
    """Nobody to ask; and a pidfile without a lock changes nothing."""
    done = run(echod, *words, expect=7)
    assert re.fullmatch(r"echod: not running [^\n]+\n", done.stderr) and done.stdout == ""
    echod.pidfile.write_text("1\n")
    done = run(echod, *words, expect=7)
    assert re.fullmatch(r"echod: not running [^\n]+\n", done.stderr)
    echod.pidfile.unlink()


# ---- What comes back ----------------------------------------------------------------------------

VERBS = [["start", "x"], ["stop", "x"], ["kill", "x"], ["remove", "x"]]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_outcome_is_printed(echod: Echod, fake: FakeDaemon, words: list[str]) -> None:
    """The daemon's own words; with -q none."""
    fake.answer({"ok": True, "schema": 1, "text": "x runs (pid 4711)"})
    done = run(echod, *words, expect=0)
    assert (done.stdout, done.stderr) == ("echod: x runs (pid 4711)\n", "")
    done = run(echod, *words, "-q", expect=0)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("words", [["ps"], ["add", "x", "--", "/bin/sh"], *VERBS],
                         ids=lambda words: words[0])
@pytest.mark.parametrize("code", [1, 4, 6])
def test_refusal_is_printed(echod: Echod, fake: FakeDaemon, words: list[str], code: int) -> None:
    """On stderr, with the code that the daemon names."""
    fake.answer({"ok": False, "schema": 1, "error": "there is no service 'x'", "code": code})
    done = run(echod, *words, expect=code)
    assert (done.stdout, done.stderr) == ("", "echod: there is no service 'x'\n")


@pytest.mark.parametrize("code", [0, -1, 256, 1 << 40, "7", None, 1.5])
def test_an_odd_code_is_still_a_failure(echod: Echod, fake: FakeDaemon, code: Any) -> None:
    fake.answer({"ok": False, "schema": 1, "error": "no", "code": code})
    assert run(echod, "stop", "x", expect=1).stderr == "echod: no\n"


@pytest.mark.parametrize("reply", [
    "", "\n", "not JSON\n", "[]\n", "null\n", "{}\n", '{"ok":1}\n', '{"ok":true', "\udcff\udcff\n",
    '{"ok":false,"error":7}\n', "\0\n", '{"ok":true,"text":"x"}',
])
@pytest.mark.parametrize("verb", ["stop", "ps"])
def test_garbage_is_a_failure(echod: Echod, fake: FakeDaemon, reply: str, verb: str) -> None:
    """An answer that is none, or is cut off: one line, exit 1."""
    fake.answer(reply)
    done = run(echod, verb, *(["x"] if verb == "stop" else []), expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr) and done.stdout == ""


@pytest.mark.parametrize("services", ["absent", None, {}, "line", 3])
def test_ps_without_a_list_is_a_failure(echod: Echod, fake: FakeDaemon, services: Any) -> None:
    reply = {"ok": True, "schema": 1, "services": services}
    if services == "absent":
        del reply["services"]
    fake.answer(reply)
    for option in ([], ["-q"], ["--json"]):
        done = run(echod, "ps", *option, expect=1)
        assert done.stdout == "" and "cannot be understood" in done.stderr


def test_answer_in_small_pieces(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1, "text": "a" * 300}, size=1)
    assert run(echod, "stop", "x", expect=0).stdout == "echod: " + "a" * 300 + "\n"


def test_silence_ends_with_the_time(echod: Echod, fake: FakeDaemon) -> None:
    """-T: exit 1 and a sentence."""
    fake.answer("", delay=seconds(60))
    done = run(echod, "stop", "x", "-T", "0.3", expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr) and "0.3 s" in done.stderr


def test_slow_answer_is_waited_for(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1, "text": "at last"}, delay=0.5)
    assert run(echod, "start", "x", expect=0).stdout == "echod: at last\n"


def test_reason_of_who_hangs_up_without_reading(echod: Echod, fake: FakeDaemon) -> None:
    """A daemon that does not let the caller ask says why, and closes before the request comes."""
    reply = {"ok": False, "schema": 1, "error": "only root may ask", "code": 4}
    fake.answer(reply, at_once=True)
    for _ in range(20):
        done = run(echod, "add", "x", "--", "/bin/sh", "a" * 9000, expect=4)
        assert done.stderr == "echod: only root may ask\n"


def test_text_of_the_daemon_does_not_steer_the_terminal(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1, "text": "a\x1b[2Jb\nc"})
    assert run(echod, "stop", "x", expect=0).stdout == "echod: a\\x1b[2Jb\\x0ac\n"
    fake.answer({"ok": False, "schema": 1, "error": "a\x1b[2Jb\nc"})
    assert run(echod, "stop", "x", expect=1).stderr == "echod: a\\x1b[2Jb\\x0ac\n"
    fake.answer({"ok": True, "schema": 1, "services": [
        {"name": "a\nb", "service": "a\nb", "state": "\x1b[2J", "text": "\x07"}]})
    text = run(echod, "ps", expect=0).stdout
    assert text.count("\n") == 2 and all(part in text for part in (r"a\x0ab", r"\x1b[2J", r"\x07"))
    assert run(echod, "ps", "-q", expect=0).stdout == "a\\x0ab\n"


# ---- ps -----------------------------------------------------------------------------------------

def row(name: str, **more: Any) -> dict[str, Any]:
    """A row as the daemon sends it."""
    return {"name": name, "service": name.split("/")[0], "kind": "worker", "pid": 4711,
            "state": "running", "since": "2026-11-22T13:00:00Z", "seconds": 3.2, "restarts": 0,
            "generation": 1, "connections": 12, "requests_per_second": 0.04, "cpu_seconds": 0.03,
            "memory": 1258291, "text": None, **more}


PROGRAM = {"kind": "program", "connections": None, "requests_per_second": None}

ROWS = [
    row("line/0", seconds=130),
    row("line/1", pid=17, connections=100000, requests_per_second=12345.6, cpu_seconds=130.4,
        seconds=14700.9, memory=5 << 30),
    row("sensor", **PROGRAM, pid=None, state="backing off", seconds=0.4, restarts=12,
        cpu_seconds=None, memory=None, text="it ended with status 3 (12 times): again in 6.4 s"),
    row("x", **PROGRAM, seconds=12 * 86400 + 3 * 3600 + 59, memory=100, cpu_seconds=59.996),
]

TABLE = """\
NAME     PID  KIND     STATE         SINCE  RESTARTS   CONNS  REQ/S    CPU  MEMORY  NOTE
line/0  4711  worker   running       2m10s         0      12    0.0  0.03s    1.2M
line/1    17  worker   running       4h05m         0  100000  12346  2m10s    5.0G
sensor     -  program  backing off      0s        12       -      -      -       -  \
it ended with status 3 (12 times): again in 6.4 s
x       4711  program  running      12d03h         0       -      -  1m00s    0.1k
"""


def test_ps_table(echod: Echod, fake: FakeDaemon) -> None:
    """Columns as wide as their content, numbers to the right, "-" for what there is none of."""
    fake.answer({"ok": True, "schema": 1, "services": ROWS})
    assert run(echod, "ps", expect=0).stdout == TABLE


def test_ps_of_rows_that_lack_everything(echod: Echod, fake: FakeDaemon) -> None:
    """A daemon of another version: nothing is made up."""
    fake.answer({"ok": True, "schema": 1, "services": [{}, {"name": 7, "seconds": "x"}, 3]})
    lines = run(echod, "ps", expect=0).stdout.splitlines()
    assert lines[0].split() == ["NAME", "PID", "KIND", "STATE", "SINCE", "RESTARTS", "CONNS",
                                "REQ/S", "CPU", "MEMORY"]
    assert [text.split() for text in lines[1:]] == [["-"] * 10] * 3


def test_ps_of_nothing(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1, "services": []})
    assert run(echod, "ps", expect=0).stdout == "echod: there are no services\n"
    assert run(echod, "ps", "-q", expect=0).stdout == ""


def test_ps_quiet_names_each_service_once(echod: Echod, fake: FakeDaemon) -> None:
    """One a line, for scripts and completion."""
    fake.answer({"ok": True, "schema": 1, "services": ROWS})
    assert run(echod, "ps", "-q", expect=0).stdout == "line\nsensor\nx\n"


def test_ps_json_is_the_reply(echod: Echod, fake: FakeDaemon) -> None:
    """On one line, also with -q."""
    reply = {"ok": True, "schema": 1, "services": ROWS, "added": {"later": 1}}
    fake.answer(reply)
    for options in (["--json"], ["--json", "-q"]):
        text = run(echod, "ps", *options, expect=0).stdout
        assert json.loads(text) == reply and text.count("\n") == 1 and text.endswith("\n")


def test_ps_of_very_many(echod: Echod, fake: FakeDaemon) -> None:
    """More than a megabyte of JSON."""
    fake.answer({"ok": True, "schema": 1, "services": [row(f"line/{i}") for i in range(8000)]})
    assert run(echod, "ps", expect=0).stdout.count("\n") == 8001


def test_ps_of_names_beyond_ascii(echod: Echod, fake: FakeDaemon) -> None:
    """Columns count characters, not bytes."""
    fake.answer({"ok": True, "schema": 1, "services": [row("grüße/0"), row("line/00")]})
    lines = run(echod, "ps", expect=0).stdout.splitlines()
    assert lines[1].index("worker") == lines[2].index("worker")


def on_terminal(echod: Echod, columns: int = 0, **env: str) -> str:
    """What `echod ps` writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        run(echod, "ps", expect=0, stdout=theirs, env={**echod.env, "TERM": "xterm", **env})
        os.set_blocking(ours, False)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except BlockingIOError:
            pass
    finally:
        os.close(ours)
        os.close(theirs)
    return text.decode().replace("\r\n", "\n")


BOLD, PLAIN = "\033[1m", "\033[0m"


def test_ps_on_a_terminal_has_a_bold_header(echod: Echod, fake: FakeDaemon) -> None:
    """Unless the user does not want it, or the terminal cannot do it."""
    fake.answer({"ok": True, "schema": 1, "services": ROWS})
    header, rest = TABLE.split("\n", 1)
    assert on_terminal(echod, 200) == f"{BOLD}{header}{PLAIN}\n{rest}"
    assert on_terminal(echod, 200, NO_COLOR="") == f"{BOLD}{header}{PLAIN}\n{rest}"
    assert on_terminal(echod, 200, NO_COLOR="1") == TABLE
    assert on_terminal(echod, 200, TERM="dumb") == TABLE


def test_ps_notes_as_far_as_there_is_room(echod: Echod, fake: FakeDaemon) -> None:
    """COLUMNS, then the terminal, then 80; what is too long ends in "...", never in a new line."""
    fake.answer({"ok": True, "schema": 1, "services": ROWS})

    def note(columns: int, **env: str) -> str:
        text = on_terminal(echod, columns, NO_COLOR="1", **env)
        width = int(env.get("COLUMNS", columns or 80))
        assert ("NOTE" in text) == ("it ended" in text)
        assert max(map(len, text.splitlines())) <= max(width, TABLE.index("  NOTE"))
        return text.splitlines()[3][TABLE.index("NOTE"):]

    whole = ROWS[2]["text"]
    left = TABLE.index("NOTE")
    assert note(left + len(whole)) == whole
    assert note(left + len(whole) - 1) == whole[:-4] + "..."
    assert note(left + 20) == whole[:17] + "..."
    assert note(left + 15) == note(80) == note(0) == note(1) == ""
    assert note(0, COLUMNS="200") == note(80, COLUMNS="200") == whole
    assert note(200, COLUMNS="80") == ""


def test_ps_note_is_not_cut_within_a_character(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1, "services": [row("x", text="ü" * 100)]})
    text = on_terminal(echod, 120, NO_COLOR="1").splitlines()[1]
    assert len(text) == 120 and text.endswith("ü...")


# ---- status -------------------------------------------------------------------------------------

def test_status_shows_each_service(echod: Echod, fake: FakeDaemon) -> None:
    """A protocol with its addresses, a program with its command, each with its state."""
    fake.answer({"ok": True, "schema": 1, "pid": 4711, "services": [
        {"name": "line", "kind": "protocol", "protocol": "line", "command": None,
         "addresses": ["0.0.0.0:30333", "[::]:30333"], "processes": 2, "running": 2,
         "state": "running"},
        {"name": "sensor", "kind": "program", "protocol": None,
         "command": ["/usr/local/bin/sensor", "--loop"], "addresses": [], "processes": 1,
         "running": 0, "state": "backing off"},
        {"name": "quiet", "kind": "protocol", "protocol": "echo", "addresses": []},
        {"name": "a\nb", "kind": "program", "command": ["/bin/sh", "-c", "a\nb"]},
        {},
    ]})
    text = run(echod, "status", expect=0).stdout
    services = [entry for entry in text.splitlines() if entry.startswith("  service ")]
    assert services == [
        "  service line       line, running, 2 of 2 workers, on 0.0.0.0:30333, [::]:30333",
        "  service sensor     program, backing off: /usr/local/bin/sensor --loop",
        "  service quiet      echo",
        r"  service a\x0ab     program: /bin/sh -c a\x0ab",
        "  service none       none",
    ]


def test_status_asks_as_before(echod: Echod, fake: FakeDaemon) -> None:
    fake.answer({"ok": True, "schema": 1})
    run(echod, "status", "--json", expect=0)
    assert fake.requests == [b'{"verb":"status"}\n']
