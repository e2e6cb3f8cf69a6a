"""Forwarded connections and the proxy: CPU of bulk, latency of an echo, what idle ones hold.

The clients are perf/load.rs, which costs less than any server here. `forward` goes to a socket of the
client's own, `proxied` to a command at Debian's sshd behind the gateway, which is in no figure.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import floors
import servers as kinds
from logins import KEX, Held, light
from place import GIB, MIB, Failed

WAYS = ["down", "up"]
FORWARD_CIPHERS = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"]
PROXIED_CIPHERS = ["aes128-gcm@openssh.com"]
FLOOR_CIPHER = FORWARD_CIPHERS[0]
# Of the packets that OpenSSH sends.
PIECE_BYTES = 32 * 1024
IDLE_CASES = ["idle-forwarded", "idle-proxied"]
SHARED_CIPHER = PROXIED_CIPHERS[0]
ECHO_SECONDS = 6
WATCH_SECONDS = 10
SETTLE_SECONDS = 0.25
# Times what the same arithmetic takes at best: above this the CPU was slow.
PACE_MAX = 1.25


class Proxy(kinds.Tidegate):
    """A gateway whose logins go on at an upstream, each by a connection of its own or by one of all."""

    def __init__(self, driver, upstream, cipher=None, shares=False):
        super().__init__(driver)
        self.upstream, self.cipher, self.shares = upstream, cipher, shares
        self.label = self.name + ("-shared" if shares else "")
        self.name = f"{self.label}-before-{upstream.name}"

    def command(self, site, port):
        known = site.folder / f"known-{self.upstream.port}"
        public = (site.folder / "host.pub").read_text()
        known.write_text(f"[127.0.0.1]:{self.upstream.port} {public}")
        lines = [f"TidegateUpstream=127.0.0.1:{self.upstream.port}",
                 f"TidegateUpstreamIdentity={site.folder}/user",
                 f"TidegateUpstreamKnownHosts={known}"]
        lines += [f"Ciphers={self.cipher}"] if self.cipher else []
        lines += ["TidegateUpstreamShare=yes"] if self.shares else []
        command = super().command(site, port)
        for line in lines:
            command += ["-o", line]
        return command


class Bytes:
    """HAProxy, which passes bytes on to an upstream and does not know what they are: what standing in
    between costs by itself."""

    name = label = "haproxy"
    at_once_max = 16

    def __init__(self, upstream):
        self.upstream = upstream

    @staticmethod
    def is_there():
        return shutil.which("haproxy") is not None

    def command(self, site, port):
        config = site.folder / "haproxy.conf"
        config.write_text("\n".join([
            "global", " nbthread 1", "defaults", " mode tcp", " timeout connect 10s",
            " timeout client 1h", " timeout server 1h", "listen ssh", f" bind 127.0.0.1:{port}",
            f" server upstream 127.0.0.1:{self.upstream.port}",
        ]) + "\n")
        return ["haproxy", "-db", "-f", str(config)]


def bulk(site, server, mebibytes, cipher, way, over):
    """CPU seconds of the server for one connection that moves so much, and how long it takes."""
    before, started = server.group.seconds(), time.monotonic()
    address = f"127.0.0.1:{server.port}"
    command = [site.options.load, "bulk", address, site.user, site.folder / "user", mebibytes, 1, KEX, cipher,
               way, over]
    if isinstance(server.kind, kinds.Floor):
        command = [site.options.floor, way, address, mebibytes]
    site.finish([site.start(command)])
    took = time.monotonic() - started
    time.sleep(SETTLE_SECONDS)
    return server.group.seconds() - before, took


class Pace:
    """What the same arithmetic takes on the servers' CPU while it is entered, in microseconds each time."""

    def __init__(self, site):
        self.site, self.samples = site, []

    def __enter__(self):
        def enter():
            self.site.clients.join()
            os.sched_setaffinity(0, self.site.server_cpus)
        self.process = subprocess.Popen([self.site.options.floor, "pace"], stdout=subprocess.PIPE, text=True,
                                        preexec_fn=enter)
        # The first one finds nothing in the caches.
        self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.process.kill()
        text, _ = self.process.communicate()
        self.samples = [int(line) for line in text.splitlines() if line.isdigit()]


