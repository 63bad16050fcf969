"""
What echod costs: user-space instructions and system calls of a worker for a line, a connection, a
datagram. Counts, not times: they do not depend on what else the machine does.

The same conversations are held with a daemon under callgrind and with one under strace. stage.py
says why nothing in the counts depends on the scheduler.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from conversations import (CONVERSATIONS, FURTHER, IN_WINDOW, LINE_AT_50, PIPELINED, SEGMENT,
                           WINDOW, WINDOWFUL, Counts, hold)
from echod import Echod, seconds
from launching import ordinary
from stage import PATIENCE, Stage

INSTRUCTIONS = "instructions"

# System calls only where the machine's clock cannot be read from user space (vdso(7)).
CLOCKS = ("clock_gettime", "gettimeofday", "time")


# ---- Tools --------------------------------------------------------------------------------------

class Callgrind:
    """Instructions. Without --vgdb=no, valgrind would leave the pipes of its debugger in /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # With the C library's debugging symbols the name is another one.
        self.command = ["valgrind", "--tool=callgrind", "-q", "--vgdb=no", "--trace-children=yes",
                        "--dump-before=shutdown", "--dump-before=__shutdown",
                        f"--callgrind-out-file={folder}/%p"]

    def pieces(self, pid: int) -> list[Counts]:
        found = []
        while (path := self.folder / f"{pid}.{len(found) + 1}").exists():
            found.append(self._read(path))
        return [*found, self._read(self.folder / str(pid))]

    @staticmethod
    def _read(path: Path) -> Counts:
        totals = re.search(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)
        assert totals, f"{path} has no line with totals"
        return Counter({INSTRUCTIONS: int(totals[1])})


class Strace:
    """System calls. strace starts the daemon: attaching later is not allowed everywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = ["strace", "-ff", "-qq", "-e", "signal=none", "-o", f"{folder}/trace"]

    def pieces(self, pid: int) -> list[Counts]:
        found: list[Counts] = [Counter()]
        for row in (self.folder / f"trace.{pid}").read_text().splitlines():
            call = re.match(r"(\w+)\(", row)
            if call and call[1] not in CLOCKS:
                if call[1] == "shutdown":
                    found.append(Counter())
                found[-1][call[1]] += 1
        return found


# ---- Measuring ----------------------------------------------------------------------------------

def copy_of(built: Path, folder: Path) -> Path:
    """
    The build may lie where an ordinary user cannot go. Without debugging information, as valgrind
    before 3.20 gives up at that of clang (DWARF 5).
    """
    copy = folder / built.name
    subprocess.run(["strip", "--strip-debug", "-o", str(copy), str(built)], check=True)
    copy.chmod(0o755)
    return copy


@contextlib.contextmanager
def daemon(make_tool: type[Callgrind] | type[Strace],
           stage: Stage) -> Iterator[Callgrind | Strace]:
    """An ordinary user's daemon under a tool; at the end of the block it ends, and has counted."""
    echod = stage.echod
    ordinary(echod)
    echod.executable = copy_of(echod.executable, echod.dir)
    echod.env["LD_PRELOAD"] = str(copy_of(Path.cwd() / "tests/cost/still.so", echod.dir))
    stage.configure()
    tool = make_tool(echod.dir)
    said = echod.dir / "said"
    with open(said, "wb") as output:
        echod.process = subprocess.Popen(  # type: ignore[assignment]
            [*tool.command, *echod.command("start", "-F")], stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, cwd=echod.dir, **echod._popen({}))
    assert echod.process is not None
    try:
        echod.await_ready(PATIENCE)
        stage.know_workers()
        yield tool
        echod.signal(signal.SIGUSR1)  # politely: the tools write at the very end
        echod.process.wait(seconds(PATIENCE))
    except BaseException:
        print(f"{' '.join(tool.command)}:\n{said.read_text()}\nlog:\n{echod.log_text()}")
        echod.discard()
        raise


def measure_with(make_tool: type[Callgrind] | type[Strace]) -> dict[str, dict[str, float]]:
    """Hold every conversation; what each costs."""
    echod = Echod()
    try:
        stage = Stage(echod)
        with daemon(make_tool, stage) as tool:
            held = [hold(stage, what) for what in CONVERSATIONS]
        pieces = {name: tool.pieces(worker.pid) for name, worker in stage.workers.items()}
        for name, cuts in stage.cuts.items():
            assert len(pieces[name]) == cuts + 1, (
                f"{tool.command[0]} has seen {len(pieces[name]) - 1} calls of shutdown by the "
                f"worker of {name}, but there were {cuts}")
        echod.finish()
        return {one.what.name: one.cost(pieces[one.what.service]) for one in held}
    finally:
        echod.remove()


@dataclass(frozen=True)
class Costs:
    """Each figure by the name of what it costs: one line, one connection, one datagram, ..."""

    instructions: dict[str, float]
    calls: dict[str, dict[str, float]]

    def total_calls(self) -> dict[str, float]:
        """To one decimal: once in a while a worker asks whether one more client waits."""
        return {name: round(sum(calls.values()), 1) for name, calls in self.calls.items()}


def measure() -> Costs:
    found = {name: counts[INSTRUCTIONS] for name, counts in measure_with(Callgrind).items()}
    found[FURTHER] = (found[SEGMENT] - found[LINE_AT_50]) / (PIPELINED - 1)
    found[IN_WINDOW] = found.pop(WINDOWFUL) / WINDOW
    return Costs({name: round(figure, 1) for name, figure in found.items()},
                 measure_with(Strace))
