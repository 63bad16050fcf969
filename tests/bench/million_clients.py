"""Many connections in many processes of `hold` (hold.c says what it can), as if they were one."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

SOURCE = Path(__file__).with_name("hold.c")


class Trouble(Exception):
    """A sentence for who runs this."""


class Sample(NamedTuple):
    """When a line was to be sent (time.monotonic_ns), and how much later it was back."""

    at: int
    delay: int


class Talk(NamedTuple):
    """What became of the lines of one talk."""

    sent: int
    answered: int
    samples: list[Sample]


def build_hold(directory: Path) -> Path:
    """The program, for who has not made it with make."""
    program = directory / "hold"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O2", "-o", str(program),
               str(SOURCE)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise Trouble(f"there is no C compiler for {SOURCE.name} ({error}): install gcc, set CC, "
                      f"or name a program that was made before with --hold") from None
    if done.returncode != 0:
        raise Trouble(f"{shlex.join(command)} failed: {done.stdout.strip()}")
    return program


class _Process:
    """One of them; its lines come by `read`."""

    def __init__(self, command: list[str], first: int, size: int) -> None:
        self.first = first
        self.size = size
        self.opened = 0
        self._rest = b""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        self.pid = self._process.pid

    def tell(self, order: str) -> None:
        self._stdin.write(order.encode() + b"\n")
        self._stdin.flush()

    def read(self) -> list[list[str]]:
        """The lines that are there, in words."""
        part = os.read(self.stdout.fileno(), 1 << 16)
        if not part:
            raise Trouble(f"the clients from number {self.first} on are gone "
                          f"(exit code {self._process.wait()})")
        *lines, self._rest = (self._rest + part).split(b"\n")
        return [line.decode().split(" ") for line in lines]

    def dismiss(self) -> None:
        """Ask it to end; all its connections are reset."""
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass

    def await_end(self) -> None:
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.stdout.close()


class Clients:
    """So many connections, over so many processes, numbered from `first` on."""

    def __init__(self, hold: Path, port: int, connections: int, processes: int, first: int = 0,
                 per_source: int = 500, patience: int = 30) -> None:
        self.ends: list[str] = []  # how connections ended, as far as it was told
        self.wanted = 0
        self._patience = patience
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        for i in range(processes):
            begin, end = (connections * j // processes for j in (i, i + 1))
            command = [str(hold), "--first", str(first + begin), "--per-source", str(per_source),
                       "--patience", str(patience), "127.0.0.1", str(port)]
            process = _Process(command, first + begin, end - begin)
            self._processes.append(process)
            self._selector.register(process.stdout, selectors.EVENT_READ, process)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.dismiss()
        for process in self._processes:
            process.await_end()
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    # ---- Orders ------------------------------------------------------------------------------

    def open(self, share: float, progress: Callable[[int], None]) -> None:
        """Open connections until this share of all is there."""
        for process in self._processes:
            process.tell(f"open {round(process.size * share)}")
        self.wanted = sum(round(process.size * share) for process in self._processes)
        for process, words in self._gather("opened", limit=False):
            if words[0] in ("opening", "opened"):
                process.opened = int(words[1])
                progress(sum(one.opened for one in self._processes))

    def begin_talk(self, every: int, rate: float, count: int = 0) -> None:
        """Each connection whose number `every` divides says `count` lines (0: until `hush`)."""
        self._tell(f"talk {every} {rate:.9f} {count}")

    def hush(self) -> None:
        self._tell("hush")

    def end_talk(self, seconds: float = 0) -> Talk:
        """Wait for all replies; `seconds` is how long there will still be talk."""
        sent = answered = 0
        samples = []
        for _, words in self._gather("talked", more=seconds):
            if words[0] == "sample":
                samples.append(Sample(int(words[1]), int(words[2])))
            elif words[0] == "talked":
                sent += int(words[1])
                answered += int(words[2])
        return Talk(sent, answered, samples)

    def count(self) -> tuple[int, int]:
        """How many are open, and how many have ended, by no doing of ours."""
        self._tell("count")
        counts = [words for _, words in self._gather("count") if words[0] == "count"]
        return sum(int(words[1]) for words in counts), sum(int(words[2]) for words in counts)

    # ---- Answers -----------------------------------------------------------------------------

    def _tell(self, order: str) -> None:
        for process in self._processes:
            process.tell(order)

    def _gather(self, last: str, more: float = 0,
                limit: bool = True) -> Iterator[tuple[_Process, list[str]]]:
        """
        What they say, until each has said a line with this first word. Trouble when nobody says
        anything for longer than `hold` itself is patient; each waits for the replies, too.
        """
        missing = set(self._processes)
        patience = 2 * self._patience + 10 + more if limit else self._patience + 10
        while missing:
            ready = self._selector.select(patience)
            if not ready:
                raise Trouble(f"{len(missing)} of {len(self._processes)} client processes are "
                              f"silent: no '{last}' within {patience:g} s")
            for key, _ in ready:
                process: _Process = key.data
                for words in process.read():
                    if words[0] == last:
                        missing.discard(process)
                    if words[0] == "failed":
                        raise Trouble(f"a client process {' '.join(words)}")
                    if words[0] == "ended":
                        self.ends.append(f"connection {words[1]}: {' '.join(words[2:])}")
                    yield process, words
