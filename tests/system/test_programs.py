"""
Programs: services that run a command. What it is given, what becomes of what it prints, when it is
started again, and that nothing of it is left when it shall end.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from echod import PATH, Echod, seconds
from launching import Container, refuses, start_after
from procfs import Process, wait_until

# A user with groups of its own, seen by who is started behind `with_user`.
TESTER, OTHERS = 54321, [54322, 54323]
_PASSWD = f"tester:x:{TESTER}:{TESTER}::/home/of/tester:/shell/of/tester\n"
_GROUP = (f"tester:x:{TESTER}:\nfirst:x:{OTHERS[0]}:tester\nsecond:x:{OTHERS[1]}:nobody,tester\n"
          "third:x:54324:nobody\n")


def with_user(echod: Echod) -> list[str]:
    """The words in front of a command that sees the user `tester` beside those of the system."""
    for name, lines in (("passwd", _PASSWD), ("group", _GROUP)):
        (echod.dir / name).write_text(Path("/etc", name).read_text() + lines)
    script = ("mount --make-rprivate / && mount --bind \"$1\" /etc/passwd && "
              "mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"")
    return ["unshare", "-m", "sh", "-c", script, "sh", f"{echod.dir}/passwd", f"{echod.dir}/group"]


def serve(echod: Echod, *services: str, **settings: object) -> None:
    """Write the configuration and start."""
    echod.configure(*services, **settings)
    echod.start()


def run(echod: Echod, *command: str | Path, name: str = "p", **keys: object) -> Process:
    """A daemon with this one program; its process, which has been executed."""
    serve(echod, echod.program(name, *command, **keys))
    return echod.await_program(name)


def public(echod: Echod) -> Path:
    """A directory where everybody may write."""
    path = echod.dir / "public"
    path.mkdir(exist_ok=True)
    path.chmod(0o1777)
    return path


def printed(echod: Echod, name: str = "p") -> list[str]:
    """The records of the log that are the program's own words."""
    return re.findall(rf"^\S+ echod\[\d+\] notice: {name}\[\d+\]: (.*)$", echod.log_text(),
                      re.MULTILINE)


def await_printed(echod: Echod, *texts: str, name: str = "p") -> None:
    """Wait until this, and nothing else, has been printed."""
    try:
        wait_until(lambda: len(printed(echod, name)) >= len(texts), seconds(10))
    finally:
        assert printed(echod, name) == list(texts)


def keeper_of(program: Process) -> Process:
    return Process(program.ppid)


# ---- What a program is given --------------------------------------------------------------------

@pytest.mark.needs_root
def test_program_has_its_user_group_and_all_groups_of_the_user(echod: Echod) -> None:
    """Whole: real, effective and saved; the supplementary groups as at a login; no capability."""
    echod.configure(echod.program("p", echod.sleeper, 1000, user="tester"))
    echod.run_command([*with_user(echod), *echod.command("start")], expect=0)
    echod.adopt()
    program = echod.await_program("p")
    assert program.uids == [TESTER] * 4 and program.gids == [TESTER] * 4
    assert sorted(int(gid) for gid in program.status["Groups"].split()) == [TESTER, *OTHERS]
    assert {int(program.status[caps], 16) for caps in ("CapPrm", "CapEff", "CapInh", "CapAmb")} \
        == {0}


@pytest.mark.needs_root
def test_program_has_an_explicit_group(echod: Echod) -> None:
    """`group` takes the place of the user's own group; the supplementary ones stay."""
    echod.configure(echod.program("p", echod.sleeper, 1000, user="tester", group="third"))
    echod.run_command([*with_user(echod), *echod.command("start")], expect=0)
    echod.adopt()
    program = echod.await_program("p")
    assert program.uids == [TESTER] * 4 and program.gids == [54324] * 4
    assert sorted(int(gid) for gid in program.status["Groups"].split()) == [*OTHERS, 54324]


@pytest.mark.needs_root
def test_program_has_the_global_user_and_group_by_default(echod: Echod) -> None:
    """Those of the workers; a user of its own brings that user's group, not the global one."""
    echod.configure(echod.program("p", echod.sleeper, 1000),
                    echod.program("own", echod.sleeper, 1000, user="nobody"),
                    echod.program("root", echod.sleeper, 1000, user="root"),
                    user="tester", group="first")
    echod.run_command([*with_user(echod), *echod.command("start")], expect=0)
    echod.adopt()
    program, own = echod.await_program("p"), echod.await_program("own")
    assert program.uids == [TESTER] * 4 and program.gids == [OTHERS[0]] * 4
    assert own.uids == [65534] * 4 and own.gids == [65534] * 4
    root = echod.await_program("root")
    assert root.uids == [0] * 4 and root.gids == [0] * 4


def test_program_of_an_ordinary_users_daemon(echod: Echod) -> None:
    """Nobody's daemon runs programs as nobody."""
    if os.geteuid() == 0:
        echod.become(65534)
    program = run(echod, echod.sleeper, 1000)
    assert program.uids == echod.supervisor.uids and program.gids == echod.supervisor.gids


@pytest.mark.needs_root
def test_environment_is_exactly_that_of_a_login(echod: Echod) -> None:
    """PATH, TZ and LANG of the launch, the user's own, what is given; nothing else of anybody."""
    echod.env.update(TZ="Europe/Vienna", LANG="C.UTF-8", SECRET="of the launcher", HOME="/launcher",
                     USER="launcher", LD_LIBRARY_PATH="/launcher", XDG_RUNTIME_DIR="/launcher")
    echod.configure(echod.program("p", echod.sleeper, 1000, user="tester"),
                    echod.program("more", echod.sleeper, 1000, user="tester",
                                  environment=["A=b=c", "HOME=/own", "EMPTY=", "_x1=$A \"y\""]))
    echod.run_command([*with_user(echod), *echod.command("start")], expect=0)
    echod.adopt()
    expected = {"PATH": PATH, "TZ": "Europe/Vienna", "LANG": "C.UTF-8", "USER": "tester",
                "LOGNAME": "tester", "HOME": "/home/of/tester", "SHELL": "/shell/of/tester"}
    assert echod.await_program("p").environ == expected
    more = {**expected, "A": "b=c", "HOME": "/own", "EMPTY": "", "_x1": "$A \"y\""}
    assert echod.await_program("more").environ == more
    # Over an execve of the supervisor nothing is lost and nothing comes in.
    echod.restart()
    former = echod.await_program("more")
    echod.tell("kill", "more")
    assert echod.await_program("more", since=former.pid).environ == more


