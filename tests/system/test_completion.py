"""Completion of command lines: each shell itself is asked what it offers, with a false echod."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from echod import PATH, executable, seconds

COMPLETION = Path(__file__).parents[2] / "contrib" / "completion"

# Answers "ps -q" and nothing else; each call is a line of the file "calls".
FAKE = """#!/bin/sh
printf '[%s]' "$@" >>"$ECHOD_CALLS"
echo >>"$ECHOD_CALLS"
case " $* " in
*" ps -q "*) printf 'line\\nsensor\\nsecond\\n' ;;
esac
"""


class Shell:
    """A shell that completes, in a directory of its own with the fake echod first in PATH."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.calls_path = dir / "calls"
        bin = dir / "bin"
        bin.mkdir()
        for name, text in (("echod", FAKE), ("zz-a-command", "#!/bin/sh\n")):
            (bin / name).write_text(text)
            (bin / name).chmod(0o755)
        (dir / "zz-a-file").write_text("")
        self.env = {"PATH": f"{bin}:{PATH}", "HOME": str(dir), "TERM": "dumb",
                    "ECHOD_CALLS": str(self.calls_path), "LC_ALL": "C.UTF-8"}

    def close(self) -> None:
        """The test is over."""

    def offers(self, line: str) -> set[str]:
        """What may stand in place of the last word of this line (after a blank: a new word)."""
        raise NotImplementedError

    @property
    def calls(self) -> list[str]:
        return self.calls_path.read_text().splitlines() if self.calls_path.exists() else []

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=seconds(20))
        assert done.stderr == "" and done.returncode == 0, done
        return done.stdout


