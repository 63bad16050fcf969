"""What was measured on: figures mean little without it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")


def _read(path: str | Path) -> str:
    """A file of /proc or /sys; "" where this kernel has none."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _first_line(*command: str) -> str:
    """What a tool says of itself; "" where it is missing."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip() if done.returncode == 0 else ""


def _cpuinfo(key: str) -> str:
    match = re.search(rf"^{key}\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else ""


def _make_variable(build: Path, name: str) -> str:
    match = re.search(rf"^{name} =\s*(.*)$", _read(build / "Makefile"), re.MULTILINE)
    return match[1].strip() if match else ""


def _distribution() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return match[1] if match else ""


def mitigations() -> dict[str, str]:
    """Those of flaws that this processor has."""
    if not VULNERABILITIES.is_dir():
        return {}
    states = {path.name: _read(path) for path in sorted(VULNERABILITIES.iterdir())}
    return {name: state for name, state in states.items() if state != "Not affected"}


def stolen_ticks() -> tuple[int, int]:
    """What the hypervisor gave to others, and all, in ticks of all processors since the boot."""
    fields = [int(field) for field in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    return (fields[7], sum(fields)) if len(fields) == 8 else (0, 0)


def describe(echod: Path, build: Path, source: Path) -> dict[str, Any]:
    """Call it before the load begins: the load average is that of the others."""
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    flags = _make_variable(build, "HARDEN_CFLAGS")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": _distribution(),
        "processor": _cpuinfo("model name") or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "mhz": _cpuinfo("cpu MHz"),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtual": " hypervisor " in f" {_cpuinfo('flags')} ",
        "memory_mb": int(memory[1]) // 1024 if memory else 0,
        "mitigations": mitigations(),
        "echod": _first_line(str(echod), "-V"),
        "commit": _first_line("git", "-C", str(source), "describe", "--always", "--dirty"),
        "compiler": _first_line(*_make_variable(build, "CC").split()[:1] or ["cc"], "--version"),
        "flags": " ".join(f"{_make_variable(build, 'CFLAGS')} {flags}".split()),
        "libc": os.confstr("CS_GNU_LIBC_VERSION") or platform.libc_ver()[0],
        "libevent": _first_line("pkg-config", "--modversion", "libevent_core"),
    }


def text(machine: dict[str, Any]) -> list[str]:
    """For the head of the table."""
    loads = " ".join(f"{load:g}" for load in machine["load_average_before"])
    virtual = ", a virtual machine" if machine["virtual"] else ""
    return [
        f"{machine['echod']} ({machine['commit'] or 'no git'}), {machine['date']}",
        f"{machine['processors']} x {machine['processor']}{virtual}, {machine['memory_mb']} MB; "
        f"{machine['distribution']}, {machine['kernel']}",
        f"{machine['compiler']}, {machine['libc']}, libevent {machine['libevent']}, "
        f"flags {machine['flags']}",
        f"load average before: {loads}; mitigations: "
        + (", ".join(sorted(machine["mitigations"])) or "none"),
    ]