def test_command_is_passed_on_word_by_word(echod: Echod) -> None:
    """No shell reads it: spaces, quotes, dollars, commas, nothing at all."""
    words = ["", " ", "two words", "$HOME", "`id`", "a,b", "'", '"', "*", "; exit 1", "-x", "é"]
    script = echod.script("program", f"exec {echod.sleeper} 1000\n")
    script.write_text(script.read_text().replace("exec", "printf '<%s>' \"$@\"; echo; exec"))
    run(echod, script, *words)
    await_printed(echod, "".join(f"<{word}>" for word in words))


@pytest.mark.parametrize("keys, cwd, umask", [
    ({}, "/", 0o022), ({"directory": "/usr/bin", "umask": "077"}, "/usr/bin", 0o077),
    ({"umask": "000"}, "/", 0)], ids=["default", "given", "all_open"])
def test_directory_and_umask(echod: Echod, keys: dict[str, str], cwd: str, umask: int) -> None:
    """The default, or what is configured; never the launcher's or the daemon's own."""
    echod.configure(echod.program("p", echod.sleeper, 1000, **keys))
    start_after(echod, "os.chdir('/tmp'); os.umask(0o007)")
    program = echod.await_program("p")
    assert program.cwd == cwd and program.umask == umask


@pytest.mark.needs_root
def test_nice(echod: Echod) -> None:
    """Its own over the global one; also a better one than that."""
    serve(echod, echod.program("global", echod.sleeper, 1000),
          echod.program("worse", echod.sleeper, 1000, nice=12),
          echod.program("better", echod.sleeper, 1000, nice=-3), nice=5)
    assert [echod.await_program(name).nice for name in ("global", "worse", "better")] == [5, 12, -3]
    assert echod.supervisor.nice == 5


def test_limit_of_open_files_is_that_of_the_launch(echod: Echod) -> None:
    """Workers get a raised one; programs that use select(2) must not. Also after a restart."""
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    echod.configure(echod.service(workers=1), echod.program("p", echod.sleeper, 1000))
    start_after(echod, f"resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))")
    assert echod.workers()[0].limit("Max open files") == (str(hard), str(hard))
    program = echod.await_program("p")
    assert program.limit("Max open files") == ("300", str(hard))
    echod.restart()
    echod.tell("kill", "p")
    program = echod.await_program("p", since=program.pid)
    assert program.limit("Max open files") == ("300", str(hard))


def test_other_limits_are_those_of_the_launch(echod: Echod) -> None:
    """A program may dump core, and take as much of everything as its launcher could."""
    echod.configure(echod.program("p", echod.sleeper, 1000))
    start_after(echod, "resource.setrlimit(resource.RLIMIT_CORE, (12345, 12345)); "
                       "resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 8 << 20))")
    program = echod.await_program("p")
    if not echod.sanitized:  # the sanitizer's own runtime forbids core files
        assert program.limit("Max core file size") == ("12345", "12345")
    assert program.limit("Max stack size") == (str(4 << 20), str(8 << 20))


def test_signals_are_as_at_a_login(echod: Echod) -> None:
    """Default dispositions and an empty mask, though the launcher ignored and blocked a lot."""
    echod.configure(echod.program("p", echod.sleeper, 1000))
    start_after(echod, "for sig in range(1, 65):\n"
                       "    if sig not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):\n"
                       "        signal.signal(sig, signal.SIG_IGN)\n"
                       "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))")
    for _ in range(2):
        program = echod.await_program("p")
        for field in ("SigIgn", "SigBlk", "SigCgt", "SigPnd", "ShdPnd"):
            assert program.signals(field) == set(), field
        echod.restart()
        echod.tell("kill", "p")
        echod.await_program("p", since=program.pid)


def test_program_leads_a_session_and_a_group_of_its_own(echod: Echod) -> None:
    """No signal of another group reaches it, and two programs are apart from each other."""
    serve(echod, echod.program("a", echod.sleeper, 1000), echod.program("b", echod.sleeper, 1000))
    for name in ("a", "b"):
        program = echod.await_program(name)
        assert program.pgrp == program.session == program.pid


