"""The folder, keys, files and client commands that every server of a run is measured with."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from groups import Group

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
GIB = 1 << 30


class Failed(Exception):
    """A client could not do what it was asked: the server does not offer it, or hangs."""


class Site:
    """What a run needs on the disk, and how its clients are started."""

    def __init__(self, options):
        self.root, self.options = ROOT, options
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-perf-"))
        account = pwd.getpwuid(os.getuid())
        self.user, self.home = account.pw_name, account.pw_dir
        self.binary, self.reactors = options.binary, options.reactors
        self.server_cpus, self.client_cpus = options.server_cpus, options.client_cpus
        self.command_cpus = options.command_cpus
        self.clients = Group("clients")
        self.commands = Group("commands")
        # CPU seconds of servers that were stopped.
        self.gone = 0.0
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                            str(self.folder / name)], check=True)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        # Files in memory: a disk says nothing about a server.
        self.data = Path(tempfile.mkdtemp(prefix="tidegate-perf-", dir=options.data))

    def file(self, size):
        """A file of so many bytes, all of it in memory."""
        path = self.data / f"source-{size}"
        if not path.exists():
            block = os.urandom(MIB)
            with open(path, "wb") as f:
                for _ in range(size // MIB):
                    f.write(block)
                f.write(block[:size % MIB])
        return path

    def sshd_config(self, name, port):
        path = self.folder / f"{name}.conf"
        path.write_text("\n".join([
            f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no",
            "PermitRootLogin yes", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "UsePAM no", "MaxStartups 2000:30:4000",
            "MaxSessions 100", "LogLevel ERROR", "Subsystem sftp internal-sftp",
            "PidFile none", "LoginGraceTime 600", "UseDNS no", "PrintMotd no",
        ]) + "\n")
        return path

    def ssh(self, port, setting, program="ssh", extra=(), verbose=False):
        """A command line of OpenSSH's client, with its own defaults but for what `setting` forces."""
        options = {
            "Port": port, "User": self.user, "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes", "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null", "LogLevel": "DEBUG1" if verbose else "ERROR",
            "ControlPath": "none", "IdentityAgent": "none", **setting,
        }
        command = [program, "-F", "/dev/null"]
        for key, value in options.items():
            command += ["-o", f"{key}={value}"]
        return command + list(extra)

    def start(self, command, **streams):
        def enter():
            self.clients.join()
            os.sched_setaffinity(0, self.client_cpus)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
                   "stderr": subprocess.PIPE, "text": True, **streams}
        return subprocess.Popen([str(word) for word in command], preexec_fn=enter, **streams)

    def finish(self, running, seconds=None):
        """Waits for clients; what the first that failed said is the failure of all."""
        deadline = time.time() + (seconds or self.options.patience)
        said = []
        try:
            for client in running:
                try:
                    _, errors = client.communicate(timeout=max(0.1, deadline - time.time()))
                except subprocess.TimeoutExpired:
                    raise Failed("it did not finish in time") from None
                said.append(errors or "")
                if client.returncode != 0:
                    raise Failed(complaint(errors or "") or f"exit {client.returncode}")
        finally:
            for client in running:
                if client.poll() is None:
                    client.kill()
                    client.wait()
        return said

    def close(self):
        self.clients.close()
        self.commands.close()
        shutil.rmtree(self.data, ignore_errors=True)
        if self.options.keep:
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def complaint(said):
    """The line of a client's errors that tells why: about algorithms when there is one, or the last."""
    chatter = ("debug", "Transferred:", "Bytes per second:", "Authenticated to")
    lines = [line.strip() for line in said.splitlines()
             if line.strip() and not line.startswith(chatter)]
    return next((line for line in lines if "no matching" in line), lines[-1] if lines else "")
