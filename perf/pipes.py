"""Long pipes: what stock clients reach through a relay that holds every byte for a time each way."""

import subprocess
import time

import transfers
from place import MIB, Failed

# MiB to move through each: enough for windows that grow to have grown.
SIZES_MIB = {10: 256, 50: 96, 100: 64}
CASES = ["sftp-get", "sftp-put"]


class Relay:
    def __init__(self, site, server, delay_ms):
        self.process = site.start([site.options.relay, f"127.0.0.1:{server.port}", delay_ms],
                                  stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def end(self):
        self.process.kill()
        self.process.wait()


def once(site, server, relay, case, size):
    site.file(size)
    started = time.monotonic()
    site.finish([transfers.client(site, server, case, {}, size, 0, port=relay.port)])
    took = time.monotonic() - started
    transfers.check(site, case, size, 1)
    return took


def measure(site, servers, case, delay_ms, rounds):
    """MiB/s of one connection, and how much that is under way at a time."""
    size = SIZES_MIB[delay_ms] * MIB
    figures = {server.name: {"mib_per_s": [], "under_way_mib": []} for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.name]
            if "failed" in figure:
                continue
            relay = Relay(site, server, delay_ms)
            try:
                login = once(site, server, relay, case, 0)
                took = once(site, server, relay, case, size) - login
                rate = size / MIB / max(0.001, took)
                figure["mib_per_s"].append(rate)
                figure["under_way_mib"].append(rate * 2 * delay_ms / 1000)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
            finally:
                relay.end()
    return figures