def test_program_has_no_controlling_terminal(echod: Echod) -> None:
    """Though the daemon runs in the foreground of one."""
    echod.configure(echod.program("p", echod.sleeper, 1000))
    master, slave = pty.openpty()
    echod.process = subprocess.Popen(["setsid", "-c", *echod.command("start", "-F")], env=echod.env,
                                     text=True, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    echod.await_ready()
    assert echod.supervisor.tty_nr != 0
    program = echod.await_program("p")
    assert program.tty_nr == 0
    assert program.fds[0] == "/dev/null"
    echod.signal(signal.SIGTERM)
    assert echod.process.wait(seconds(5)) == 0
    os.close(master)


def test_program_has_no_descriptor_beyond_2(echod: Echod) -> None:
    """stdin is /dev/null, stdout and stderr one pipe; none of the launcher's, none of ours."""
    echod.configure(echod.service(), echod.program("p", echod.sleeper, 1000))
    start_after(echod, "os.set_inheritable(os.open('/usr', os.O_RDONLY), True)\n"
                       "os.set_inheritable(socket.socket().detach(), True)")
    for _ in range(2):
        program = echod.await_program("p")
        # While it is loaded, the loader has libraries open.
        wait_until(lambda: sorted(program.fds) == [0, 1, 2], seconds(5))
        fds = program.fds
        assert fds[0] == "/dev/null" and fds[1] == fds[2] and fds[1].startswith("pipe:")
        echod.restart()
        echod.tell("kill", "p")
        echod.await_program("p", since=program.pid)


def test_program_may_become_somebody_else(echod: Echod) -> None:
    """no_new_privs is for workers: a program may use sudo and its kin."""
    program = run(echod, echod.sleeper, 1000)
    assert program.status["NoNewPrivs"] == "0"


# ---- What it prints -----------------------------------------------------------------------------

def test_stdout_and_stderr_go_to_the_log_under_its_name(echod: Echod) -> None:
    """One record a line, in order, with the pid that `ps` shows."""
    script = echod.script("program", "echo one; echo two >&2; echo three; echo; "
                                     f"echo '  four '; exec {echod.sleeper} 1000\n")
    program = run(echod, script)
    await_printed(echod, "one", "two", "three", "  four ")
    assert len(re.findall(rf"notice: p\[{program.pid}\]: ", echod.log_text())) == 4


@pytest.mark.parametrize("size", [1023, 1024, 1025, 20000])
def test_long_line_arrives_whole(echod: Echod, size: int) -> None:
    """In several records of 1 KiB at most, none of them empty; the next line is one of its own."""
    script = echod.script("program", f"head -c {size} /dev/zero | tr '\\0' x; echo; echo next; "
                                     f"exec {echod.sleeper} 1000\n")
    run(echod, script)
    wait_until(lambda: printed(echod)[-1:] == ["next"], seconds(10))
    *pieces, _ = printed(echod)
    assert "".join(pieces) == "x" * size
    assert max(len(piece) for piece in pieces) <= 1024
    assert len(pieces) == -(-size // max(len(piece) for piece in pieces))


def await_taken(program: Process) -> None:
    """Wait until the daemon has read all that the program has printed."""
    fd = os.open(program.path / "fd" / "1", os.O_RDONLY | os.O_NONBLOCK)
    try:
        def waiting() -> int:
            return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
        wait_until(lambda: waiting() == 0, seconds(10), "the pipe is empty")
    finally:
        os.close(fd)


def test_half_a_line_waits_for_its_end(echod: Echod) -> None:
    """What a program prints bit by bit is one record."""
    fifos = [public(echod) / name for name in ("one", "two")]
    for fifo in fifos:
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    script = echod.script("program", f"printf half; read x < {fifos[0]}; printf ' and'; "
                                     f"read x < {fifos[1]}; echo ' whole'; "
                                     f"exec {echod.sleeper} 1000\n")
    program = run(echod, script)
    for fifo in fifos:
        with open(fifo, "w") as go:  # waits until the script has come to its read
            await_taken(program)
            assert printed(echod) == []
            go.write("\n")
    await_printed(echod, "half and whole")


def test_last_words_are_heard(echod: Echod) -> None:
    """All that was printed right before the end is there, an unfinished line too, and before the
    word of the end."""
    script = echod.script("program", "seq 1 200; printf 'the last'; exit 3\n")
    serve(echod, echod.program("p", script, restart="never"))
    echod.await_log(r"p\[\d+\] exited with status 3")
    assert printed(echod) == [*(str(n) for n in range(1, 201)), "the last"]
    log = echod.log_text()
    assert log.index("]: the last") < log.index("exited with status 3")


def test_control_characters_are_escaped(echod: Echod) -> None:
    """What a program prints cannot forge a line, steer a terminal or break the text."""
    script = echod.script(
        "program", "printf 'a\\033[31mred\\rb\\000c\\007d\\177e\\377f\\302\\205g \\303\\274 h\\n'; "
                   "printf '2026-01-01T00:00:00.000+00:00 echod[1] error: forged\\n'; "
                   f"exec {echod.sleeper} 1000\n")
    run(echod, script)
    wait_until(lambda: len(printed(echod)) == 2, seconds(10))
    log = echod.log_path.read_bytes()
    assert re.search(rb"[^\n\x20-\xff]|\x7f", log) is None, "a control byte"
    assert printed(echod)[0].startswith("a\\x1b[31mred\\x0db\\x00c\\x07d\\x7fe")
    assert printed(echod)[0].endswith("h"), "a NUL is not the end"
    assert echod.log_errors() == [], "the forged line is a part of another one"


def test_flood_of_output_is_limited_and_counted(echod: Echod) -> None:
    """What is left out is told, to the last line."""
    script = echod.script("program", f"seq 1 6000; exec {echod.sleeper} 1000\n")
    program = run(echod, script)
    wait_until(lambda: program.cmdline[:1] == [str(echod.sleeper)], seconds(10), "all is printed")
    await_taken(program)
    echod.tell("stop", "p")
    logged = [int(text) for text in printed(echod)]
    suppressed = sum(int(n) for n in re.findall(
        r"warning: p\[\d+\]: (\d+) more messages in too short a time were suppressed",
        echod.log_text()))
    dropped = echod.status()["counters"]["log_dropped"]
    assert len(logged) < 3000
    assert logged == sorted(set(logged))
    assert logged[:100] == list(range(1, 101)), "a burst is allowed"
    assert len(logged) + suppressed + dropped == 6000


def test_flood_of_output_disturbs_nobody(echod: Echod) -> None:
    """Clients and verbs are answered as usual, and the log grows slowly."""
    serve(echod, echod.service(workers=1), echod.program("flood", "/usr/bin/yes", "a flood"))
    begun = time.monotonic()
    echod.await_log(r"flood\[\d+\]: a flood", count=1000)
    slowest = {"client": 0.0, "ps": 0.0}
    for _ in range(20):
        at = time.monotonic()
        echod.assert_serves()
        slowest["client"] = max(slowest["client"], time.monotonic() - at)
        at = time.monotonic()
        echod.ps()
        slowest["ps"] = max(slowest["ps"], time.monotonic() - at)
    assert max(slowest.values()) < seconds(1), slowest
    [worker] = echod.workers()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: [w for w in echod.workers() if w.pid != worker.pid], seconds(5))
    at = time.monotonic()
    echod.tell("stop", "flood")
    assert time.monotonic() - at < seconds(3)
    assert len(printed(echod, "flood")) <= 1000 + 110 * (time.monotonic() - begun) + 200


def test_program_is_not_held_up_by_a_supervisor_that_sleeps(echod: Echod) -> None:
    """It prints far more than pipes and queues hold, and gets on."""
    fifo, done = public(echod) / "fifo", public(echod) / "done"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    script = echod.script("program", f"read x < {fifo}; seq 1 200000; touch {done}; "
                                     f"exec {echod.sleeper} 1000\n")
    run(echod, script)
    echod.signal(signal.SIGSTOP)
    try:
        fifo.write_text("\n")
        wait_until(done.exists, seconds(20), "the program gets on")
    finally:
        echod.signal(signal.SIGCONT)
    wait_until(lambda: printed(echod), seconds(10))
    assert echod.row("p")["state"] == "running"


def test_program_that_closes_its_output(echod: Echod) -> None:
    """It runs on, and nobody spins on the end of the pipe."""
    script = echod.script("program", f"exec >/dev/null 2>&1; exec {echod.sleeper} 1000\n")
    program = run(echod, script)
    keeper = keeper_of(program)
    wait_until(lambda: program.cmdline[:1] == [str(echod.sleeper)], seconds(5))
    wait_until(lambda: keeper.state == "S", seconds(5))
    ticks = keeper.cpu_ticks + echod.supervisor.cpu_ticks
    time.sleep(0.4)  # a span to measure over, not an event to wait for
    assert keeper.cpu_ticks + echod.supervisor.cpu_ticks - ticks < 10
    assert echod.row("p")["state"] == "running" and echod.row("p")["restarts"] == 0


def test_output_goes_on_over_a_restart_in_place(echod: Echod) -> None:
    """Line after line is there, those that were printed while the supervisor executed itself."""
    script = echod.script("program", "i=0; while :; do i=$((i + 1)); echo $i; "
                                     f"{echod.sleeper} 0.02; done\n")
    run(echod, script)
    wait_until(lambda: len(printed(echod)) >= 3, seconds(5))
    for _ in range(3):
        echod.restart()
    count = len(printed(echod)) + 3
    wait_until(lambda: len(printed(echod)) >= count, seconds(5))
    assert printed(echod) == [str(n) for n in range(1, len(printed(echod)) + 1)]
    assert echod.row("p")["restarts"] == 0


# ---- When it is started again -------------------------------------------------------------------

@pytest.mark.parametrize("policy, again", [("always", {"0", "3", "TERM"}),
                                           ("on-failure", {"3", "TERM"}), ("never", set())])
def test_restart_policy(echod: Echod, policy: str, again: set[str]) -> None:
    """Each policy with an exit of 0, an exit of 3, and a signal."""
    runs = public(echod)
    script = echod.script("program", f"""
echo run >> {runs}/$1
[ $(wc -l < {runs}/$1) -gt 1 ] && exec {echod.sleeper} 1000
case $1 in
    TERM) kill -TERM $$ ;;
    *) exit $1 ;;
esac
""")
    ways = {"0": "exited with status 0", "3": "exited with status 3",
            "TERM": "was ended by signal SIGTERM"}
    serve(echod, *(echod.program(f"p{way}", script, way, restart=policy) for way in ways))
    for way, text in ways.items():
        if way in again:
            echod.await_ps(f"p{way}", state="running", restarts=1)
        else:
            echod.await_ps(f"p{way}", state="stopped", restarts=0, text=text, pid=None)
        echod.await_log(rf"p{way}\[\d+\] {text}")
    for way in ways:
        wait_until(lambda way=way: (runs / way).read_text().count("run") == 1 + (way in again),
                   seconds(5), f"the runs of {way}")
    # A restart in place brings nothing back that was not to be started again.
    echod.restart()
    for way in set(ways) - again:
        assert echod.row(f"p{way}")["state"] == "stopped"


def test_program_that_ends_at_once_is_slowed_down(echod: Echod) -> None:
    """At once, after 0.1, 0.2, 0.4 s…; `ps` says so, and why."""
    times = public(echod) / "times"
    script = echod.script("program", f"cut -d' ' -f1 /proc/uptime >> {times}; exit 1\n")
    serve(echod, echod.program("p", script))
    echod.await_log("a new p starts in 0.8 s", timeout=8)
    row = echod.row("p")
    assert (row["state"], row["pid"], row["restarts"]) == ("backing off", None, 4)
    assert row["text"] == "exited with status 1"
    table = echod.tell("ps").stdout
    assert re.search(r"^p +- +program +backing off .* exited with status 1$", table, re.MULTILINE)
    at = [float(line) for line in times.read_text().splitlines()]
    gaps = [b - a for a, b in zip(at, at[1:])]
    for gap, least in zip(gaps, (0, 0.1, 0.2, 0.4)):
        assert gap >= least - 0.02, gaps  # /proc/uptime counts hundredths


def test_program_that_was_killed_by_hand_comes_back_at_once(echod: Echod) -> None:
    """kill -9 is no fault of its own: no back-off, however often."""
    program = run(echod, echod.sleeper, 1000)
    begun = time.monotonic()
    for _ in range(6):
        os.kill(program.pid, signal.SIGKILL)
        program = echod.await_program("p", since=program.pid)
    assert time.monotonic() - begun < seconds(4)
    assert "starts in" not in echod.log_text()
    assert echod.row("p")["restarts"] == 6


def test_failing_program_leaves_the_others_alone(echod: Echod) -> None:
    """One backs off; a worker and another program never notice."""
    serve(echod, echod.service(workers=1), echod.program("bad", "/bin/false"),
          echod.program("good", echod.sleeper, 1000))
    good = echod.await_program("good")
    echod.await_log("a new bad starts in 0.4 s")
    assert echod.row("good")["pid"] == good.pid and echod.row("good")["restarts"] == 0
    assert echod.row("line/0")["restarts"] == 0
    echod.assert_serves()


def test_back_off_goes_on_over_a_restart_in_place(echod: Echod) -> None:
    """A restart is no way to run a broken program more often."""
    serve(echod, echod.program("bad", "/bin/false"))
    echod.await_log("a new bad starts in 0.8 s")
    echod.restart()
    assert echod.row("bad")["state"] == "backing off"
    assert echod.row("bad")["text"] == "exited with status 1"
    echod.await_log("a new bad starts in 1.6 s")
    assert echod.log_text().count("exited with status 1") == 6


def test_strays_that_end_leave_no_zombies(echod: Echod) -> None:
    """Whoever loses its parent becomes the keeper's child, and is waited for."""
    script = echod.script("program", f"for i in 1 2 3 4 5; do ({echod.sleeper} 0.3 &) ; done; "
                                     f"exec {echod.sleeper} 1000\n")
    program = run(echod, script)
    keeper = keeper_of(program)
    wait_until(lambda: len(keeper.children) == 6, seconds(5), "the strays are the keeper's")
    wait_until(lambda: [c.pid for c in keeper.children] == [program.pid], seconds(5))


# ---- Its end ------------------------------------------------------------------------------------

@pytest.mark.parametrize("sig", ["SIGUSR1", "INT", "15", "SIGHUP"])
def test_stop_signal(echod: Echod, sig: str) -> None:
    """The program gets the one that is configured, and its end is waited for."""
    script = echod.script("program", f"""
exec 2>/dev/null  # where the shell says what ended its children
for sig in HUP INT USR1 TERM; do trap "got=$sig" $sig; done
echo ready
while [ -z "$got" ]; do {echod.sleeper} 0.1; done
echo "got $got"
""")
    run(echod, script, stop_signal=sig, stop_timeout=30)
    echod.await_log(r"p\[\d+\]: ready")
    echod.tell("stop", "p")
    await_printed(echod, "ready", f"got {'TERM' if sig == '15' else sig.removeprefix('SIG')}")
    assert echod.row("p")["state"] == "stopped"


def stubborn(echod: Echod, timeout: float) -> str:
    script = echod.script("stubborn", f"trap '' TERM; echo ready; exec {echod.sleeper} 1000\n")
    return echod.program("p", script, stop_timeout=timeout)


def test_stubborn_program_is_killed_after_stop_timeout(echod: Echod) -> None:
    """Not before, and not much later; the log says so."""
    serve(echod, stubborn(echod, 0.6))
    echod.await_log(r"p\[\d+\]: ready")
    begun = time.monotonic()
    echod.tell("stop", "p")
    took = time.monotonic() - begun
    assert 0.6 <= took < seconds(3)
    assert echod.sleepers() == []
    echod.await_log(r"p\[\d+\]: .*did not end in time")


def test_stop_timeout_of_0_kills_at_once(echod: Echod) -> None:
    serve(echod, stubborn(echod, 0))
    echod.await_log(r"p\[\d+\]: ready")
    begun = time.monotonic()
    echod.tell("stop", "p")
    assert time.monotonic() - begun < seconds(1) and echod.sleepers() == []


def test_obedient_program_is_not_waited_for_longer_than_it_takes(echod: Echod) -> None:
    """stop_timeout is a limit, not a delay; also for a program that somebody has stopped."""
    program = run(echod, echod.sleeper, 1000, stop_timeout=60)
    os.kill(program.pid, signal.SIGSTOP)
    wait_until(lambda: program.state == "T", seconds(5))
    begun = time.monotonic()
    echod.tell("stop", "p")
    assert time.monotonic() - begun < seconds(3)


def test_polite_stop_of_the_daemon_gives_programs_their_time(echod: Echod) -> None:
    """SIGUSR1: stop_signal, then stop_timeout; SIGTERM does not wait so long."""
    script = echod.script("program", "exec 2>/dev/null; "
                                     "trap 'echo tidying; sleep 1; echo tidy; exit' TERM; "
                                     "echo ready; while :; do sleep 0.05; done\n")
    run(echod, script, stop_timeout=20)
    echod.await_log(r"p\[\d+\]: ready")
    echod.stop()
    await_printed(echod, "ready", "tidying", "tidy")
    echod.log_path.unlink()
    echod.start()
    echod.await_log(r"p\[\d+\]: ready")
    begun = time.monotonic()
    echod.signal(signal.SIGTERM)
    echod.await_end()
    assert time.monotonic() - begun < seconds(1)
    assert "]: tidy\n" not in echod.log_text()


def test_second_signal_ends_programs_at_once(echod: Echod) -> None:
    """A polite stop waits for the stubborn one; the second signal does not."""
    serve(echod, stubborn(echod, 30))
    echod.await_log(r"p\[\d+\]: ready")
    echod.signal(signal.SIGUSR1)
    echod.await_ps("p", state="draining")
    begun = time.monotonic()
    echod.signal(signal.SIGUSR1)
    echod.await_end()
    assert time.monotonic() - begun < seconds(1) and echod.sleepers() == []


# What a program may start: in its group, in sessions of their own, without a parent, without an
# environment, deaf to signals, and one that never has the same pid for long.
FAMILY = """
{sleeper} 1001 &
setsid {sleeper} 1002 &
(setsid {sleeper} 1003 &)
(env -i setsid {sleeper} 1004 </dev/null >/dev/null 2>&1 &)
(trap '' TERM HUP INT; setsid {sleeper} 1005 &)
(setsid sh -c 'setsid {sleeper} 1006 & exec {sleeper} 1007' &)
echo started
exec {sleeper} 1000
"""
MEMBERS = {str(n) for n in range(1000, 1008)}


def family(echod: Echod, name: str = "p", **keys: object) -> str:
    script = echod.script("family", FAMILY.format(sleeper=echod.sleeper))
    return echod.program(name, script, **{"stop_timeout": 0.3, **keys})


def await_family(echod: Echod, former: set[int] = frozenset()) -> set[int]:
    """Wait until all are there and those before are gone; their pids."""
    def complete() -> bool:
        members = echod.sleepers()
        return len(members) == len(MEMBERS) and not {m.pid for m in members} & former \
            and len(echod.sleepers(*MEMBERS)) == len(MEMBERS)
    wait_until(complete, seconds(10), "a whole family")
    return {member.pid for member in echod.sleepers()}


def test_family_none_is_left_after_stop(echod: Echod) -> None:
    """When the verb returns, all are gone."""
    serve(echod, family(echod))
    await_family(echod)
    echod.tell("stop", "p")
    assert echod.sleepers() == []


def test_family_none_is_left_after_kill(echod: Echod) -> None:
    """The next one starts when the last of the former is gone."""
    serve(echod, family(echod))
    members = await_family(echod)
    echod.tell("kill", "p")
    await_family(echod, former=members)
    assert echod.row("p")["restarts"] == 1


def test_family_none_is_left_after_remove(echod: Echod) -> None:
    """When the verb returns, all are gone; one is deaf, so it takes a while."""
    serve(echod, echod.service(workers=1))
    family(echod)
    echod.tell("add", "added", "--", str(echod.dir / "family"))
    await_family(echod)
    [deaf] = echod.sleepers("1005")
    removing = subprocess.Popen(echod.telling("remove", "added"), env=echod.env)
    try:
        wait_until(lambda: {p.pid for p in echod.sleepers()} == {deaf.pid}, seconds(8))
        assert removing.poll() is None, "it waits for the last one"
        os.kill(deaf.pid, signal.SIGKILL)
        assert removing.wait(seconds(10)) == 0
    finally:
        removing.kill()
        removing.wait()
    assert echod.sleepers() == [] and echod.ps("added") == []


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGTERM])
def test_family_none_is_left_after_the_daemon(echod: Echod, sig: signal.Signals) -> None:
    """When the daemon is gone, all are gone."""
    serve(echod, family(echod))
    await_family(echod)
    echod.signal(sig)
    echod.await_end()
    assert echod.sleepers() == []


