"""Logins: server CPU for each, alone and beside live sessions, and memory of idle ones."""

import subprocess
import time

from place import Failed

KEX = "curve25519-sha256"
# The one that every server here has.
CIPHER = "chacha20-poly1305@openssh.com"
SETTLE_SECONDS = 0.5


def load(site, server, mode, count, *words, **streams):
    """perf/load.rs: many logins from one light process."""
    at_once = min(16, server.at_once_max)
    return site.start([site.options.load, mode, f"127.0.0.1:{server.port}", site.user,
                       site.folder / "user", count, at_once, KEX, CIPHER, *words], **streams)


def cpu_of(site, server, work, count):
    before = server.group.seconds()
    work()
    time.sleep(SETTLE_SECONDS)
    return (server.group.seconds() - before) * 1000 / count


def light(site, server, count):
    return cpu_of(site, server, lambda: site.finish([load(site, server, "login", count)]), count)


def programs(site, server, count):
    """As many `ssh` programs, which take most of the CPU and the caches for themselves."""
    def work():
        running, started = [], 0
        try:
            while started < count or running:
                while started < count and len(running) < min(16, server.at_once_max):
                    command = site.ssh(server.port, {"KexAlgorithms": KEX},
                                       extra=["-s", "127.0.0.1", "sftp"])
                    running.append(site.start(command))
                    started += 1
                site.finish([running.pop(0)])
        finally:
            for client in running:
                client.kill()
                client.wait()
    return cpu_of(site, server, work, count)


class Held:
    """So many logins that stay, each with an sftp session or with nothing, from one process."""

    def __init__(self, site, server, count, stage):
        self.process = load(site, server, "hold", count, stage,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line.startswith("held"):
            self.process.kill()
            raise Failed((self.process.communicate()[1] or "it ended").strip().splitlines()[-1])

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def idle(site, server, live):
    """KiB of proportional memory that each of `live` logins without a session adds."""
    light(site, server, 16)
    time.sleep(1)
    before = server.group.pss_kib()
    held = Held(site, server, live, "login")
    try:
        time.sleep(2)
        return (server.group.pss_kib() - before) / live
    finally:
        held.end()
        time.sleep(2)


def measure(site, servers, case, rounds):
    """All servers by turns; a figure for each."""
    options = site.options
    works = {
        "light": lambda server: light(site, server, options.logins),
        "beside-live": lambda server: light(site, server, options.logins),
        "programs": lambda server: programs(site, server, max(16, options.logins // 4)),
        "idle-memory": lambda server: idle(site, server, options.live),
    }
    unit = "kib_each" if case == "idle-memory" else "cpu_ms_each"
    figures, held = {server.name: {unit: []} for server in servers}, []

    def attempt(server, work):
        figure = figures[server.name]
        try:
            if "failed" not in figure:
                work(figure)
        except (Failed, OSError, subprocess.SubprocessError) as error:
            figure["failed"] = str(error)

    try:
        if case == "beside-live":
            for server in servers:
                attempt(server, lambda _: held.append(Held(site, server, options.live, "sftp")))
        for turn in range(rounds):
            for server in servers if turn % 2 == 0 else servers[::-1]:
                attempt(server, lambda figure: figure[unit].append(works[case](server)))
    finally:
        for one in held:
            one.end()
        time.sleep(1)
    return figures
