"""What the machine is and how quiet it was: kernel, CPU, versions, load, steal."""

import os
import platform
import re
import subprocess
from pathlib import Path

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
# Above these a run says that it was noisy.
STEAL_PERCENT_MAX = 2.0
FOREIGN_PERCENT_MAX = 5.0


def output(command):
    """Both streams of a command that tells its version; empty when there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def describe():
    flags = Path("/proc/cpuinfo").read_text()
    wanted = ["aes", "vaes", "vpclmulqdq", "avx2", "avx512f", "sha_ni", "pmull"]
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "kernel": platform.release(),
        "cpu": cpu_name(),
        "cpu_features": [flag for flag in wanted if re.search(rf"\b{flag}\b", flags)],
        "cpus": os.cpu_count(),
        "memory_mib": memory // 1024,
    }


class CongestionControl:
    """Sets the system's congestion control for new connections while it is entered."""

    def __init__(self, name):
        self.name, self.before = name, CONGESTION.read_text().strip()

    def __enter__(self):
        if self.name and self.name != self.before:
            CONGESTION.write_text(self.name)
        return CONGESTION.read_text().strip()

    def __exit__(self, *_):
        if CONGESTION.read_text().strip() != self.before:
            CONGESTION.write_text(self.before)


class Watch:
    """What else the machine did between two moments."""

    def __init__(self):
        self.ticks = self.read()
        self.load = os.getloadavg()[0]

    @staticmethod
    def read():
        fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, idle, iowait, irq, softirq, steal = fields
        busy = user + nice + system + irq + softirq
        return {"busy": busy, "steal": steal, "all": busy + idle + iowait + steal}

    def report(self, own_seconds):
        """Load, steal and the CPU that others used, in percent of all CPUs, beside `own_seconds`."""
        now = self.read()
        spent = {key: now[key] - self.ticks[key] for key in now}
        every = max(spent["all"], 1)
        own = own_seconds * os.sysconf("SC_CLK_TCK")
        figures = {
            "load_before": round(self.load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "steal_percent": round(100 * spent["steal"] / every, 2),
            "foreign_percent": round(max(0.0, 100 * (spent["busy"] - own) / every), 2),
            "noise": [],
        }
        if figures["steal_percent"] > STEAL_PERCENT_MAX:
            figures["noise"].append(f"the host took {figures['steal_percent']} % of the CPU")
        if figures["foreign_percent"] > FOREIGN_PERCENT_MAX:
            figures["noise"].append(f"others used {figures['foreign_percent']} % of the CPU")
        return figures