def test_family_none_is_left_after_kill_9_of_the_daemon(echod: Echod) -> None:
    """The keeper notices: stop_signal, then SIGKILL; a new daemon starts meanwhile."""
    serve(echod, family(echod))
    members = await_family(echod)
    echod.signal(signal.SIGKILL)
    echod.await_end()
    echod.start()
    await_family(echod, former=members)


def test_family_none_is_left_after_kill_9_of_the_keeper(echod: Echod) -> None:
    """The supervisor inherits them, kills them, and starts the program anew."""
    serve(echod, family(echod))
    members = await_family(echod)
    keeper = keeper_of(echod.await_program("p"))
    assert keeper.ppid == echod.pid
    os.kill(keeper.pid, signal.SIGKILL)
    await_family(echod, former=members)
    assert echod.row("p")["restarts"] == 1


def test_family_none_is_left_when_the_daemon_follows_its_keeper(echod: Echod) -> None:
    """kill -9 of the keeper, and the supervisor stops before it could look around."""
    serve(echod, family(echod))
    await_family(echod)
    keeper = keeper_of(echod.await_program("p"))
    echod.signal(signal.SIGSTOP)
    os.kill(keeper.pid, signal.SIGKILL)
    echod.signal(signal.SIGTERM)
    echod.signal(signal.SIGCONT)
    echod.await_end()
    assert echod.sleepers() == []


