"""echod access NAME ADDRESS: which rule in which line decides for a client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest

from echod import Echod

RULES = """\
pidfile = "/x.pid";
access = [
    "deny 192.0.2.66",
    "deny 2001:db8:bad::/48"
];
services = (
    { name = "line"; listen = [ "*:7007" ];
      access = (
        "deny 10.1.2.3",
        "allow 10.0.0.0/8",
        "allow ::1",
        "allow uid:0",
        "allow gid:daemon",
        "deny unix",
        "allow 192.0.2.0/24" ); },
    { name = "open"; listen = [ "*:7008" ]; },
    { name = "sensor"; command = "/bin/sh"; }
);
"""


def access(echod: Echod, name: str, client: str, *options: str, expect: int,
           text: str = RULES) -> subprocess.CompletedProcess[str]:
    """Ask about this configuration."""
    echod.config = echod.dir / "echod.conf"
    echod.config.write_text(text)
    return echod.run_command([str(echod.executable), "access", "-f", str(echod.config), *options,
                              name, client], expect=expect)


@pytest.mark.parametrize("client, allowed, rule, line", [
    ("10.1.2.3", False, "deny 10.1.2.3", 9), ("10.1.2.4", True, "allow 10.0.0.0/8", 10),
    ("::ffff:10.1.2.4", True, "allow 10.0.0.0/8", 10),
    ("::ffff:10.1.2.3", False, "deny 10.1.2.3", 9), ("::1", True, "allow ::1", 11),
    ("192.0.2.7", True, "allow 192.0.2.0/24", 15), ("192.0.2.66", False, "deny 192.0.2.66", 3),
    ("2001:db8:bad::1", False, "deny 2001:db8:bad::/48", 4),
    ("uid:0", True, "allow uid:0", 12), ("uid:root", True, "allow uid:0", 12),
    ("uid:4711,gid:daemon", True, "allow gid:daemon", 13), ("uid:daemon", True,
                                                            "allow gid:daemon", 13),
    ("uid:daemon,gid:4711", False, "deny unix", 14), ("uid:4711", False, "deny unix", 14),
    ("unix", False, "deny unix", 14),
])
def test_the_deciding_rule_and_its_line(echod: Echod, client: str, allowed: bool, rule: str,
                                        line: int) -> None:
    """The daemon's rules first, then the service's; the exit code is for scripts."""
    done = access(echod, "line", client, expect=0 if allowed else 1)
    verdict = "may use" if allowed else "may not use"
    assert done.stderr == "" and done.stdout.startswith(f"echod: {client} {verdict} line: ")
    assert f"'{rule}' at {echod.config}:{line}" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_no_rule_matches(echod: Echod) -> None:
    """Then it is the opposite of the last one, of each list."""
    done = access(echod, "line", "203.0.113.1", expect=1)
    assert re.fullmatch(
        r"echod: 203\.0\.113\.1 may not use line: the opposite of the last rule, 'deny "
        r"2001:db8:bad::/48' at [^ ]+:4 \(none matches\), and the opposite of the last rule, "
        r"'allow 192\.0\.2\.0/24' at [^ ]+:15 \(none matches\), decide\n", done.stdout)
    done = access(echod, "open", "203.0.113.1", expect=0)
    assert "may use open: the opposite of the last rule, 'deny 2001" in done.stdout
    assert done.stdout.endswith(" (none matches), decides\n")


def test_without_rules_everybody_is_allowed(echod: Echod) -> None:
    text = 'pidfile = "/x.pid";\n'
    done = access(echod, "line", "203.0.113.1", expect=0, text=text)
    assert done.stdout == "echod: 203.0.113.1 may use line: there are no access rules\n"
    done = echod.run_command([str(echod.executable), "access", "-P", "/x.pid", "-o",
                              "access=allow 10.0.0.0/8", "-f", str(echod.config), "line",
                              "10.0.0.1"], expect=0)
    assert done.stdout.endswith("'allow 10.0.0.0/8' at command line decides\n")


def test_answer_in_json(echod: Echod) -> None:
    done = access(echod, "line", "10.0.0.1", "--json", expect=0)
    assert json.loads(done.stdout) == {
        "ok": True, "schema": 1, "service": "line", "client": "10.0.0.1", "allowed": True,
        "open": True, "rules": [
            {"of": "all services", "allowed": True, "matched": False,
             "rule": "deny 2001:db8:bad::/48", "where": f"{echod.config}:4"},
            {"of": "line", "allowed": True, "matched": True, "rule": "allow 10.0.0.0/8",
             "where": f"{echod.config}:10"}]}
    refused = json.loads(access(echod, "line", "192.0.2.66", "--json", expect=1).stdout)
    assert not refused["allowed"] and [rule["of"] for rule in refused["rules"]] == ["all services"]


def test_quiet_is_the_exit_code_alone(echod: Echod) -> None:
    for client, code in (("10.0.0.1", 0), ("10.1.2.3", 1)):
        done = access(echod, "line", client, "-q", expect=code)
        assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("where", ["daemon", "service"])
def test_closed_hours_are_a_note(echod: Echod, where: str) -> None:
    """Rules are answered as always: whether it is open changes by itself."""
    later = time.strftime("%a", time.localtime(time.time() + 3 * 86400))
    times = f'access_times = [ "{later} 11:00-12:00" ];'
    text = ('pidfile = "/x.pid";' + (times if where == "daemon" else "") +
            'services = ( { name = "line"; listen = [ "*:7007" ];' +
            (times if where == "service" else "") + " } );\n")
    done = access(echod, "line", "10.0.0.1", expect=0, text=text)
    assert len(done.stdout.splitlines()) == 2
    assert "note: access_times keep line closed for everybody now" in done.stdout
    assert not json.loads(access(echod, "line", "10.0.0.1", "--json", expect=0,
                                 text=text).stdout)["open"]


@pytest.mark.parametrize("client", ["", "localhost", "10.0.0", "10.0.0.0/8", "10.0.0.1:7", "[::1]",
                                    "UNIX", "gid:0", "uid:0,0", "uid:0,gid:", "uid:",
                                    "uid:no-such-user", "uid:0,gid:no-such-group",
                                    "uid:4294967295", "::1%lo", "*"])
def test_what_is_no_address_is_wrong_usage(echod: Echod, client: str) -> None:
    done = access(echod, "line", client, expect=2)
    assert done.stdout == "" and re.match(r"echod: .+", done.stderr)


@pytest.mark.parametrize("words, said", [
    ([], "needs a NAME and an ADDRESS"), (["line"], "needs a NAME and an ADDRESS"),
    (["line", "::1", "::2"], "one client at a time"), (["", "::1"], "the NAME"),
    (["lnie", "::1"], "there is no service 'lnie'; did you mean 'line'?"),
    (["xyz", "::1"], "there is no service 'xyz'"), (["sensor", "::1"], "sensor is a program"),
])
def test_wrong_words(echod: Echod, words: list[str], said: str) -> None:
    """Never 1, which is a client that is refused."""
    echod.config = echod.dir / "echod.conf"
    echod.config.write_text(RULES)
    done = echod.run_command([str(echod.executable), "access", "-f", str(echod.config), *words],
                             expect=2)
    assert done.stdout == "" and said in done.stderr


def test_wrong_configuration(echod: Echod) -> None:
    """Half understood rules decide nothing."""
    done = access(echod, "line", "10.0.0.1", expect=6,
                  text='pidfile = "/x.pid";\naccess = [ "allow 10.0.0.1/8" ];\n')
    assert done.stdout == "" and f"{echod.config}:2: " in done.stderr


def test_no_daemon_is_needed_and_nothing_is_touched(echod: Echod) -> None:
    access(echod, "line", "10.0.0.1", expect=0)
    before = set(os.listdir(echod.dir))
    access(echod, "line", "10.0.0.1", expect=0)
    assert set(os.listdir(echod.dir)) == before
