"""
Something that verbs take for a running echod: a process that holds the lock on the pidfile and
answers at the control socket beside it with what a test has prepared. It shows what a verb asks,
byte for byte, and lets a verb see answers that a real daemon seldom or never gives.

    with FakeDaemon(echod.pidfile, echod.control) as fake:
        fake.answer({"ok": True, "schema": 1, "text": "started"})
        echod.run("start", "sensor", expect=0)
        assert fake.requests == [b'{"verb":"start","args":["sensor"]}\\n']
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class FakeDaemon:
    """
    A process of its own: the lock is not asked of who holds it, and verbs send it signals.

    It records each request before it looks for the answer, so both are files beside the pidfile.
    """

    def __init__(self, pidfile: Path, control: Path) -> None:
        self.pidfile = pidfile
        self.control = control
        self._requests = pidfile.with_suffix(".requests")
        self._answer = pidfile.with_suffix(".answer")
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FakeDaemon:
        self.answer({"ok": True, "schema": 1, "text": "done"})
        self._requests.write_bytes(b"")
        command = [sys.executable, __file__, self.pidfile, self.control, self._requests,
                   self._answer]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        text=True)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for path in (self.pidfile, self.control):
            path.unlink(missing_ok=True)

    def answer(self, reply: Any, delay: float = 0, at_once: bool = False, size: int = 0) -> None:
        """
        What is sent to each client from now on: JSON and a newline, or a str as it stands.

        `delay` seconds pass before; `at_once`: without reading the request; `size`: so many bytes
        at a time, with a moment between them.
        """
        text = reply if isinstance(reply, str) else json.dumps(reply) + "\n"
        new = self._answer.with_suffix(".new")
        new.write_text(json.dumps({"text": text, "delay": delay, "at_once": at_once, "size": size}))
        new.rename(self._answer)

    @property
    def requests(self) -> list[bytes]:
        """The lines that came, newlines included."""
        return self._requests.read_bytes().splitlines(keepends=True)


def _read_line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (part := client.recv(65536)):
        line += part
    return line


def _serve(client: socket.socket, requests: Path, answer_path: Path) -> None:
    answer = json.loads(answer_path.read_text())
    if not answer["at_once"]:
        with requests.open("ab") as file:
            file.write(_read_line(client))
        answer = json.loads(answer_path.read_text())
    time.sleep(answer["delay"])
    text = answer["text"].encode(errors="surrogateescape")
    size = answer["size"] or len(text) or 1
    for begin in range(0, len(text), size):
        client.sendall(text[begin:begin + size])
        time.sleep(0.001 if answer["size"] else 0)


def main(pidfile: str, control: str, requests: str, answer: str) -> None:
    fd = os.open(pidfile, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.write(fd, f"{os.getpid()}\n".encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(control)
        listener.listen()
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            with client:
                try:
                    _serve(client, Path(requests), Path(answer))
                except OSError:
                    pass  # a client that no longer waits


if __name__ == "__main__":
    main(*sys.argv[1:])
