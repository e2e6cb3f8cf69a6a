"""Control groups, which account for the CPU of everything that was started in them."""

import os
import signal
import time
from pathlib import Path


class Group:
    def __init__(self, name):
        base = Path("/sys/fs/cgroup/cpuacct")
        self.v1 = base.is_dir()
        if not self.v1:
            base = Path("/sys/fs/cgroup")
        self.path = base / f"tidegate-perf-{os.getpid()}-{name}"
        self.path.mkdir()

    @property
    def entrance(self):
        """The file into which a process writes its number to join."""
        return self.path / "cgroup.procs"

    def join(self):
        self.entrance.write_text(str(os.getpid()))

    def seconds(self):
        if self.v1:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        for line in (self.path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e6
        raise RuntimeError(f"no CPU accounting in {self.path}")

    def members(self):
        return [int(pid) for pid in self.entrance.read_text().split()]

    def pss_kib(self):
        """Memory of all members, shared pages divided among those that share them."""
        total = 0
        for pid in self.members():
            try:
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
            except (FileNotFoundError, ProcessLookupError):
                pass
        return total

    def close(self):
        for _ in range(50):
            for pid in self.members():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)
