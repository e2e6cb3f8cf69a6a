"""The servers that can take part, each with its way to be started on a port of 127.0.0.1."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import time

from groups import Group
from machine import output
from place import ROOT


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def without_profiles(site, command):
    """Runs a server where the account's shell finds nothing to read first: with what a distribution has
    there, the start of a shell costs as much as moving 50 MiB."""
    files = [f"{site.home}/{name}" for name in (".bashrc", ".zshenv", ".cshrc")]
    hide = "".join(f"[ ! -e {file} ] || mount --bind /dev/null {file}; "
                   for file in map(shlex.quote, files + ["/etc/bash.bashrc"]))
    return ["unshare", "-m", "sh", "-c", hide + "exec " + shlex.join(map(str, command))]


class Server:
    """A running server in a control group of its own, on CPUs of its own."""

    def __init__(self, kind, site, name=None, cpus=None):
        self.name, self.kind, self.port = name or kind.name, kind, free_port()
        self.site = site
        self.at_once_max = kind.at_once_max
        self.log = site.folder / f"{self.name}.log"
        self.group = Group(self.name)
        command = without_profiles(site, kind.command(site, self.port))

        def enter():
            self.group.join()
            os.sched_setaffinity(0, cpus or site.server_cpus)

        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=enter)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self):
        deadline = time.time() + 20
        while time.time() < deadline and self.process.poll() is None:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    s.recv(16)
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.site.gone += self.group.seconds()
        self.group.close()


class Tidegate:
    at_once_max = 16

    def __init__(self, driver):
        self.driver = driver
        self.name = f"tidegate-{driver}"

    def missing(self, options):
        return None if options.binary.exists() else f"{options.binary} is not there"

    def version(self, site):
        return output([str(site.binary), "--version"])

    def command(self, site, port):
        config = site.sshd_config(self.name, port)
        command = [str(site.binary), "serve", "-f", str(config), "--driver", self.driver,
                   "-o", "PerSourcePenalties=no"]
        return command + (["--reactors", str(site.reactors)] if site.reactors else [])


class Sshd:
    name = "sshd"
    at_once_max = 16

    @staticmethod
    def program():
        return shutil.which("sshd") or "/usr/sbin/sshd"

    def missing(self, _):
        return None if os.path.exists(self.program()) else "openssh-server is not installed"

    def version(self, _):
        return output(["ssh", "-V"])

    def command(self, site, port):
        os.makedirs("/run/sshd", exist_ok=True)
        return [self.program(), "-D", "-e", "-f", str(site.sshd_config(self.name, port))]


class Dropbear:
    name = "dropbear"
    # It refuses more unauthenticated connections from one address, by a constant.
    at_once_max = 4

    def missing(self, _):
        found = shutil.which("dropbear") and shutil.which("dropbearconvert")
        return None if found else "dropbear-bin is not installed"

    def version(self, _):
        return output(["dropbear", "-V"])

    def command(self, site, port):
        """In a mount namespace in which the account's home has the authorized key."""
        home = site.folder / "dropbear-home"
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        shutil.copy(site.folder / "authorized_keys", home / ".ssh" / "authorized_keys")
        home.chmod(0o700)
        key = site.folder / "dropbear.key"
        if not key.exists():
            subprocess.run(["dropbearconvert", "openssh", "dropbear", str(site.folder / "host"),
                            str(key)], check=True, stderr=subprocess.DEVNULL)
        serve = ["dropbear", "-F", "-E", "-m", "-s", "-r", str(key), "-p", f"127.0.0.1:{port}",
                 "-P", str(site.folder / "dropbear.pid")]
        script = f"mount --bind {shlex.quote(str(home))} {shlex.quote(site.home)} && exec "
        return ["unshare", "-m", "sh", "-c", script + shlex.join(serve)]


class Russh:
    name = "russh"
    at_once_max = 16

    binary = ROOT / "perf/russh-peer/target/release/tidegate-russh-peer"

    def missing(self, _):
        return None if self.binary.exists() else f"{self.binary} is not there"

    def version(self, _):
        lock = (ROOT / "perf/russh-peer/Cargo.lock").read_text()
        found = re.findall(r'name = "(russh|russh-sftp|aws-lc-rs)"\nversion = "([^"]+)"', lock)
        return ", ".join(" ".join(pair) for pair in found)

    def command(self, site, port):
        return [str(self.binary), str(port), str(site.folder / "host"),
                str(site.folder / "authorized_keys")]


class Floor:
    """No SSH server: the least that one could do (perf/floor.rs), with a client of its own."""

    name = "floor"
    at_once_max = 1

    def command(self, site, port):
        return [str(site.options.floor), "serve", str(port)]


class Other:
    """A server that the command line names."""

    at_once_max = 16

    def __init__(self, name, words):
        self.name, self.words = name, words

    def missing(self, _):
        return None

    def version(self, _):
        return self.words

    def command(self, site, port):
        places = {"port": port, "host_key": site.folder / "host",
                  "authorized_keys": site.folder / "authorized_keys"}
        return [word.format(**places) for word in shlex.split(self.words)]


KINDS = [Tidegate("uring"), Tidegate("mio"), Sshd(), Dropbear(), Russh()]
