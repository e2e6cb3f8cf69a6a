"""Typing beside bulk flows on one reactor: the time of an echo, and how the flows share."""

import subprocess

from place import MIB, Failed
from servers import KINDS, Server

CASES = ["quiet", "beside-8-gets"]
FLOWS = {"quiet": 0, "beside-8-gets": 8}
SECONDS = 8
FILE_BYTES = 64 * MIB


def measure(site, case, rounds):
    """Both drivers, and sshd, which has a process for each; the other servers here have no terminals."""
    chosen = [kind for kind in KINDS if kind in site.options.kinds
              and kind.name in ("tidegate-uring", "tidegate-mio", "sshd")]
    site.reactors, servers = 1, []
    try:
        servers += [Server(kind, site, f"{kind.name}-fair") for kind in chosen]
        return by_turns(site, servers, case, rounds)
    finally:
        for server in servers:
            server.stop()
        site.reactors = site.options.reactors


def by_turns(site, servers, case, rounds):
    figures = {server.kind.name: {} for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.kind.name]
            if "failed" in figure:
                continue
            try:
                for key, value in once(site, server, FLOWS[case]).items():
                    figure.setdefault(key, []).append(value)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
    return figures


def once(site, server, flows):
    """What perf/load.rs prints: a name and a number a line."""
    client = site.start(
        [site.options.load, "fair", f"127.0.0.1:{server.port}", site.user, site.folder / "user",
         flows, SECONDS, site.file(FILE_BYTES)], stdout=subprocess.PIPE)
    text = []
    try:
        out, errors = client.communicate(timeout=site.options.patience)
        text = out.splitlines()
    except subprocess.TimeoutExpired:
        raise Failed("it did not finish in time") from None
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()
    if client.returncode != 0:
        raise Failed((errors or "it ended").strip().splitlines()[-1])
    pairs = [line.split(None, 1) for line in text]
    return {key: [int(n) for n in value.split()] if key == "echo_histogram" else float(value)
            for key, value in pairs}