def test_family_none_is_left_though_the_keeper_sleeps(echod: Echod) -> None:
    """It obeys no order any more, so it is killed; a quick stop is quick all the same."""
    serve(echod, family(echod))
    await_family(echod)
    os.kill(keeper_of(echod.await_program("p")).pid, signal.SIGSTOP)
    begun = time.monotonic()
    echod.signal(signal.SIGTERM)
    echod.await_end()
    assert time.monotonic() - begun < seconds(2)
    assert echod.sleepers() == []


def test_family_none_is_left_after_the_program_itself(echod: Echod) -> None:
    """When the command ends, what it left behind ends, too; then it may be started again."""
    serve(echod, family(echod, restart="never"))
    await_family(echod)
    os.kill(echod.await_program("p").pid, signal.SIGTERM)
    echod.await_ps("p", state="stopped")
    assert echod.sleepers() == []
    echod.await_log(r"p\[\d+\]: the program ended and left \d+ processes behind")


def test_family_none_is_left_after_a_reload_without_the_program(echod: Echod) -> None:
    """Taken out of the configuration, it ends, and takes nobody with it."""
    serve(echod, echod.service(workers=1), family(echod), echod.program("q", echod.sleeper, 2000))
    wait_until(lambda: len(echod.sleepers()) == len(MEMBERS) + 1, seconds(10))
    other = echod.await_program("q")
    echod.configure(echod.service(workers=1), echod.program("q", echod.sleeper, 2000))
    echod.restart()
    wait_until(lambda: [p.pid for p in echod.sleepers()] == [other.pid], seconds(10))
    wait_until(lambda: echod.ps("p") == [], seconds(5))


