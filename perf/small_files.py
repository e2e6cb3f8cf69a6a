"""Many small files: what each costs the server, with OpenSSH's own `sftp -r`, up and down.

The client asks for one thing at a time, so round trips and wake-ups are what is measured. What a login
costs is left in: it is a small part of thousands of files.
"""

import os
import shutil
import subprocess
import time

import transfers
from place import Failed

CASES = ["put", "get"]
FILE_BYTES = 4096
SETTINGS = transfers.SETTINGS["aes256-gcm"]


def files(site, count):
    """A folder of so many files, in memory."""
    folder = site.data / f"small-{count}"
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            (folder / f"file{number}").write_bytes(os.urandom(FILE_BYTES))
    return folder


def once(site, server, case, count):
    """CPU seconds of the server, and seconds."""
    source, target = files(site, count), site.data / "small-copy"
    shutil.rmtree(target, ignore_errors=True)
    script = site.folder / "batch-small"
    script.write_text(f"{case} -r {source} {target}\n")
    before, started = server.group.seconds(), time.monotonic()
    setting = SETTINGS if server.name != "dropbear" else transfers.KEX
    site.finish([site.start(site.ssh(server.port, setting, program="sftp",
                                     extra=["-q", "-b", script, "127.0.0.1"]))])
    took = time.monotonic() - started
    time.sleep(transfers.SETTLE_SECONDS)
    used = server.group.seconds() - before
    copied = sum(1 for entry in os.scandir(target) if entry.stat().st_size == FILE_BYTES)
    shutil.rmtree(target)
    if copied != count:
        raise Failed(f"{copied} of {count} files are whole")
    return used, took


def measure(site, servers, case, rounds, count):
    """All servers by turns; a figure for each."""
    figures = {server.name: {"cpu_ms_per_file": [], "ms_per_file": []} for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            figure = figures[server.name]
            try:
                if "failed" not in figure:
                    used, took = once(site, server, case, count)
                    figure["cpu_ms_per_file"].append(used * 1000 / count)
                    figure["ms_per_file"].append(took * 1000 / count)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                figure["failed"] = str(error)
    return figures
