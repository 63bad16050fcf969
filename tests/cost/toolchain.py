"""What instruction counts depend on besides echod itself."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import subprocess
from pathlib import Path

# valgrind offers the daemon what the processor has of these, and the C library chooses its string
# functions by them.
VECTORS = ("avx2", "avx", "asimd")


def _first_line(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=30)
    return done.stdout.partition("\n")[0].strip()


def compiler(command: str) -> str:
    """As it calls itself: gcc (Debian 12.2.0-14) 12.2.0; also where it is called cc."""
    line = _first_line(*shlex.split(command), "--version")
    return line if "clang" in line else re.sub(r"^\S+ ", "gcc ", line)


def libevent(executable: Path) -> str:
    """The version of the very library that the executable is linked with."""
    done = subprocess.run(["ldd", str(executable)], stdout=subprocess.PIPE, text=True, timeout=30)
    found = re.search(r"libevent_core\S* => (\S+)", done.stdout)
    if found is None:
        return "linked statically"
    version = ctypes.CDLL(found[1]).event_get_version
    version.restype = ctypes.c_char_p
    return version().decode()


def libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except ValueError:
        return "unknown"


def machine() -> str:
    """The architecture and the best of VECTORS."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(),
                      re.MULTILINE)
    words = flags[1].split() if flags else []
    vectors = next((f" with {vector}" for vector in VECTORS if vector in words), "")
    return platform.machine() + vectors


def toolchain(executable: Path, build: Path) -> dict[str, str]:
    """What the executable was made with, as configure has noted it in this build directory."""
    rows = (build / "tests/cost/built-with").read_text().splitlines()
    noted = {key: value.strip() for key, _, value in (row.partition(":") for row in rows)}
    return {
        "compiler": compiler(noted["compiler"]),
        "flags": " ".join(noted["flags"].split()),
        "libc": libc(),
        "libevent": libevent(executable),
        "machine": machine(),
        "valgrind": _first_line("valgrind", "--version"),
    }


def is_optimised(flags: str) -> bool:
    """Does the last -O ask for any?"""
    levels = re.findall(r"(?:^|\s)-O(\S*)", flags)
    return bool(levels) and levels[-1] not in ("0", "g")
