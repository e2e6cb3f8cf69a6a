"""`tidegate cp` beside OpenSSH's own programs, to each server, and beside the floor of both ends: CPU of
both ends, long ways, small files."""

import shutil
import subprocess
import time

import servers as kinds
import small_files
from pipes import Relay
from place import GIB, MIB, Failed

NEAR = ["copy-get", "copy-put"]
FAR = ["copy-far-get", "copy-far-put"]
SMALL = ["copy-small-put"]
CIPHER = "aes128-gcm@openssh.com"
# Milliseconds each way; MiB that the slower and the faster program move.
FAR_DELAY, FAR_MIB = 100, {"sftp": 64, "cp": 1024}
SMALL_DELAY, SMALL_FILES = 20, {"scp": 200, "cp": 10_000}


def cases():
    return [(name,) for name in NEAR] + [(name, f"{FAR_DELAY} ms each way") for name in FAR] \
        + [(name, f"{SMALL_DELAY} ms each way") for name in SMALL]


def command(site, program, port, source, target, recursive=False):
    """One copy by `cp`, `sftp`, `scp` or the floor; `there:` stands before what is on the server."""
    if program == "floor":
        way = "get" if str(source).startswith("there:") else "put"
        plain = [str(path).removeprefix("there:") for path in (source, target)]
        return [site.options.floor, way, f"127.0.0.1:{port}", *plain]
    there = lambda path: str(path).replace("there:", "127.0.0.1:")
    setting = {"Ciphers": CIPHER}
    if program == "sftp":
        remote, local = (source, target) if str(source).startswith("there:") else (target, source)
        verb = "get" if remote is source else "put"
        batch = site.folder / f"batch-{verb}"
        places = (remote, local) if verb == "get" else (local, remote)
        batch.write_text(f"{verb} {places[0]} {places[1]}\n".replace("there:", ""))
        return site.ssh(port, setting, "sftp", ["-q", "-b", batch, "127.0.0.1"])
    words = (["-r"] if recursive else []) + ["-q", there(source), there(target)]
    if program == "scp":
        return site.ssh(port, setting, "scp", words)
    ours = site.ssh(port, setting, "cp", words)
    drop = ours.index("ControlPath=none")
    return [site.binary, *ours[:drop - 1], *ours[drop + 1:]]


def once(site, server, program, port, source, target, recursive=False):
    """Seconds, and CPU seconds of the client and of both ends."""
    client, both = site.clients.seconds(), site.clients.seconds() + server.group.seconds()
    started = time.monotonic()
    site.finish([site.start(command(site, program, port, source, target, recursive))])
    took = time.monotonic() - started
    time.sleep(0.1)
    return (took, site.clients.seconds() - client,
            site.clients.seconds() + server.group.seconds() - both)


def moved(site, server, program, port, case, size):
    """The same for a file, less what an empty one costs, and a GiB."""
    found = []
    for length in (0, size):
        source, target = site.file(length), site.data / "copied"
        target.unlink(missing_ok=True)
        places = (f"there:{source}", target) if case.endswith("get") else (source, f"there:{target}")
        found.append(once(site, server, program, port, *places))
        if target.stat().st_size != length:
            raise Failed(f"{target.stat().st_size} bytes of {length} are there")
    return [(whole - empty) * GIB / size for empty, whole in zip(*found)]


def small(site, server, program, port, count):
    """Files a second."""
    target = site.data / "copied-tree"
    shutil.rmtree(target, ignore_errors=True)
    took, _, _ = once(site, server, program, port, small_files.files(site, count), f"there:{target}", True)
    if len(list(target.iterdir())) != count:
        raise Failed("some files are not there")
    return count / took


def near(site, server, case, size, figure):
    floor = isinstance(server.kind, kinds.Floor)
    for program in ("floor",) if floor else ("sftp", "cp"):
        _, client, both = moved(site, server, program, server.port, case, size)
        program = "cp" if floor else program
        figure.setdefault(f"client_{program}", []).append(client)
        figure.setdefault(f"both_{program}", []).append(both)


def far(site, server, case, figure):
    delay = SMALL_DELAY if case in SMALL else FAR_DELAY
    relay = Relay(site, server, delay)
    try:
        for program in (SMALL_FILES if case in SMALL else FAR_MIB):
            if case in SMALL:
                rate = small(site, server, program, relay.port, SMALL_FILES[program])
            else:
                size = FAR_MIB[program] * MIB
                took, _, _ = moved(site, server, program, relay.port, case, size)
                rate = 1024 / took
            figure.setdefault(f"rate_{'cp' if program == 'cp' else 'stock'}", []).append(rate)
    finally:
        relay.end()


def measure(site, running, case, rounds, size):
    """Also the floor of both ends, by turns with the servers."""
    floor = [kinds.Server(kinds.Floor(), site)] if case[0] in NEAR else []
    try:
        return by_turns(site, running + floor, case, rounds, size)
    finally:
        for server in floor:
            server.stop()


def by_turns(site, servers, case, rounds, size):
    figures = {server.name: {} for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.name]
            if "failed" in figure:
                continue
            try:
                if case[0] in NEAR:
                    near(site, server, case[0], size, figure)
                elif turn == 0:
                    far(site, server, case[0], figure)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
    for figure in figures.values():
        for share, ours, theirs in (("client_share", "client_cp", "client_sftp"),
                                    ("rate_share", "rate_cp", "rate_stock")):
            if theirs in figure and "failed" not in figure:
                figure[share] = [one / other for one, other in zip(figure[ours], figure[theirs])]
    return figures
