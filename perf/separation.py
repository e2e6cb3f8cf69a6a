"""What separated processes cost beside a single one, for the same account and its same requests.

`one-process` is the gateway that the account has started for itself, `separated` root's, whose edge hears
the account's logins and passes them to a process of the account. The account exists in a mount namespace of
the servers alone.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import gateway
import logins
import servers as kinds
from place import GIB, MIB, Failed

NAME = "tidegate-perf"
SHAPES = ["separated", "one-process"]
HANDSHAKES = ["connect", "auth"]
REQUESTS = ["open", "stat"]
BYTES = ["sftp-get", "sftp-put"]
CALLS = "calls"
SETTING = {"Ciphers": "aes128-gcm@openssh.com", "KexAlgorithms": logins.KEX}
# Logins whose system calls are counted: every one is slow then.
TRACED = 200
CALLS_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.M)


class Shape(kinds.Tidegate):
    """The gateway in one of its shapes, for an account that is there alone."""

    def __init__(self, driver, shape, account):
        super().__init__(driver)
        self.label, self.account = shape, account
        self.name = f"{shape}-{driver}"

    def command(self, site, port):
        words = super().command(site, port)
        words[0] = str(self.account.binary)
        if self.label == "one-process":
            config = site.folder / f"{self.name}.conf"
            text = config.read_text().replace(f"{site.folder}/host\n", f"{self.account.host_key}\n")
            config.write_text(text)
            ids = f"--reuid={self.account.uid}", f"--regid={self.account.gid}"
            words = ["setpriv", *ids, "--clear-groups", *words]
        hide = f"mount --bind {shlex.quote(str(self.account.database))} /etc/passwd && exec "
        return ["unshare", "-m", "sh", "-c", hide + shlex.join(map(str, words))]


class Account:
    """A number that nobody has, and what it takes for it to be an account."""

    def __init__(self, site):
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        self.uid = self.gid = next(uid for uid in range(60_000, 61_000) if uid not in taken)
        self.database = site.folder / "passwd"
        line = f"{NAME}:x:{self.uid}:{self.gid}::{site.data}:/bin/sh\n"
        self.database.write_text(Path("/etc/passwd").read_text() + line)
        self.host_key = site.folder / "host-of-account"
        shutil.copy(site.folder / "host", self.host_key)
        os.chown(self.host_key, self.uid, self.gid)
        self.host_key.chmod(0o600)
        # Where the account can reach it.
        self.binary = site.folder / "tidegate"
        shutil.copy(site.binary, self.binary)
        self.binary.chmod(0o755)
        site.folder.chmod(0o755)
        site.data.chmod(0o755)
        os.chown(site.data, self.uid, self.gid)


@contextmanager
def both(site, driver):
    """Servers of both shapes; clients log in as the account meanwhile."""
    account, user, running = Account(site), site.user, []
    site.user = NAME
    try:
        for shape in SHAPES:
            running.append(kinds.Server(Shape(driver, shape, account), site))
        yield running
    finally:
        site.user = user
        for server in running:
            server.stop()
        os.chown(site.data, 0, 0)


def bench(site, server, scenario, count):
    """So many connections by `tidegate bench load`, eight at a time."""
    words = ["bench", "load", "127.0.0.1", "-F", "none", "-p", server.port, "-l", site.user,
             "-i", site.folder / "user", "--scenario", scenario, "--connections", count,
             "--concurrent", 8, "--duration", int(site.options.patience)]
    for option in (f"KexAlgorithms={logins.KEX}", "StrictHostKeyChecking=no", "IdentityAgent=none",
                   "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=none"):
        words += ["-o", option]
    site.finish([site.start([site.options.binary, *words])], 2 * site.options.patience)


def handshakes(site, server, scenario, figure):
    """CPU of each connection, and how often threads of the server went to sleep for it."""
    count = 5 * site.options.logins
    slept = gateway.switches(server)
    used = logins.cpu_of(site, server, lambda: bench(site, server, scenario, count), count)
    figure.setdefault("cpu_us_each", []).append(1000 * used)
    figure.setdefault("sleeps_each", []).append((gateway.switches(server) - slept) / count)


def asked(site, server, what, count):
    """CPU milliseconds for so many requests of one session about an empty file."""
    path = site.data / "empty"
    path.touch()
    client = [site.options.load, "files", f"127.0.0.1:{server.port}", site.user, site.folder / "user",
              count, 1, logins.KEX, logins.CIPHER, what, path]
    return logins.cpu_of(site, server, lambda: site.finish([site.start(client)]), 1)


def requests(site, server, what, figure):
    count = site.options.files
    empty = asked(site, server, what, 0)
    used = asked(site, server, what, count)
    figure.setdefault("cpu_us_each", []).append(1000 * (used - empty) / count)


def transfer(site, server, case, size):
    """CPU seconds for one file of so many bytes, by OpenSSH's sftp."""
    source, target, batch = site.file(size), site.data / "target", site.folder / "batch"
    target.unlink(missing_ok=True)
    get = case == "sftp-get"
    batch.write_text(f"get {source} /dev/null\n" if get else f"put {source} {target}\n")
    words = site.ssh(server.port, SETTING, program="sftp", extra=["-q", "-b", batch, "127.0.0.1"])
    before = server.group.seconds()
    site.finish([site.start(words)])
    time.sleep(logins.SETTLE_SECONDS)
    used = server.group.seconds() - before
    if not get and target.stat().st_size != size:
        raise Failed("the copy is not whole")
    target.unlink(missing_ok=True)
    return used


