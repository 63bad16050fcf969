"""An echod that can hold a million connections through a restart, with a directory of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from million_clients import Trouble
from million_limits import Plan
from million_memory import User, user_memory

# Silence is no reason to end a connection, and these clients do not speak first. Former workers
# serve what they hold until the clients end it: retire_timeout is not set, and none of them is one
# too many.
CONFIG = """
pidfile = "{directory}/echod.pid";
log = {{ target = "file:{directory}/echod.log"; }};
max_retiring = {max_retiring};
services = (
    {{ name = "line"; protocol = "line"; listen = [ "127.0.0.1:0" ]; workers = {workers};
       max_lines = 0; idle_timeout = 0; defer_accept = 0; backlog = {backlog}; }}
);
"""


class Daemon:
    """An echod with a directory and a port of its own, from the beginning to the end of a block."""

    def __init__(self, executable: str, plan: Plan) -> None:
        self._executable = executable
        self._plan = plan
        self._directory = Path(tempfile.mkdtemp(prefix="echod-million-"))
        self._config = self._directory / "echod.conf"
        self._log = self._directory / "echod.log"
        self.port = 0

    def __enter__(self) -> Daemon:
        self._config.write_text(CONFIG.format(
            directory=self._directory, workers=self._plan.workers, backlog=self._plan.backlog,
            max_retiring=max(1024, self._plan.workers)))
        started = self._verb("start", "--print-ports")
        match = re.search(r"^line tcp:127\.0\.0\.1:(\d+)$", started, re.MULTILINE)
        if match is None:
            raise Trouble(f"{self._executable} printed no port: {started!r}")
        self.port = int(match[1])
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._verb("stop")
            shutil.rmtree(self._directory)
            return
        try:
            self._verb("stop")
        except Trouble as trouble:  # what came first is what will be told
            print(f"million: {trouble}", file=sys.stderr)
        print(f"million: the log of echod is {self._log}", file=sys.stderr)

    def _verb(self, *words: str) -> str:
        command = [self._executable, *words, "-f", str(self._config)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=300)
        if done.returncode != 0:
            raise Trouble(f"echod {words[0]} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def restart(self) -> None:
        self._verb("restart")

    def status(self) -> dict[str, Any]:
        return json.loads(self._verb("status", "--json"))

    def workers(self, generation: int) -> list[dict[str, Any]]:
        """What `status` says of the workers of one generation."""
        return [one for one in self.status()["processes"] if one["generation"] == generation]

    def held(self, generation: int) -> int:
        """How many connections they have."""
        return sum(one["connections"] for one in self.workers(generation))

    def memory(self, generation: int) -> User:
        return user_memory(one["pid"] for one in self.workers(generation))

    def complaints(self) -> list[str]:
        """What the log has above the level notice."""
        return [line for line in self._log.read_text().splitlines()
                if re.search(r"\] (warning|error|critical): ", line)]