def test_family_a_stray_that_changes_its_pid_all_the_time_is_caught(echod: Echod) -> None:
    """A relay: each process starts the next one and ends; after some 600 there is no next one."""
    relay = echod.dir / "relay"
    relay.write_text(f"trap '' TERM\n{echod.sleeper} 0.03\n"
                     f"[ $1 -gt 600 ] || setsid sh {relay} $(($1 + 1)) &\n")
    script = echod.script("program", f"(setsid sh {relay} 1 &)\nexec {echod.sleeper} 1000\n")
    run(echod, script, stop_timeout=0.2)
    wait_until(lambda: echod.sleepers("0.03"), seconds(5))
    echod.tell("stop", "p")
    assert [p for p in echod.processes() if str(relay) in p.cmdline] == []
    assert echod.sleepers() == []


def test_strays_of_another_program_are_left_alone(echod: Echod) -> None:
    """Each keeper knows its own family, and the supervisor those of a keeper that was killed."""
    serve(echod, family(echod, "p"), echod.program("q", echod.script(
        "other", f"(setsid {echod.sleeper} 2001 &)\nexec {echod.sleeper} 2000\n")))
    wait_until(lambda: len(echod.sleepers()) == len(MEMBERS) + 2, seconds(10))
    others = {p.pid for p in echod.sleepers("2000", "2001")}
    keeper = keeper_of(echod.await_program("p"))
    os.kill(keeper.pid, signal.SIGKILL)
    echod.await_ps("p", state="running", restarts=1)
    echod.tell("stop", "p")
    assert {p.pid for p in echod.sleepers()} == others