def bytes_moved(site, server, case, figure):
    size = site.options.size * MIB
    empty = transfer(site, server, case, 0)
    used = transfer(site, server, case, size)
    figure.setdefault("cpu_s_per_gib", []).append((used - empty) * GIB / size)


def part_of(pid):
    """What a process of a gateway does: the first word behind its program's name."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[1].decode() if len(words) > 1 else ""


class Tracer:
    """Counts the system calls of one process."""

    def __init__(self, site, pid):
        self.part, self.report = part_of(pid), site.folder / f"calls-{pid}"
        words = ["strace", "-f", "-c", "-o", self.report, "-p", str(pid)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        first = self.process.stderr.readline()
        if "attached" not in first:
            raise Failed(first.strip() or "strace ended")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        found = CALLS_LINE.findall(self.report.read_text())
        return {name: int(count) for count, name in found if name != "total"}


def calls(site, server, figure):
    """System calls of each login by process and name. Processes wait for each other meanwhile as they do
    not otherwise, so that calls that wait and wake may be more."""
    if not shutil.which("strace"):
        raise Failed("there is no strace")
    bench(site, server, "auth", 16)
    tracers = [Tracer(site, pid) for pid in server.group.members()]
    bench(site, server, "auth", TRACED)
    time.sleep(logins.SETTLE_SECONDS)
    by_part = {}
    for tracer in tracers:
        counts = by_part.setdefault(tracer.part, {})
        for name, count in tracer.end().items():
            counts[name] = round(counts.get(name, 0) + count / TRACED, 2)
    figure.setdefault("calls_each", []).append(sum(sum(part.values()) for part in by_part.values()))
    figure["calls"] = by_part


def cases():
    drivers = ["uring", "mio"]
    return [(what, driver) for what in [*HANDSHAKES, *REQUESTS, *BYTES, CALLS] for driver in drivers]


def measure(site, case, rounds):
    what, driver = case
    with both(site, driver) as running:
        def once(server, figure):
            if what in HANDSHAKES:
                handshakes(site, server, what, figure)
            elif what in REQUESTS:
                requests(site, server, what, figure)
            elif what in BYTES:
                bytes_moved(site, server, what, figure)
            else:
                calls(site, server, figure)
        return gateway.by_turns(site, running, 1 if what == CALLS else rounds, once)