def by_turns(site, servers, rounds, once):
    """`once(server, figure)` for all servers by turns, the first time for nothing."""
    figures = {getattr(server.kind, "label", server.name): {} for server in servers}
    for turn in range(-1, rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[getattr(server.kind, "label", server.name)]
            if "failed" in figure:
                continue
            try:
                once(server, figure if turn >= 0 else {})
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
    return figures


def moved(site, servers, cipher, way, over, rounds, size):
    """CPU for a GiB and the rate, without what the login costs; and how slow the CPU was meanwhile."""
    mebibytes, least = size // MIB, []

    def once(server, figure):
        empty, login = bulk(site, server, 0, cipher, way, over)
        with Pace(site) as pace:
            used, took = bulk(site, server, mebibytes, cipher, way, over)
        if not pace.samples:
            raise Failed("floor pace has said nothing")
        least.append(min(pace.samples))
        figure.setdefault("pace", []).append(statistics.mean(pace.samples))
        figure.setdefault("cpu_s_per_gib", []).append((used - empty) * GIB / size)
        figure.setdefault("gib_per_s", []).append(size / GIB / (took - login))
    figures = by_turns(site, servers, rounds, once)
    for figure in figures.values():
        figure["pace"] = [pace / min(least) for pace in figure.get("pace", [])]
        figure["cpu_at_pace"] = [cpu for cpu, pace in zip(figure.get("cpu_s_per_gib", []), figure["pace"])
                                 if pace <= PACE_MAX]
    return figures


def forward(site, running, way, cipher, rounds, size):
    """Also the floor, by turns with the servers, where its cipher is measured."""
    chosen = [server for server in running if server.name != "dropbear"]
    floor = [kinds.Server(kinds.Floor(), site)] if cipher == FLOOR_CIPHER else []
    try:
        return moved(site, chosen + floor, cipher, way, "tcp", rounds, size)
    finally:
        for server in floor:
            server.stop()


def in_front(site, upstream, cipher=None, ways=(False,)):
    """Gateways on both drivers, as far as they take part; `ways`: whether their logins share."""
    return [kinds.Server(Proxy(kind.driver, upstream, cipher, shares), site) for kind in site.options.kinds
            if isinstance(kind, kinds.Tidegate) for shares in ways]


def behind(site, kind, name):
    return kinds.Server(kind, site, name, cpus=site.client_cpus)


def proxied(site, way, cipher, rounds, size):
    """Also the sum of one open, one seal and two passes through a socket, in the same run."""
    upstream, gateways = behind(site, kinds.Sshd(), "upstream-sshd"), []
    try:
        gateways += in_front(site, upstream, cipher)
        parts = []
        figures = {"the-sum": {"cpu_s_per_gib": parts}}
        parts.append(the_sum(site, cipher))
        figures |= moved(site, gateways, cipher, way, "exec", rounds, size)
        parts.append(the_sum(site, cipher))
        # The gateway first: quotients are those of the first to the others.
        return dict(sorted(figures.items(), key=lambda pair: pair[0] == "the-sum"))
    finally:
        for server in gateways + [upstream]:
            server.stop()


def shared(site, section, case, rounds, size):
    """Logins with a connection of their own to the host beside such as go on over one."""
    upstream, gateways = behind(site, kinds.Sshd(), "upstream-sshd"), []
    try:
        bytes_too = section == "shared"
        gateways += in_front(site, upstream, SHARED_CIPHER if bytes_too else None, (False, True))
        if bytes_too:
            return moved(site, gateways, SHARED_CIPHER, case, "exec", rounds, size)
        count = site.options.logins

        def once(server, figure):
            before = upstream.group.seconds()
            own = light(site, server, count)
            host = (upstream.group.seconds() - before) * 1000 / count
            figure.setdefault("cpu_ms_each", []).append(own)
            figure.setdefault("host_ms_each", []).append(host)
            figure.setdefault("per_cpu_s", []).append(1000 / (own + host))
        return by_turns(site, gateways, rounds, once)
    finally:
        for server in gateways + [upstream]:
            server.stop()


def the_sum(site, cipher):
    """CPU seconds a GiB of one open and one seal, and of one read and one write of 256 KiB."""
    command = [site.options.binary, "bench", "cipher", "--only", cipher, "--threads", "1", "--json"]
    done = site.start(command, stdout=subprocess.PIPE)
    text, _ = done.communicate(timeout=site.options.patience)
    total = 0.0
    for what in ("open", "seal"):
        best = [case["nanos"] for case in json.loads(text)["cases"]
                if re.fullmatch(rf"{what}/{re.escape(cipher)}/[^/]+/{PIECE_BYTES}/1", case["name"])]
        total += min(best) / 1e9 * GIB / PIECE_BYTES
    script = Path(floors.__file__)
    cpu = min(site.server_cpus)
    done = site.start([script, "--sockets", 128, cpu], stdout=subprocess.PIPE)
    text, errors = done.communicate(timeout=site.options.patience)
    if done.returncode:
        raise Failed(errors)
    return total + float(text) * 1e-6 * GIB / MIB


def typed(site, server):
    done = site.start([site.options.load, "fair", f"127.0.0.1:{server.port}", site.user,
                       site.folder / "user", 0, ECHO_SECONDS, "/dev/null"], stdout=subprocess.PIPE)
    text, errors = done.communicate(timeout=site.options.patience)
    if done.returncode:
        raise Failed((errors or "it ended").strip().splitlines()[-1])
    pairs = dict(line.split(None, 1) for line in text.splitlines())
    return float(pairs["echo_p50_ms"])


def echo(site, rounds):
    """The median echo through the proxy, less that of the direct way to the same host."""
    upstream, gateways = behind(site, kinds.Sshd(), "upstream-sshd"), []
    try:
        gateways += in_front(site, upstream)
        gateways += [kinds.Server(Bytes(upstream), site)] if Bytes.is_there() else []

        def once(server, figure):
            direct = typed(site, upstream)
            through = typed(site, server)
            figure.setdefault("direct_ms", []).append(direct)
            figure.setdefault("through_ms", []).append(through)
            figure.setdefault("added_ms", []).append(through - direct)
        return by_turns(site, gateways, rounds, once)
    finally:
        for server in gateways + [upstream]:
            server.stop()


def switches(server):
    """How often the threads of a server have gone to sleep."""
    total = 0
    for pid in server.group.members():
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.M)
            total += int(found[1]) if found else 0
    return total


