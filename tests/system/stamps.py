"""
A program that writes down its life: when it starts, with which words, and which signal ended it.

    stamps = Stamps(echod, "sensor")
    echod.configure(echod.service(), program("sensor", stamps.command("polite", "1")))
    ...
    assert stamps.lines() == ["start 4711 polite 1", "TERM 4711"]

It holds a lock as long as any process of it lives, and writes "two" when another one holds it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from echod import Echod, seconds
from procfs import wait_until

# MODE: polite    ends by the first signal that asks it to
#       stubborn  ignores all of them
#       fail      ends at once, with status 1
#       once      ends at once, with status 0
_SCRIPT = """#!/bin/sh
stamps=$1 mode=$2
shift
exec 9>>"$stamps.lock"
flock -n 9 || echo "two $$" >>"$stamps"
asked() { echo "$1 $$" >>"$stamps"; kill -9 $waiter 2>&-; exit 0; }
for sig in HUP INT USR1 USR2 TERM; do
    case $mode in
    stubborn) trap '' $sig ;;
    polite) trap "asked $sig" $sig ;;
    esac
done
case $mode in
polite | stubborn) sleep 600 & waiter=$! ;;
esac
echo "start $$ $*" >>"$stamps"
case $mode in
fail) exit 1 ;;
once) exit 0 ;;
esac
wait $waiter
sleep 0.1; sleep 0.1; sleep 0.1  # the signal that ended the waiter is on its way to us
echo "fell $$" >>"$stamps"
"""


class Stamps:
    """What all runs of one program have written."""

    def __init__(self, echod: Echod, name: str) -> None:
        self.path = echod.dir / f"{name}.stamps"
        self._script = echod.dir / "stamper"
        if not self._script.exists():
            self._script.write_text(_SCRIPT)
            self._script.chmod(0o755)
        for path in (self.path, self.path.with_name(f"{name}.stamps.lock")):
            path.touch()
            path.chmod(0o666)  # whoever it runs as

    def command(self, mode: str = "polite", *words: object) -> list[str]:
        return [str(self._script), str(self.path), mode, *map(str, words)]

    def lines(self) -> list[str]:
        lines = self.path.read_text().splitlines()
        assert not any(line.startswith(("two", "fell")) for line in lines), lines
        return lines

    def starts(self) -> list[int]:
        """The pid of each run."""
        return [int(line.split()[1]) for line in self.lines() if line.startswith("start ")]

    def words(self) -> list[str]:
        """Of each run: mode and words."""
        return [line.split(" ", 2)[2] for line in self.lines() if line.startswith("start ")]

    def ends(self) -> list[str]:
        """The signal, and the pid of the run that it ended."""
        return [line for line in self.lines() if not line.startswith("start ")]

    def await_start(self, number: int = 1, timeout: float = 10) -> int:
        """Wait for the run of this number, counted from 1; its pid."""
        wait_until(lambda: len(self.starts()) >= number, seconds(timeout),
                   f"start {number} of {self.path.name}")
        assert len(self.starts()) == number, self.lines()
        return self.starts()[-1]


def program(name: str, command: list[str], **keys: Any) -> str:
    """The text of a service that runs a command, for Echod.configure."""
    keys = {"name": name, "command": command, **keys}
    text = " ".join(f"{key} = {json.dumps(value)};" for key, value in keys.items())
    assert not re.search(r"\bnull\b", text)
    return "{ " + text + " }"
