"""What a paramiko user does: commands, a terminal, SFTP. Arguments: port, user, key, folder, a
user who may not read what is root's, a key that nobody knows."""

import hashlib
import os
import stat
import sys
from pathlib import Path

import paramiko

port, user, key, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
other, stranger = sys.argv[5:7]


def connect(user=user, key=key, **options):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", port, user, key_filename=key, allow_agent=False, look_for_keys=False, timeout=20, banner_timeout=20, auth_timeout=20, **options)
    return client


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: {got!r} instead of {expected!r}")
    print("ok", what)


client = connect()
_, out, err = client.exec_command("echo out; echo err >&2; exit 7")
check("both outputs", (out.read(), err.read()), (b"out\n", b"err\n"))
check("the exit status", out.channel.recv_exit_status(), 7)

data = os.urandom(64 << 20)
stdin, out, _ = client.exec_command("sha256sum")
stdin.write(data)
stdin.channel.shutdown_write()
check("64 MiB through standard input", out.read().split()[0].decode(),
      hashlib.sha256(data).hexdigest())

shell = client.invoke_shell("vt100", width=91, height=37)
shell.send(b"stty size; tty; exit 3\n")
seen = b""
while piece := shell.recv(65536):
    seen += piece
check("the terminal's size", b"37 91" in seen, True)
check("the shell's exit status", shell.recv_exit_status(), 3)

sftp = client.open_sftp()
base = folder / "paramiko"
sftp.mkdir(str(base), 0o750)
check("the mode of a new folder", stat.S_IMODE(sftp.stat(str(base)).st_mode), 0o750)
blob = data[: 9_999_999]
(folder / "blob").write_bytes(blob)
sftp.put(str(folder / "blob"), str(base / "blob"))
sftp.get(str(base / "blob"), str(folder / "back"))
check("put and get", (folder / "back").read_bytes() == blob, True)
with sftp.open(str(base / "blob"), "rb") as f:
    f.prefetch()
    check("prefetching", hashlib.sha256(f.read()).digest(), hashlib.sha256(blob).digest())
    f.seek(5_000_000)
    check("reading from the middle", f.read(100), blob[5_000_000:5_000_100])
with sftp.open(str(base / "blob"), "r+b") as f:
    f.seek(77)
    f.write(b"Tidegate")
check("writing in the middle", (base / "blob").read_bytes()[70:90],
      blob[70:77] + b"Tidegate" + blob[85:90])
names = ["with space", "ümläut ☃", "quote'\"", "-dash", "a\nline", "tab\there", "*?[x]", "back\\slash"]
for name in names:
    with sftp.open(str(base / name), "wb") as f:
        f.write(name.encode())
check("odd names", sorted(set(sftp.listdir(str(base))) - {"blob"}), sorted(names))
# It writes names that are no text, and cannot read them.
with sftp.open(os.fsencode(base) + b"/caf\xe9 \xff", "wb") as f:
    f.write(b"bytes")
check("a name that is no text", Path(os.fsdecode(os.fsencode(base) + b"/caf\xe9 \xff")).read_bytes(),
      b"bytes")
sftp.remove(os.fsencode(base) + b"/caf\xe9 \xff")
for n in range(300):
    with sftp.open(str(base / f"small{n}"), "wb") as f:
        f.set_pipelined(True)
        f.write(b"%d" % n)
check("many small files", sum(name.startswith("small") for name in sftp.listdir(str(base))), 300)
sftp.rename(str(base / "small0"), str(base / "renamed"))
sftp.posix_rename(str(base / "small1"), str(base / "renamed"))
check("renaming over", (base / "renamed").read_bytes(), b"1")
sftp.symlink("renamed", str(base / "link"))
check("a link", (sftp.readlink(str(base / "link")), sftp.stat(str(base / "link")).st_size),
      ("renamed", 1))
check("a link itself", stat.S_ISLNK(sftp.lstat(str(base / "link")).st_mode), True)
sftp.chmod(str(base / "renamed"), 0o604)
sftp.utime(str(base / "renamed"), (1_000_000_000, 1_100_000_000))
sftp.truncate(str(base / "renamed"), 0)
found = (base / "renamed").stat()
check("attributes", (stat.S_IMODE(found.st_mode), found.st_size), (0o604, 0))
for what, call, code in [
    ("a missing file", lambda: sftp.open(str(base / "none")), 2),
    ("a missing folder", lambda: sftp.listdir(str(base / "none")), 2),
    ("a folder that is not empty", lambda: sftp.rmdir(str(base)), None),
]:
    try:
        call()
        sys.exit(f"{what}: no error")
    except OSError as error:
        check(what, error.errno, code)
check("normalizing", sftp.normalize(str(base / ".." / "paramiko")), str(base))
client.close()
client = connect(user=other)
sftp = client.open_sftp()
for what, call in (("a secret", lambda: sftp.open("/etc/shadow")),
                   ("a foreign folder", lambda: sftp.mkdir("/etc/none"))):
    try:
        call()
        sys.exit(f"{what}: no error")
    except OSError as error:
        check(what, error.errno, 13)
_, out, _ = client.exec_command("no-such-program")
check("a program that is not there", out.channel.recv_exit_status(), 127)
client.close()
try:
    connect(key=stranger)
    sys.exit("a stranger's key: no error")
except paramiko.AuthenticationException:
    print("ok a stranger's key")

# Everything that it has and that is not too weak to be ours.
weak = ("sha1", "md5", "cbc", "3des", "ssh-rsa", "ssh-dss")
for kind, offered in (("kex", paramiko.Transport._preferred_kex),
                      ("ciphers", paramiko.Transport._preferred_ciphers),
                      ("macs", paramiko.Transport._preferred_macs),
                      ("keys", paramiko.Transport._preferred_keys)):
    for name in offered:
        if any(word in name for word in weak) and name != "hmac-sha1":
            continue
        others = [other for other in offered if other != name]
        client = connect(disabled_algorithms={kind: others})
        _, out, _ = client.exec_command("echo " + name)
        check(name, out.read().decode().strip(), name)
        client.close()
