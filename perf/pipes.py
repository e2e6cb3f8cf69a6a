"""Long pipes: what stock clients reach through a relay that holds every byte for a time each way."""

import subprocess
import time

import transfers
from place import MIB, Failed

# MiB to move through each: enough for windows that grow to have grown.
SIZES_MIB = {10: 256, 50: 96, 100: 192}
CASES = ["sftp-get", "sftp-put"]
# Uploads at once, whose windows grow beside one another; MiB that each moves.
TOGETHER, TOGETHER_DELAY, TOGETHER_MIB = 8, 50, 48


class Relay:
    def __init__(self, site, server, delay_ms):
        self.process = site.start([site.options.relay, f"127.0.0.1:{server.port}", delay_ms],
                                  stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def end(self):
        self.process.kill()
        self.process.wait()


def cases(delays):
    found = [(case, f"{delay} ms each way") for delay in delays for case in CASES]
    if TOGETHER_DELAY in delays:
        found.append(("sftp-put", f"{TOGETHER_DELAY} ms each way", TOGETHER))
    return found


def once(site, server, relay, case, size, connections):
    """Seconds that the clients took together, and the server's peak memory in MiB."""
    site.file(size)
    peak = transfers.Peak(server.group)
    peak.start()
    started = time.monotonic()
    try:
        site.finish([transfers.client(site, server, case, {}, size, number, port=relay.port)
                     for number in range(connections)])
        took = time.monotonic() - started
    finally:
        kib = peak.end()
    transfers.check(site, case, size, connections)
    return took, kib / 1024


def measure(site, servers, case, rounds):
    """MiB/s of all connections, how much that is under way at a time, and memory."""
    case, delay, connections = (*case, 1)[:3]
    delay_ms = int(delay.split()[0])
    size = (SIZES_MIB[delay_ms] if connections == 1 else TOGETHER_MIB) * MIB
    figures = {server.name: {"mib_per_s": [], "under_way_mib": [], "peak_mib": []}
               for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.name]
            if "failed" in figure:
                continue
            relay = Relay(site, server, delay_ms)
            try:
                login, _ = once(site, server, relay, case, 0, 1)
                took, mib = once(site, server, relay, case, size, connections)
                rate = connections * size / MIB / max(0.001, took - login)
                figure["peak_mib"].append(mib)
                figure["mib_per_s"].append(rate)
                figure["under_way_mib"].append(rate * 2 * delay_ms / 1000)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
            finally:
                relay.end()
    return figures
