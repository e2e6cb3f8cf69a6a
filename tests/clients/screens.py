#!/usr/bin/env python3
"""What `tidegate` shows at a terminal, as Markdown: docs/screens.md is its output.

    tests/clients/screens.py target/release/tidegate > docs/screens.md

Starts a gateway of its own on a free port of 127.0.0.1 and a home directory that is removed at the end. Keys,
ports and figures differ each time.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

WIDTH, PATIENCE = 100, 60


class Screen:
    """One command at a terminal, with answers to what it asks."""

    def __init__(self, words, home, answers=(), until=None):
        self.shown, answers = "", list(answers)
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(home)
            env = {"PATH": os.environ["PATH"], "HOME": home, "TERM": "xterm", "LANG": "C.UTF-8"}
            os.execve(words[0], ["tidegate", *words[1:]], env)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        deadline, seen = time.monotonic() + PATIENCE, 0
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    read = os.read(terminal, 65536)
                except OSError:
                    break
                if not read:
                    break
                self.shown += read.decode(errors="replace")
            if answers and answers[0][0] in self.shown[seen:]:
                seen = len(self.shown)
                os.write(terminal, answers.pop(0)[1].encode())
            if until and until(self.shown):
                os.kill(child, signal.SIGINT)
                until = None
        else:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(terminal)
        self.status = os.waitstatus_to_exitcode(status)

    def text(self):
        """The lines as they stand at the end: what was written over is gone."""
        lines = []
        for line in self.shown.replace("\r\n", "\n").split("\n"):
            line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r" if "\r" not in line else "", line)
            parts = [part for part in line.split("\r") if part.strip()]
            lines.append(parts[-1].rstrip() if parts else "")
        return "\n".join(lines).strip("\n")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main():
    binary = os.path.abspath(sys.argv[1])
    others = min(os.getloadavg()[0], os.cpu_count())
    home = tempfile.mkdtemp(prefix="screens-")
    port = free_port()
    os.mkdir(f"{home}/.ssh", 0o700)
    key = f"{home}/.ssh/id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "harbour", "-C", "ada", "-f", key], check=True)
    for name in ("host", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{home}/{name}"], check=True)
    with open(f"{home}/config", "w") as config:
        config.write(f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/host\nStrictModes no\n"
                     f"AuthorizedKeysFile {key}.pub\nSubsystem sftp internal-sftp\n")
    with open(f"{home}/.ssh/config", "w") as config:
        config.write(f"Host *\n    Port {port}\n    IdentityFile {key}\n    IdentitiesOnly yes\n"
                     f"    UserKnownHostsFile {home}/.ssh/known_hosts\n    IdentityAgent none\n")
    with open(f"{home}/large.iso", "wb") as large:
        large.truncate(96 << 20)
    log = open(f"{home}/log", "w")
    gateway = subprocess.Popen([binary, "serve", "-f", f"{home}/config"], stderr=log, stdout=log)
    try:
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        # The account's own files are left alone: the client takes its home from the system, not from HOME.
        own = ["-F", f"{home}/.ssh/config"]
        there = f"127.0.0.1:{home}"
        unlock = [("passphrase", "harbour\r")]

        def show(title, words, answers=(), until=None, hide=()):
            screen = Screen([binary, words[0], *(own if words[0] != "bench" else []), *words[1:]], home, answers, until)
            said = " ".join(words).replace(home, "/home/ada")
            text = screen.text().replace(str(port), "2222").replace(home, "/home/ada")
            for pattern, instead in hide:
                text = re.sub(pattern, instead, text)
            how = f"Exit status {screen.status}." if screen.status >= 0 else f"Ended by signal {-screen.status}."
            print(f"## {title}\n\n```text\n$ tidegate {said}\n{text}\n```\n\n{how}\n")

        print("# At the terminal\n\nWhat `tidegate` shows, as `tests/clients/screens.py` saw it at a terminal of its "
              f"own; what a line\nwrote over itself is left out. Keys and figures differ; when these were taken, others "
              f"kept {others:.1f} of {os.cpu_count()} CPUs busy\n(load before the first).\n")
        show("A host that is not known yet", ["ssh", "127.0.0.1", "echo the remote command"],
             [("(yes/no", "yes\r"), *unlock])
        show("A passphrase that is wrong", ["ssh", "-o", "NumberOfPasswordPrompts=1", "127.0.0.1", "true"],
             [("passphrase", "wrong\r")])
        show("Escapes", ["ssh", "-t", "127.0.0.1", "echo ready; cat"],
             [*unlock, ("ready", "\r~?"), ("by typing", "~.")])
        show("A copy", ["cp", "large.iso", there + "/there.iso"], unlock)
        show("A copy, while it runs", ["cp", "--limit-rate", "16M", "large.iso",
             there + "/slow.iso"], unlock, until=lambda shown: shown.count("%") > 10)
        show("The same command goes on", ["cp", "large.iso",
             there + "/slow.iso"], unlock)
        for folder in ("a", "b"):
            os.makedirs(f"{home}/photos/{folder}")
            for number in range(200):
                with open(f"{home}/photos/{folder}/{number}.jpg", "wb") as photo:
                    photo.write(os.urandom(128 << 10))
        show("A tree, while it is copied", ["cp", "-r", "--limit-rate", "16M", "photos", there + "/photos.copy"],
             unlock, until=lambda shown: shown.count("%") > 10)
        show("A file that is not there", ["cp", there + "/none", "."], unlock)
        public = open(f"{home}/other.pub").read()
        with open(f"{home}/.ssh/known_hosts", "w") as known:
            known.write(f"[127.0.0.1]:{port} {public}")
        show("A host with another key", ["ssh", "127.0.0.1", "true"])
        os.unlink(f"{home}/.ssh/known_hosts")
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "harbour", "-N", "", "-f", key], check=True,
                       stdout=subprocess.DEVNULL)
        to = ["127.0.0.1", "-F", f"{home}/.ssh/config", "-o", "StrictHostKeyChecking accept-new"]
        show("Logins at a rate", ["bench", "load", *to, "--rate", "50", "--duration", "3"])
        show("Bytes both ways", ["bench", "transfer", *to, "--streams", "1", "--depth", "64", "--volume", "64M"])
        show("Key exchanges of this machine", ["bench", "kex", "--only", "mlkem768x25519-sha256/"])
        show("Ciphers of this machine", ["bench", "cipher", "--only", "aes128-gcm", "--threads", "1"])
    finally:
        gateway.terminate()
        gateway.wait()
        shutil.rmtree(home, ignore_errors=True)


main()