class Bash(Shell):
    """Calls the function as readline does, which also cuts words at "="."""

    FILE = COMPLETION / "echod.bash"
    CUTS = "="

    def offers(self, line: str) -> set[str]:
        cut = re.sub(f"([{self.CUTS}])", r" \1 ", line) if self.CUTS else line
        words = re.findall(r"(?:'[^']*'|[^\s'])+", cut) + ([""] if line[-1] == " " else [])
        script = f"""
            source {self.FILE}
            function=$(complete -p echod | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
            COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
            "$function" echod {shlex.quote(words[-1])} {shlex.quote(words[-2])}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return set(self.run("bash", "--norc", "--noprofile", "-c", script).split("\n")) - {""}


class BashUncut(Bash):
    """The user has taken "=" out of COMP_WORDBREAKS."""

    CUTS = ""

    def offers(self, line: str) -> set[str]:
        return {word.rpartition("=")[2] for word in super().offers(line)}


class Fish(Shell):
    FILE = COMPLETION / "echod.fish"

    def offers(self, line: str) -> set[str]:
        out = self.run("fish", "--no-config", "-c",
                       f"source {self.FILE}; complete -C {shlex.quote(line)}")
        words = [entry.partition("\t")[0] for entry in out.splitlines()]
        return {word if word.startswith("-") and "=" not in line else word.rpartition("=")[2]
                for word in words}


class Zsh(Shell):
    """An interactive shell on a terminal, whose every match is written to a file."""

    FILE = COMPLETION / "_echod"

    SETUP = r"""
        fpath=({completion} $fpath)
        autoload -Uz compinit
        compinit -u -D
        compadd() {{
            local -a matches
            if [[ ${{@[1,(i)(-|--)]}} != *-(O|A|D)\ * ]]; then
                builtin compadd -O matches "$@"
                (( $#matches )) && print -rl -- "${{matches[@]}}" >>{out}
            fi
            builtin compadd "$@"
        }}
        _record() {{ _main_complete; compstate[insert]= compstate[list]= }}
        zle -C record complete-word _record
        _ask() {{
            source {line}
            zle record
            print -r -- ready >{done}
        }}
        zle -N _ask
        bindkey '^T' _ask
        print -r -- ready >{done}
    """

    def __init__(self, dir: Path) -> None:
        super().__init__(dir)
        self.files = {name: dir / f"zsh.{name}" for name in ("out", "line", "done", "rc")}
        self.files["rc"].write_text(self.SETUP.format(completion=self.FILE.parent, **self.files))
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(["zsh", "-f", "-i"], cwd=dir, env=self.env, stdin=theirs,
                                        stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._send(f"source {self.files['rc']}\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def offers(self, line: str) -> set[str]:
        self.files["line"].write_text(f"BUFFER={shlex.quote(line)} CURSOR={len(line)}")
        self.files["out"].write_text("")
        self._send("\x14")
        return {word.removesuffix("=") for word in self.files["out"].read_text().splitlines()}

    def _send(self, keys: str) -> None:
        """Type, and take what the shell writes until it says that it is ready."""
        done = self.files["done"]
        until = time.monotonic() + seconds(20)
        shown = b""
        done.unlink(missing_ok=True)
        os.write(self.terminal, keys.encode())
        while not (done.exists() and done.read_text() == "ready\n"):
            assert time.monotonic() < until, f"zsh is not ready: {shown.decode(errors='replace')}"
            if select.select([self.terminal], [], [], 0.02)[0]:
                shown += os.read(self.terminal, 65536)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


SHELLS = [
    pytest.param(Bash, id="bash"),
    pytest.param(BashUncut, id="bash_uncut"),
    pytest.param(Zsh, id="zsh", marks=needs("zsh")),
    pytest.param(Fish, id="fish", marks=needs("fish")),
]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    one = request.param(tmp_path)
    yield one
    one.close()


def help_text() -> str:
    return subprocess.run([executable(), "--help"], capture_output=True, text=True,
                          check=True).stdout


def test_every_verb_and_option_is_offered(shell: Shell) -> None:
    """Those of `echod --help`, and no others."""
    verbs, options = help_text().split("Options,")
    verbs = set(re.findall(r"^  ([a-z]+)", verbs, re.MULTILINE))
    options = set(re.findall(r"^  .*?(--[a-z-]+)", options, re.MULTILINE))
    assert {"start", "ps", "add"} <= verbs and {"--config", "--json", "--help"} <= options
    assert shell.offers("echod ") - {"--"} == verbs
    assert {word for word in shell.offers("echod --") if word.startswith("--")} == options
    assert shell.calls == [], "no daemon is asked for that"


def test_verbs_by_their_beginning(shell: Shell) -> None:
    assert shell.offers("echod st") == {"start", "stop", "status"}
    assert shell.offers("echod -P x -q re") == {"restart", "reload", "remove"}


@pytest.mark.parametrize("verb", ["start", "stop", "kill", "remove"])
def test_names_of_services(shell: Shell, verb: str) -> None:
    """Those that the daemon lists, one of them only."""
    assert shell.offers(f"echod {verb} ") == {"line", "sensor", "second"}
    assert shell.offers(f"echod {verb} se") == {"sensor", "second"}
    assert shell.offers(f"echod {verb} line ") & {"line", "sensor", "second"} == set()


@pytest.mark.parametrize("line, options", [
    ("echod stop ", ""),
    ("echod -P x.pid stop ", "[-P][x.pid]"),
    ("echod stop -Px.pid ", "[-P][x.pid]"),
    ("echod stop --pidfile x.pid ", "[-P][x.pid]"),
    ("echod -q --pidfile=x.pid -T 3 stop ", "[-P][x.pid]"),
    ("echod -f c.conf -o control=y.sock kill -s HUP ", "[-f][c.conf][-o][control=y.sock]"),
    ("echod --config=c.conf --set pidfile=y.pid -o drain_timeout=3 stop ",
     "[-f][c.conf][-o][pidfile=y.pid]"),
    ("echod -P ~/x.pid stop ", "[-P][{home}/x.pid]"),
    ("echod -P 'x y.pid' stop ", "[-P][x y.pid]"),
])
def test_names_are_those_of_the_daemon_that_is_meant(shell: Shell, line: str,
                                                     options: str) -> None:
    """-P and -f are passed on, and -o as far as it says where the daemon is."""
    assert shell.offers(line) == {"line", "sensor", "second"}
    assert shell.calls == [f"{options.format(home=shell.dir)}[ps][-q][-T][2]"]


@pytest.mark.parametrize("line", ["echod -P $(touch${IFS}evil) stop ", "echod -P `>evil` stop ",
                                  "echod -f $(>evil) -o pidfile=$(>evil) stop "])
def test_completing_a_line_does_not_run_what_stands_in_it(shell: Shell, line: str) -> None:
    shell.offers(line)
    assert not (shell.dir / "evil").exists()


def test_no_names_where_none_belong(shell: Shell) -> None:
    for verb in ("check", "restart", "status", "ps", "add"):
        assert shell.offers(f"echod {verb} ") & {"line", "sensor", "start", "zz-a-file"} == set()
    assert shell.calls == []


def test_options_of_a_verb(shell: Shell) -> None:
    """What it takes, and not what it refuses."""
    expected = {"start": {"--foreground", "--timeout"}, "check": {"--defaults", "--listen"},
                "ps": {"--json"}, "kill": {"--signal"}, "add": {"--user", "--restart"}}
    for verb, options in expected.items():
        offered = shell.offers(f"echod {verb} --")
        assert options | {"--pidfile", "--config"} <= offered, verb
        for other, others in expected.items():
            assert other == verb or not (others - {"--listen", "--foreground", "--timeout"}
                                         - options) & offered, verb


def test_files(shell: Shell) -> None:
    """For the configuration file and the pidfile."""
    for option in ("-f ", "-P ", "--config ", "--pidfile ", "--pidfile="):
        assert shell.offers(f"echod stop {option}zz-") == {"zz-a-file"}, option


def test_signals(shell: Shell) -> None:
    """With and without SIG."""
    assert shell.offers("echod kill -s US") == {"USR1", "USR2"}
    assert shell.offers("echod kill --signal SIGK") == {"SIGKILL"}
    assert shell.offers("echod kill --signal=HU") == {"HUP"}
    assert {"HUP", "TERM", "KILL"} <= shell.offers("echod kill line -s ")


def test_values_of_add(shell: Shell) -> None:
    """Users, and when to run it again."""
    assert "root" in shell.offers("echod add x --user roo")
    assert "root" in shell.offers("echod add x --user=roo")
    assert shell.offers("echod add x --restart ") == {"always", "on-failure", "never"}
    assert shell.offers("echod add --restart=o") == {"on-failure"}


def test_command_behind_the_dashes(shell: Shell) -> None:
    """Commands first, then what these take; nothing of echod's."""
    assert "--" in shell.offers("echod add x ")
    assert shell.offers("echod add x -- zz-a-c") == {"zz-a-command"}
    assert shell.offers("echod -P y add x --user root -- zz-a-c") == {"zz-a-command"}
    assert shell.offers("echod add x -- zz-a-command zz-") == {"zz-a-file"}
    assert not shell.offers("echod add x -- zz-a-command --") & {"--pidfile", "--user"}
    assert shell.calls == []