def test_children_that_the_launcher_left_are_not_the_daemons_to_kill(echod: Echod) -> None:
    """A shell that becomes `echod -F` may have jobs of its own: they become echod's children."""
    echod.configure(echod.program("p", echod.sleeper, 1000))
    echod.process = subprocess.Popen(
        ["bash", "-c", f"set -m; {echod.sleeper} 3000 & exec \"$@\"", "bash",
         *echod.command("start", "-F")], env=echod.env, text=True, stdin=subprocess.DEVNULL,
        start_new_session=True)
    echod.await_ready()
    [job] = echod.sleepers("3000")
    try:
        assert job.ppid == echod.pid and job.pgrp == job.pid
        program = echod.await_program("p")
        os.kill(keeper_of(program).pid, signal.SIGKILL)
        echod.await_program("p", since=program.pid)
        echod.signal(signal.SIGTERM)
        assert echod.process.wait(seconds(5)) == 0
        assert job.alive
    finally:
        os.kill(job.pid, signal.SIGKILL)


@pytest.mark.needs_root
def test_process_1_of_a_container_kills_no_orphans_of_others(echod: Echod) -> None:
    """It gets those of all; its own programs' are ended by their keepers."""
    echod.configure(echod.program("p", echod.script(
        "program", f"(setsid {echod.sleeper} 1001 &)\nexec {echod.sleeper} 1000\n"),
        stop_timeout=0.3))
    container = Container(echod, before=f"setsid {echod.sleeper} 3000 &")
    container.run("sh", "-c", f"(setsid {echod.sleeper} 3001 >/dev/null 2>&1 &)", expect=0)
    wait_until(lambda: len(echod.sleepers()) == 4, seconds(10))
    strangers = {p.pid for p in echod.sleepers("3000", "3001")}
    program = echod.sleepers("1000")[0]
    os.kill(keeper_of(program).pid, signal.SIGKILL)
    wait_until(lambda: [p for p in echod.sleepers("1000") if p.pid != program.pid],
               seconds(10), "a new program")
    left = {p.pid for p in echod.sleepers("1001")}
    container.verb("restart", expect=0)
    container.run(*echod.telling("stop", "p"), expect=0)
    assert echod.sleepers("1000") == []
    # The stray of the killed keeper cannot be told from others' orphans here.
    assert {p.pid for p in echod.sleepers("1001")} <= left
    assert strangers <= {p.pid for p in echod.sleepers()}


# ---- A restart in place -------------------------------------------------------------------------

def test_unchanged_program_runs_on_over_a_restart_in_place(echod: Echod) -> None:
    """The same process, the same number of restarts; the services around it change."""
    serve(echod, echod.service(workers=1), echod.program("p", echod.sleeper, 1000))
    program = echod.await_program("p")
    keeper = keeper_of(program)
    echod.configure(echod.program("p", echod.sleeper, 1000), echod.service(workers=2, max_lines=0))
    for _ in range(2):
        echod.restart()
        row = echod.row("p")
        assert (row["pid"], row["state"], row["restarts"]) == (program.pid, "running", 0)
        assert keeper_of(program).pid == keeper.pid
    os.kill(program.pid, signal.SIGKILL)
    echod.await_program("p", since=program.pid)
    assert echod.row("p")["restarts"] == 1


@pytest.mark.parametrize("change", [
    {"environment": ["A=2"]}, {"directory": "/usr"}, {"umask": "027"}, {"stop_signal": "INT"},
    {"restart": "on-failure"}, {"words": ["x"]}], ids=lambda change: next(iter(change)))
def test_changed_program_is_replaced_and_never_two_run_at_once(echod: Echod,
                                                              change: dict[str, object]) -> None:
    """The new one starts when the old one, which takes its time, is gone."""
    lock = public(echod) / "lock"
    script = echod.script("program", f"""
exec 2>/dev/null
trap 'sleep 0.3; rmdir {lock}; exit' TERM INT
mkdir {lock} && echo "alone $*"
while :; do {echod.sleeper} 0.05; done
""")
    words = change.pop("words", [])
    echod.configure(echod.program("p", script, environment=["A=1"]))
    echod.start()
    former = echod.await_program("p")
    await_printed(echod, "alone ")
    echod.configure(echod.program("p", script, *words, **{"environment": ["A=1"], **change}))
    echod.restart()
    program = echod.await_program("p", since=former.pid)
    await_printed(echod, "alone ", f"alone {''.join(words)}")
    assert not former.alive
    assert program.environ["A"] == ("2" if "environment" in change else "1")
    assert program.cwd == change.get("directory", "/")
    assert program.umask == int(str(change.get("umask", "022")), 8)
    echod.restart()
    assert echod.row("p")["pid"] == program.pid, "nothing has changed since"


def test_program_that_changes_again_while_it_is_exchanged(echod: Echod) -> None:
    """The old one takes its time over two restarts: only the last settings ever run."""
    script = echod.script("program", f"trap '' TERM; echo run $A; exec {echod.sleeper} 1000\n")
    for value in ("1", "2", "3"):
        echod.configure(echod.program("p", script, environment=[f"A={value}"], stop_timeout=1))
        if value == "1":
            echod.start()
            await_printed(echod, "run 1")
        else:
            echod.restart()
            assert echod.row("p")["state"] == "draining"
    echod.await_log(r"p\[\d+\]: run 3")
    assert "run 2" not in echod.log_text()
    assert len(echod.sleepers()) == 1


def test_program_that_is_taken_out_while_it_is_exchanged(echod: Echod) -> None:
    """It ends, and no successor starts."""
    script = echod.script("program", f"trap '' TERM; echo run $A; exec {echod.sleeper} 1000\n")
    serve(echod, echod.service(),
          echod.program("p", script, environment=["A=1"], stop_timeout=0.7))
    await_printed(echod, "run 1")
    echod.configure(echod.service(), echod.program("p", script, environment=["A=2"]))
    echod.restart()
    assert echod.row("p")["state"] == "draining"
    echod.configure(echod.service())
    echod.restart()
    wait_until(lambda: echod.ps("p") == [], seconds(5))
    assert "run 2" not in echod.log_text() and echod.sleepers() == []


