"""Runs `aqueduct build` and measures time, peak memory and disk of each of its stages (Linux).

Memory is the resident set including pages of mapped files, sampled twenty times a second; the peak of the whole run is
the kernel's figure, which is exact. Disk is the size of the folder and, separately, of temporary files: those that are
open without a name or in TMPDIR.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

GB = 1e9


@dataclass
class Sample:
    seconds: float
    memory: int
    folder: int
    temporary: int


@dataclass
class Build:
    """The result of a build: stages, time, memory and disk."""

    result: dict
    seconds: float
    cpu_seconds: float
    memory: int
    # Name, start and end in seconds of each stage.
    stages: list[tuple[str, float, float]]
    samples: list[Sample]
    # Every file that appeared in the folder or in TMPDIR, with its largest size.
    seen: dict[str, int] = field(default_factory=dict)

    def peak(self, of: str) -> int:
        return max((getattr(sample, of) for sample in self.samples), default=0)

    def table(self) -> str:
        """A Markdown table with a row for each stage and one for all."""
        lines = ["| stage | seconds | peak memory | folder | temporary files |", "|---|---|---|---|---|"]
        for name, start, end in self.stages:
            within = [s for s in self.samples if start <= s.seconds < end] or [Sample(0, 0, 0, 0)]
            most = [max(getattr(s, of) for s in within) for of in ("memory", "folder", "temporary")]
            lines.append(f"| {name} | {end - start:.1f} | " + " | ".join(map(size, most)) + " |")
        last = " | ".join(map(size, (self.memory, self.peak("folder"), self.peak("temporary"))))
        lines.append(f"| all ({self.cpu_seconds:.0f} s of CPU time) | {self.seconds:.1f} | {last} |")
        return "\n".join(lines)


def size(count: int) -> str:
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


def disk(path: Path, seen: dict[str, int]) -> int:
    """The disk space of the files below `path`, in bytes."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            total += stat.st_blocks * 512
            seen[name] = max(seen.get(name, 0), stat.st_size)
    return total


def unnamed(pid: int) -> int:
    """The size of open files without a name, in bytes."""
    total = 0
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{number}"
            if os.readlink(link).endswith(" (deleted)"):
                total += os.stat(link).st_blocks * 512
    except FileNotFoundError:
        pass
    return total


def resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            lines = [line for line in status if line.startswith("VmRSS:")]
    except FileNotFoundError:
        return 0
    return int(lines[0].split()[1]) * 1024 if lines else 0


def build(program: Path, source: Path, folder: Path, temporary: Path, options: list[str]) -> Build:
    """Builds into `folder`, which must not exist, with temporary files in `temporary`."""
    temporary.mkdir(parents=True, exist_ok=True)
    printed = temporary.with_suffix(".json")
    command = [program, "build", source, "-o", folder, "--json", "--quiet", *options]
    samples, seen = [], {}
    started = time.monotonic()
    with open(printed, "wb") as stdout:
        process = subprocess.Popen(list(map(str, command)), stdout=stdout, env=os.environ | {"TMPDIR": str(temporary)})
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            now = time.monotonic() - started
            if pid:
                break
            temporaries = disk(temporary, seen) + unnamed(process.pid)
            samples.append(Sample(now, resident(process.pid), disk(folder, seen), temporaries))
            time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    result = json.loads(printed.read_text())
    samples.append(Sample(now, 0, disk(folder, seen), 0))
    stages = stages_of(result, now)
    cpu = usage.ru_utime + usage.ru_stime
    return Build(result, now, cpu, usage.ru_maxrss * 1024, stages, samples, seen)


def stages_of(result: dict, end: float) -> list[tuple[str, float, float]]:
    """The stages that the program reports, in order; the last one ends with the program."""
    stages, start = [], 0.0
    for stage in result["stages"]:
        stages.append((stage["stage"], start, start + stage["seconds"]))
        start += stage["seconds"]
    name, start, _ = stages[-1]
    return [*stages[:-1], (name, start, end)]
