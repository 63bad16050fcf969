"""The load generator, and perf(1) beside it, each with a limit on its time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from processes import family
from servers import Failure, Place, Running

SETUP_LIMIT = 20.0  # seconds for the connections, beyond the time that is measured
PERF_LIMIT = 10.0   # seconds until perf has attached, or has printed
EVENT = "raw_syscalls:sys_enter"


class Client:
    """Runs the load generator on its processor; one at a time, which `cancel` ends."""

    def __init__(self, program: Path, cpu: int) -> None:
        self.program, self.cpu = program, cpu
        self._process: subprocess.Popen[str] | None = None

    def cancel(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def run(self, server: Running, options: tuple[str, ...], warmup: float,
            seconds: float) -> dict[str, Any]:
        """
        Its result, with "usage" for what it calls "server", a name that is needed otherwise.
        Failure if a reply was wrong or did not come.
        """
        limit = warmup + seconds + SETUP_LIMIT
        command = [str(self.program), *options, "--warmup", f"{warmup:g}", "--seconds",
                   f"{seconds:g}", "--cpu", str(self.cpu), "--server", str(server.pid),
                   "127.0.0.1", str(server.port)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE, start_new_session=True) as process:
            self._process = process
            try:
                said, errors = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise Failure(f"it was not done after {limit:g} s, {SETUP_LIMIT:g} s of them for "
                              "its connections") from None
            finally:
                self._process = None
        return _checked(process.returncode, said, errors.strip())


def _checked(code: int, said: str, errors: str) -> dict[str, Any]:
    if code not in (0, 1) or not said:
        raise Failure(errors or f"the load generator ended with {code}")
    result = json.loads(said)
    if code != 0 or result["errors"]:
        raise Failure(f"{result['errors']} errors; the first: {result['first_error'] or errors}")
    if not result["lines"]:
        raise Failure("no line was answered")
    result["usage"] = result.pop("server")
    if result["usage"] is None:
        raise Failure("the load generator could not look at the server's processes")
    return result


# ---- System calls -------------------------------------------------------------------------------

class NoPerf(Exception):
    """System calls cannot be counted on this machine; the text is the reason."""


class Perf:
    """
    `perf stat` on a server's processes and their children to be. It takes orders and acknowledges
    them by pipes (--control), so it is known when it counts.
    """

    def __init__(self, server: Running, place: Place) -> None:
        self.output = place.work / "perf.txt"
        pids = ",".join(map(str, family(server.pid)))
        orders, order = os.pipe()
        answer, answers = os.pipe()
        self._order = open(order, "wb", buffering=0)
        self._answer = open(answer, "rb", buffering=0)
        try:
            self._process = subprocess.Popen(
                ["perf", "stat", "-x", ",", "-o", str(self.output), "-e", EVENT, "-D", "-1",
                 "--control", f"fd:{orders},{answers}", "-p", pids],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=(orders, answers), start_new_session=True)
        except FileNotFoundError:
            self._close()
            raise NoPerf("perf is missing; on Debian: apt-get install linux-perf") from None
        finally:
            os.close(orders)
            os.close(answers)

    def _close(self) -> None:
        self._order.close()
        self._answer.close()

    def begin(self) -> None:
        """Returns when it counts."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: then there is no answer
            self._order.write(b"enable\n")
        ready, _, _ = select.select([self._answer], [], [], PERF_LIMIT)
        if not ready or not self._answer.read(16):
            said = [" ".join(line.split()) for line in self.end().splitlines() if line.strip()]
            why = next((line for line in said if line.startswith("Error:")), "; ".join(said[:1]))
            raise NoPerf(f"perf cannot count {EVENT}: {why or 'it gives no reason'}")

    def end(self) -> str:
        """What it said on standard error."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            said = self._process.communicate(timeout=PERF_LIMIT)[1]
        except subprocess.TimeoutExpired:
            self._process.kill()
            said = self._process.communicate()[1]
        self._close()
        return said.decode(errors="replace")

    def count(self) -> int:
        """After the end: how many calls there were."""
        for line in self.output.read_text().splitlines():
            fields = line.split(",")
            if len(fields) > 2 and fields[2] == EVENT and fields[0].isdigit():
                return int(fields[0])
        raise Failure(f"perf has not counted {EVENT}")


def count_calls(client: Client, server: Running, place: Place, options: tuple[str, ...],
                seconds: float) -> tuple[int, int]:
    """One run of the load; its lines and the server's system calls, those for connections too."""
    perf = Perf(server, place)
    perf.begin()
    try:
        lines = client.run(server, options, 0, seconds)["lines"]
    finally:
        perf.end()
    return lines, perf.count()
