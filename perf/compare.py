#!/usr/bin/env python3
"""Tidegate beside Debian's sshd: server CPU and memory, same client, same run, alternating.

    perf/compare.py [--quick] [--cases get,put,exec-down,exec-up,login,login-ssh,idle]
                    [--ciphers ...] [--runs N] [--size MiB] [--json FILE] [--peer NAME=COMMAND]...

Needs root (sshd's privilege separation, cgroups), openssh-server and a release build; builds it
when it is missing. Each case runs A B A B ... and prints medians and the ratio. CPU is that of the
server's whole process tree, read from a control group of its own; for exec cases the command's own
CPU is subtracted. Logins are made by perf/load.rs, sixteen at once from one process, or by as many
`ssh` programs (login-ssh), which cost more CPU than the servers and take their caches. Everything happens on 127.0.0.1 in a temporary folder.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


class Group:
    """A control group that accounts the CPU of everything started in it."""

    def __init__(self, name):
        base = Path("/sys/fs/cgroup/cpuacct")
        self.v1 = base.is_dir()
        if not self.v1:
            base = Path("/sys/fs/cgroup")
        self.path = base / f"tidegate-perf-{os.getpid()}-{name}"
        self.path.mkdir()

    def join(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self):
        if self.v1:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        for line in (self.path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e6
        raise RuntimeError("no CPU accounting in " + str(self.path))

    def members(self):
        return [int(p) for p in (self.path / "cgroup.procs").read_text().split()]

    def close(self):
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, name, command, folder, port):
        self.name, self.folder, self.port = name, folder, port
        self.group = Group(name)
        self.log = open(folder / f"{name}.log", "wb")
        # Servers start with no jumbo of inherited descriptors and a raised limit.
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, preexec_fn=self.group.join
        )
        deadline = time.time() + 20
        while time.time() < deadline:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    s.recv(16)
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not start; see {self.log.name}:\n"
                           + (folder / f"{name}.log").read_text()[-2000:])

    def cpu(self):
        return self.group.seconds()

    def pss_kib(self):
        total = 0
        for pid in self.group.members():
            try:
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
            except (FileNotFoundError, ProcessLookupError):
                pass
        return total

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.group.close()


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-perf-"))
        self.user = subprocess.check_output(["id", "-un"], text=True).strip()
        self.results = []
        for kind, name in (("ed25519", "host"), ("ed25519", "user")):
            run = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(self.folder / name)]
            subprocess.run(run, check=True)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        self.data = Path(options.data or self.folder)
        self.source = self.data / "source.bin"
        self.make_file(self.source, options.size << 20)
        self.servers = []

    @staticmethod
    def make_file(path, size):
        block = os.urandom(1 << 20)
        with open(path, "wb") as f:
            for _ in range(size >> 20):
                f.write(block)

    def config(self, port):
        return "\n".join([
            f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no",
            "PermitRootLogin yes", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "UsePAM no", "MaxStartups 2000:30:4000",
            "MaxSessions 100", "LogLevel ERROR", "Subsystem sftp internal-sftp",
            "PidFile none", "LoginGraceTime 600", "UseDNS no", "PrintMotd no",
        ]) + "\n"

    def start(self):
        port = free_port()
        config = self.folder / "tidegate_config"
        config.write_text(self.config(port))
        command = [str(self.options.binary), "serve", "-f", str(config),
                   "-o", "PerSourcePenalties=no"]
        if self.options.reactors:
            command += ["--reactors", str(self.options.reactors)]
        self.servers.append(Server("tidegate", command, self.folder, port))
        port = free_port()
        config = self.folder / "sshd_config"
        config.write_text(self.config(port))
        os.makedirs("/run/sshd", exist_ok=True)
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        self.servers.append(Server("sshd", [sshd, "-D", "-e", "-f", str(config)], self.folder, port))
        for name, command in self.options.peers:
            port = free_port()
            places = {"port": port, "host_key": self.folder / "host",
                      "authorized_keys": self.folder / "authorized_keys"}
            words = [word.format(**places) for word in shlex.split(command)]
            self.servers.append(Server(name, words, self.folder, port))

    def ssh(self, server, program="ssh", cipher=None, kex="curve25519-sha256", extra=()):
        options = {
            "Port": server.port, "User": self.user, "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes", "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR", "KexAlgorithms": kex,
            "ControlPath": "none", "IdentityAgent": "none",
        }
        if cipher:
            options["Ciphers"] = cipher
        if cipher and "ctr" in cipher:
            options["MACs"] = "hmac-sha2-256-etm@openssh.com"
        command = [program, "-F", "/dev/null"]
        for key, value in options.items():
            command += ["-o", f"{key}={value}"]
        return command + list(extra)

    # Each case answers server CPU in seconds for one run and the amount of work done in it.

    def sftp(self, server, cipher, batch):
        script = self.folder / "batch"
        script.write_text(batch + "\n")
        before = server.cpu()
        subprocess.run(
            self.ssh(server, "sftp", cipher, extra=["-q", "-b", str(script), "127.0.0.1"]),
            check=True, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        return server.cpu() - before

    def get(self, server, cipher):
        used = self.sftp(server, cipher, f"get {self.source} /dev/null")
        return used, self.options.size / 1024

    def put(self, server, cipher):
        target = self.data / "target.bin"
        target.unlink(missing_ok=True)
        used = self.sftp(server, cipher, f"put {self.source} {target}")
        if target.stat().st_size != self.source.stat().st_size:
            raise RuntimeError("the copy is short")
        target.unlink()
        return used, self.options.size / 1024

    def command_cpu(self, text):
        """Seconds from the two lines of the shell's `times`."""
        total = 0.0
        for field in text.split():
            minutes, seconds = field.rstrip("s").split("m")
            total += int(minutes) * 60 + float(seconds)
        return total

    def exec_down(self, server, cipher):
        times = self.folder / "times"
        command = f"bash -c 'head -c {self.options.size}M /dev/zero; times > {times}'"
        before = server.cpu()
        subprocess.run(self.ssh(server, "ssh", cipher, extra=["127.0.0.1", command]),
                       check=True, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        return server.cpu() - before - self.command_cpu(times.read_text()), self.options.size / 1024

    def exec_up(self, server, cipher):
        times = self.folder / "times"
        command = f"bash -c 'cat > /dev/null; times > {times}'"
        before = server.cpu()
        with open(self.source, "rb") as source:
            subprocess.run(self.ssh(server, "ssh", cipher, extra=["127.0.0.1", command]),
                           check=True, stdin=source)
        time.sleep(0.3)
        return server.cpu() - before - self.command_cpu(times.read_text()), self.options.size / 1024

    def login(self, server, kex):
        def load(count):
            subprocess.run([self.options.load, f"127.0.0.1:{server.port}", self.user,
                            self.folder / "user", str(count), "16", kex,
                            "chacha20-poly1305@openssh.com"],
                           check=True, stdout=subprocess.DEVNULL)
            time.sleep(0.5)
        load(16)
        count = self.options.logins
        before = server.cpu()
        load(count)
        return (server.cpu() - before) * 1000, count

    def login_ssh(self, server, kex):
        count, at_once = self.options.logins, 16
        before = server.cpu()
        running, started = [], 0
        while started < count or running:
            while started < count and len(running) < at_once:
                running.append(subprocess.Popen(
                    self.ssh(server, kex=kex, extra=["-s", "127.0.0.1", "sftp"]),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
                started += 1
            if running.pop(0).wait() != 0:
                raise RuntimeError(f"a login to {server.name} failed")
        time.sleep(0.5)
        return (server.cpu() - before) * 1000, count

    def idle(self, server, _):
        count = self.options.idle
        base = server.pss_kib()
        clients = []
        for n in range(count):
            clients.append(subprocess.Popen(
                self.ssh(server, extra=["-N", "127.0.0.1"]), stdin=subprocess.DEVNULL))
            if n % 16 == 15:
                time.sleep(0.25)
        deadline = time.time() + 120
        while time.time() < deadline:
            if established(server.port) >= count:
                break
            time.sleep(0.5)
        time.sleep(3)
        alive = sum(client.poll() is None for client in clients)
        full = server.pss_kib()
        for client in clients:
            client.terminate()
        for client in clients:
            client.wait()
        if alive != count:
            raise RuntimeError(f"{server.name}: only {alive} of {count} stayed connected")
        print(f"    {server.name}: {base} KiB before, {full} KiB with {count} open", flush=True)
        return full, count

    def compare(self, name, case, argument, unit, runs):
        figures = {server.name: [] for server in self.servers}
        for run in range(runs):
            order = self.servers if run % 2 == 0 else self.servers[::-1]
            for server in order:
                used, amount = case(server, argument)
                figures[server.name].append(used / amount)
        ours = statistics.median(figures["tidegate"])
        theirs = statistics.median(figures["sshd"])
        spread = (max(figures["tidegate"]) - min(figures["tidegate"])) / ours * 100 if ours else 0
        label = f"{name} {argument or ''}".strip()
        peers = "".join(f", {peer} {statistics.median(figures[peer]):.3f}"
                        for peer, _ in self.options.peers)
        print(f"{label:44} {ours:10.3f} {theirs:10.3f} {ours / theirs:8.4f}  {unit} "
              f"(n={runs}, spread {spread:.0f} %{peers})", flush=True)
        self.results.append({"case": name, "argument": argument, "unit": unit, "tidegate": ours,
                             "sshd": theirs, "ratio": ours / theirs, "all": figures})

    def run(self):
        options = self.options
        print(f"{platform.processor() or platform.machine()}, Linux {platform.release()}, "
              f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
              f"{options.size} MiB files in {self.data}")
        print(f"congestion control {Path('/proc/sys/net/ipv4/tcp_congestion_control').read_text().strip()}; "
              f"client {subprocess.run(['ssh', '-V'], capture_output=True, text=True).stderr.strip()}")
        print(f"{'case':44} {'tidegate':>10} {'sshd':>10} {'ratio':>8}")
        transfers = {"get": self.get, "put": self.put,
                     "exec-down": self.exec_down, "exec-up": self.exec_up}
        for name, case in transfers.items():
            if name in options.cases:
                for cipher in options.ciphers:
                    self.compare(name, case, cipher, "CPU-s/GiB", options.runs)
        if "login" in options.cases:
            for kex in options.kex:
                self.compare("login", self.login, kex, "CPU-ms/login", options.runs)
        if "login-ssh" in options.cases:
            for kex in options.kex:
                self.compare("login-ssh", self.login_ssh, kex, "CPU-ms/login",
                             max(2, options.runs // 2))
        if "idle" in options.cases:
            self.compare("idle login", self.idle, None, "KiB PSS each", 1)
        if options.json:
            Path(options.json).write_text(json.dumps(self.results, indent=1) + "\n")

    def close(self):
        for server in self.servers:
            server.stop()
        if self.options.keep:
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def established(port):
    """Connections accepted at a port of 127.0.0.1, from the kernel's table."""
    count, local = 0, f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        count += fields[1].endswith(local) and fields[3] == "01"
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="get,put,exec-down,exec-up,login,login-ssh,idle")
    parser.add_argument("--ciphers", default="aes128-gcm@openssh.com,aes256-gcm@openssh.com,"
                        "chacha20-poly1305@openssh.com,aes128-ctr")
    parser.add_argument("--kex", default="curve25519-sha256")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--logins", type=int, default=200)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--reactors", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", help="folder for the files (default: the temporary folder)")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="another server, started with {port}, {host_key} and "
                        "{authorized_keys} filled in, that takes part in the same run")
    parser.add_argument("--json")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    options.cases = options.cases.split(",")
    options.ciphers = options.ciphers.split(",")
    options.kex = options.kex.split(",")
    options.peers = [peer.split("=", 1) for peer in options.peer]
    if options.quick:
        options.runs, options.size, options.logins, options.idle = 2, 256, 48, 100
    if os.geteuid() != 0:
        sys.exit("perf/compare.py needs root: sshd separates privileges and cgroups need it")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    options.load = target / "examples" / "load"
    if options.binary is None:
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
        options.binary = target / "tidegate"
    if "login" in options.cases:
        subprocess.run(["cargo", "build", "--release", "--example", "load"], cwd=ROOT, check=True)
    bench = Bench(options)
    try:
        bench.start()
        bench.run()
    finally:
        bench.close()


if __name__ == "__main__":
    main()