def idle(site, case, live):
    """Memory that each idle session adds, and how often anything wakes for them."""
    proxied_case = case == "idle-proxied"
    upstream = behind(site, kinds.Tidegate("mio"), "upstream") if proxied_case else None
    figures, started = {}, []
    try:
        if proxied_case:
            started += in_front(site, upstream)
        else:
            started += [kinds.Server(kind, site, f"{kind.name}-idle") for kind in site.options.kinds
                        if isinstance(kind, kinds.Tidegate)]
        for server in started:
            name = getattr(server.kind, "label", server.kind.name)
            try:
                figures[name] = held(site, server, proxied_case, live)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figures[name] = {"failed": str(error)}
    finally:
        for server in started + ([upstream] if upstream else []):
            server.stop()
    return figures


def held(site, server, proxied_case, live):
    stage = "sftp" if proxied_case else "forward"
    warm = Held(site, server, 16, stage)
    warm.end()
    time.sleep(2)
    before = server.group.pss_kib()
    sessions = Held(site, server, live, stage)
    try:
        # What each does once when it has been idle for some seconds is behind it then.
        time.sleep(15)
        each = (server.group.pss_kib() - before) / live
        slept, used = switches(server), server.group.seconds()
        time.sleep(WATCH_SECONDS)
        return {"kib_each": [each], "wakes_per_s": [(switches(server) - slept) / WATCH_SECONDS],
                "cpu_ms_per_s": [(server.group.seconds() - used) * 1000 / WATCH_SECONDS]}
    finally:
        sessions.end()
        time.sleep(1)


def cases():
    """Every case by section."""
    found = [("forward", (way, cipher.split("@")[0])) for cipher in FORWARD_CIPHERS for way in WAYS]
    found += [("proxied", (way, cipher.split("@")[0])) for cipher in PROXIED_CIPHERS for way in WAYS]
    found.append(("echo", ("through the proxy",)))
    found += [("shared", (way,)) for way in WAYS] + [("shared-logins", ("light",))]
    return found + [("idle", (case,)) for case in IDLE_CASES]


def measure(site, running, section, case):
    rounds, size = site.options.rounds, site.options.size * MIB
    if section == "echo":
        return echo(site, rounds)
    if section == "idle":
        return idle(site, case[0], site.options.idle)
    if section in ("shared", "shared-logins"):
        return shared(site, section, case[0], rounds, size)
    way, cipher = case[0], f"{case[1]}@openssh.com"
    if section == "forward":
        return forward(site, running, way, cipher, rounds, size)
    return proxied(site, way, cipher, rounds, size)
