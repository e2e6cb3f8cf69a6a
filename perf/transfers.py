"""Transfers: server CPU, rate and peak memory of moving bytes with OpenSSH's own clients.

What a login costs is measured beside each case, by the same command that moves an empty file or an
empty stream, and taken off both the CPU and the time: a transfer's figures are those of its bytes.
A command that the server starts leaves the server's control group before it runs, so its own CPU is
in no figure.
"""

import re
import statistics
import subprocess
import threading
import time

from place import GIB, MIB, Failed

# What is forced on the clients; the first line leaves them as they come.
ETM = "hmac-sha2-256-etm@openssh.com"
KEX = {"KexAlgorithms": "curve25519-sha256"}
SETTINGS = {
    "defaults": {},
    "aes128-gcm": {"Ciphers": "aes128-gcm@openssh.com", **KEX},
    "aes256-gcm": {"Ciphers": "aes256-gcm@openssh.com", **KEX},
    "chacha20-poly1305": {"Ciphers": "chacha20-poly1305@openssh.com", **KEX},
    "aes256-ctr+etm": {"Ciphers": "aes256-ctr", "MACs": ETM, **KEX},
}
CASES = ["sftp-get", "sftp-put", "scp-get", "scp-put", "exec-down", "exec-up"]
CONNECTIONS = [1, 8]
# How long a server is given to end what a client has left.
SETTLE_SECONDS = 0.25


class Peak(threading.Thread):
    """Looks at a server's memory while something runs; the largest sum that it saw."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.kib, self.over = group, 0, threading.Event()

    def run(self):
        while not self.over.is_set():
            self.kib = max(self.kib, self.group.pss_kib())
            self.over.wait(0.1)

    def end(self):
        self.over.set()
        self.join()
        return self.kib


def client(site, server, case, setting, size, number, verbose=False, port=None):
    """One client that moves `size` bytes; started."""
    source, target = site.file(size), site.data / f"target-{number}"
    ask = dict(setting=setting, verbose=verbose, port=port or server.port)
    kind, direction = case.split("-")
    if kind == "sftp":
        places = f"{source} /dev/null" if direction == "get" else f"{source} {target}"
        script = site.folder / f"batch-{number}"
        script.write_text(f"{direction} {places}\n")
        ask["extra"] = (["-q"] if not verbose else []) + ["-b", script, "127.0.0.1"]
        return site.start(site.ssh(program="sftp", **ask))
    if kind == "scp":
        remote = f"127.0.0.1:{source if direction == 'get' else target}"
        places = [remote, "/dev/null"] if direction == "get" else [source, remote]
        return site.start(site.ssh(program="scp", extra=[] if verbose else ["-q"], **ask) + places)
    enter = f"echo $$ > {site.commands.entrance} && exec "
    if site.command_cpus:
        enter += f"taskset -c {','.join(map(str, site.command_cpus))} "
    if direction == "down":
        command = enter + f"head -c {size} /dev/zero"
        return site.start(site.ssh(extra=["127.0.0.1", command], **ask))
    with open(source, "rb") as stream:
        command = enter + "cat > /dev/null"
        return site.start(site.ssh(extra=["127.0.0.1", command], **ask), stdin=stream)


def check(site, case, size, connections):
    """What was put is whole; it is removed."""
    if not case.endswith("-put"):
        return
    for number in range(connections):
        target = site.data / f"target-{number}"
        length = target.stat().st_size if target.exists() else -1
        target.unlink(missing_ok=True)
        if length != size:
            raise Failed(f"the copy has {length} of {size} bytes")


def once(site, server, case, setting, size, connections, verbose=False):
    """One run: CPU seconds, seconds, peak KiB, the clients' CPU, and what they said."""
    site.file(size)
    for number in range(connections):
        (site.data / f"target-{number}").unlink(missing_ok=True)
    before, theirs = server.group.seconds(), site.clients.seconds()
    peak = Peak(server.group)
    peak.start()
    started = time.monotonic()
    try:
        running = [client(site, server, case, setting, size, number, verbose)
                   for number in range(connections)]
        said = site.finish(running)
        took = time.monotonic() - started
    finally:
        kib = peak.end()
    time.sleep(SETTLE_SECONDS)
    used = server.group.seconds() - before
    check(site, case, size, connections)
    return {"cpu": used, "took": took, "kib": kib, "client": site.clients.seconds() - theirs,
            "said": "\n".join(said)}


def negotiated(said):
    """Key exchange and cipher from a client's debugging output."""
    kex = re.search(r"kex: algorithm: (\S+)", said)
    cipher = re.search(r"kex: server->client cipher: (\S+) MAC: (\S+)", said)
    words = [kex and kex[1], cipher and cipher[1]]
    if cipher and cipher[2] != "<implicit>":
        words.append(cipher[2])
    return ", ".join(word for word in words if word)


def measure(site, servers, case, name, connections, rounds, size):
    """All servers by turns; a figure for each."""
    setting = SETTINGS[name]
    each = max(MIB, size // connections)
    figures, empty = {}, {server.name: [] for server in servers}
    for server in servers:
        figures[server.name] = {"cpu_s_per_gib": [], "cpu_with_login_s_per_gib": [],
                                "gib_per_s": [], "peak_mib": [], "client_cpu_s_per_gib": []}
    for turn in range(-1, rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.name]
            if "failed" in figure:
                continue
            try:
                if turn in (-1, rounds - 1):
                    run = once(site, server, case, setting, 0, 1, verbose=turn < 0)
                    empty[server.name].append(run)
                    figure.setdefault("negotiated", negotiated(run["said"]))
                if turn >= 0:
                    run = once(site, server, case, setting, each, connections)
                    record(figure, run, empty[server.name], each * connections / GIB, connections)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
    return figures


def record(figure, run, empty, gibibytes, connections):
    login = statistics.median(one["cpu"] for one in empty)
    wait = statistics.median(one["took"] for one in empty)
    theirs = statistics.median(one["client"] for one in empty)
    # Logins at once share the client's CPU, so of eight of them only one's time is taken off.
    figure["cpu_s_per_gib"].append((run["cpu"] - login * connections) / gibibytes)
    figure["cpu_with_login_s_per_gib"].append(run["cpu"] / gibibytes)
    figure["gib_per_s"].append(gibibytes / max(0.001, run["took"] - wait))
    figure["client_cpu_s_per_gib"].append((run["client"] - theirs * connections) / gibibytes)
    figure["peak_mib"].append(run["kib"] / 1024)