def test_program_becomes_a_protocol_and_a_program_again(echod: Echod) -> None:
    """Under the same name."""
    run(echod, echod.sleeper, 1000, name="x")
    echod.configure(echod.service(name="x", workers=1))
    echod.restart()
    echod.assert_serves()
    wait_until(lambda: echod.sleepers() == [], seconds(5))
    echod.configure(echod.program("x", echod.sleeper, 1000))
    echod.restart()
    echod.await_program("x")
    wait_until(lambda: [row["name"] for row in echod.ps()] == ["x"], seconds(5))
    assert refuses(echod)


def test_refused_restart_touches_no_program(echod: Echod) -> None:
    """Neither those that run nor those that the new configuration would have brought."""
    serve(echod, echod.service(workers=1), echod.program("p", echod.sleeper, 1000))
    program = echod.await_program("p")
    locked = echod.dir / "locked"
    locked.write_text("#!/bin/sh\n")
    locked.chmod(0o100)  # not for nobody
    echod.expect_log("restart in place refused|cannot execute")
    echod.configure(echod.service(workers=1), echod.program("p", echod.sleeper, 1000, umask="000"),
                    echod.program("new", echod.sleeper, 2000),
                    echod.program("locked", locked, user="nobody"))
    echod.restart(expect=4 if os.geteuid() == 0 else 1)
    assert echod.row("p")["pid"] == program.pid and program.umask == 0o022
    wait_until(lambda: echod.sleepers("2000") == [], seconds(5))
    wait_until(lambda: {row["service"] for row in echod.ps()} == {"line", "p"}, seconds(5),
               "what was given up is gone")


# ---- What is missing ----------------------------------------------------------------------------

def missing(echod: Echod) -> dict[str, tuple[str, str]]:
    """Services that cannot be: their text, and what must be said."""
    plain = echod.dir / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o644)
    return {
        "gone": (echod.program("gone", "/no/such/command"),
                 "the command '/no/such/command' cannot be executed: No such file or directory"),
        "plain": (echod.program("plain", plain),
                  f"the command '{plain}' cannot be executed: Permission denied"),
        "dir": (echod.program("dir", "/usr/bin"),
                "the command '/usr/bin' cannot be executed: Is a directory"),
        "relative": (echod.program("relative", "bin/sh"), "absolute|begin with '/'"),
        "cwd": (echod.program("cwd", "/bin/true", directory="/no/such/dir"),
                "the directory '/no/such/dir' cannot be used: No such file or directory"),
        "user": (echod.program("user", "/bin/true", user="no-such-user"),
                 "there is no user 'no-such-user'"),
        "group": (echod.program("group", "/bin/true", group="no-such-group"),
                  "there is no group 'no-such-group'"),
    }


@pytest.mark.parametrize("verb", ["check", "start"])
def test_what_is_missing_is_told_with_its_place(echod: Echod, verb: str) -> None:
    """All of it at once, each with file and line; nothing is started."""
    services = missing(echod)
    path = echod.configure(*(text for text, _ in services.values()))
    lines = path.read_text().splitlines()
    done = echod.run(verb, expect=6)
    for name, (_, reason) in services.items():
        [number] = [n for n, line in enumerate(lines, 1) if f'name = "{name}"' in line]
        assert re.search(rf"^(echod: )?{path}:{number}: .*({reason})", done.stderr,
                         re.MULTILINE), name
    assert len(done.stderr.splitlines()) == len(services)
    assert not echod.pidfile.exists()


def await_reason(echod: Echod, reason: str, name: str = "p") -> None:
    """Wait until ps says why there is no process."""
    wait_until(lambda: reason in (echod.row(name)["text"] or ""), seconds(5),
               f"ps says that it {reason}")


def test_command_that_vanishes_later(echod: Echod) -> None:
    """Restarts are refused; the program runs on, and verbs that need no command work."""
    command = echod.dir / "command"
    command.write_bytes(Path("/bin/sleep").read_bytes())
    command.chmod(0o755)
    program = run(echod, command, 1000)
    command.unlink()
    echod.expect_log("restart in place refused")
    done = echod.restart(expect=6)
    assert f"the command '{command}' cannot be executed: No such file" in done.stderr
    assert echod.row("p")["pid"] == program.pid and program.alive
    echod.tell("ps")
    echod.tell("kill", "p")
    await_reason(echod, f"cannot execute {command}: No such file")
    command.write_bytes(Path("/bin/sleep").read_bytes())
    command.chmod(0o755)
    echod.tell("start", "p")
    assert echod.await_program("p").pid != program.pid
    echod.restart()


@pytest.mark.parametrize("content, reason", [
    (b"\x7fELF and nothing else\0\1\2", "Exec format error"),
    (b"#!/no/such/interpreter\n", "its interpreter is missing")], ids=["format", "interpreter"])
def test_command_that_the_kernel_refuses(echod: Echod, content: bytes, reason: str) -> None:
    """`ps` and the log name it; `start` fails with it; the others are served."""
    command = echod.dir / "command"
    command.write_bytes(content)
    command.chmod(0o755)
    serve(echod, echod.service(workers=1), echod.program("p", command))
    await_reason(echod, f"cannot execute {command}: {reason}")
    echod.await_log(rf"warning: p\[\d+\] could not start: cannot execute {command}: {reason}")
    done = echod.tell("start", "p", expect=1)
    assert f"cannot execute {command}: {reason}" in done.stderr
    echod.assert_serves()


@pytest.mark.needs_root
@pytest.mark.parametrize("what", ["command", "directory"])
def test_what_its_user_may_not_use(echod: Echod, what: str) -> None:
    """Known at the start: exit code, path and user are told, and nothing is left."""
    locked = echod.dir / "locked"
    if what == "command":
        locked.write_text("#!/bin/sh\n")
        locked.chmod(0o700)
        echod.configure(echod.service(), echod.program("p", locked, user="nobody"))
    else:
        locked.mkdir(mode=0o700)
        echod.configure(echod.service(), echod.program("p", "/bin/true", user="nobody",
                                                       directory=str(locked)))
    echod.run("check", expect=0)
    done = echod.start(expect=4)
    assert re.fullmatch(rf"echod: [^\n]*\bp\b[^\n]*{locked} as the user nobody: "
                        r"Permission denied\n", done.stderr)
    assert not echod.pidfile.exists() and echod.processes() == []
