"""What an asyncssh user does. Arguments: port, user, key, folder, a user who may not read
what is root's, a key that nobody knows."""

import asyncio
import hashlib
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import asyncssh  # noqa: E402  (its imports warn)

port, user, key, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
other, stranger = sys.argv[5:7]


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: {got!r} instead of {expected!r}")
    print("ok", what)


def connect(user=user, key=key, **options):
    return asyncssh.connect("127.0.0.1", port, username=user, client_keys=[key], known_hosts=None,
                            agent_path=None, config=None, **options)


async def fails(what, error, awaitable):
    try:
        await awaitable
    except error:
        print("ok", what)
    else:
        sys.exit(f"{what}: no error")


async def main():
    async with connect() as connection:
        result = await connection.run("echo out; echo err >&2; exit 7")
        check("a command", (result.stdout, result.stderr, result.exit_status), ("out\n", "err\n", 7))
        result = await connection.run("kill -TERM $$")
        check("a signal", result.exit_signal[0], "TERM")
        data = os.urandom(64 << 20)
        result = await connection.run("sha256sum", input=data, encoding=None)
        check("64 MiB through standard input", result.stdout.split()[0].decode(),
              hashlib.sha256(data).hexdigest())
        result = await connection.run("stty size", term_type="vt100", term_size=(81, 33))
        check("the terminal's size", result.stdout.strip(), "33 81")
        many = await asyncio.gather(*(connection.run(f"echo {n}") for n in range(8)))
        check("commands side by side", [r.stdout.strip() for r in many], [str(n) for n in range(8)])
        async with connection.start_sftp_client() as sftp:
            base = folder / "asyncssh"
            await sftp.mkdir(str(base))
            (folder / "tree" / "sub").mkdir(parents=True)
            blob = data[: 9_999_999]
            (folder / "tree" / "blob").write_bytes(blob)
            for n in range(200):
                (folder / "tree" / "sub" / f"small {n}").write_bytes(b"%d" % n)
            await sftp.put(str(folder / "tree"), str(base), recurse=True, preserve=True)
            await sftp.get(str(base / "tree"), str(folder / "back"), recurse=True, preserve=True)
            check("a tree there and back", (folder / "back" / "blob").read_bytes() == blob, True)
            check("its small files", sorted(p.name for p in (folder / "back" / "sub").iterdir()),
                  sorted(f"small {n}" for n in range(200)))
            check("globs", len(await sftp.glob(str(base / "tree" / "sub" / "small 1*"))), 111)
            await fails("a missing file", asyncssh.SFTPNoSuchFile, sftp.stat(str(base / "none")))
            await fails("a folder that is not empty", asyncssh.SFTPFailure, sftp.rmdir(str(base)))
            await sftp.symlink("the target", str(base / "link"))
            check("a link", os.readlink(base / "link"), "the target")
            space = await sftp.statvfs(str(base))
            check("the file system's space", space.bavail > 0, True)
            for name in ("with space", "ümläut ☃", "quote'\"", "-dash", "a\nline", "*?[x]"):
                async with sftp.open(str(base / name), "w") as file:
                    await file.write(name)
                check("an odd name", (base / name).read_text(), name)
            path = os.fsencode(base) + b"/caf\xe9 \xff"
            async with sftp.open(path, "wb") as file:
                await file.write(b"bytes")
            check("a name that is no text", b"caf\xe9 \xff" in await sftp.listdir(os.fsencode(base)),
                  True)
            await sftp.rmtree(os.fsencode(base))
    async with connect(user=other) as connection:
        result = await connection.run("no-such-program")
        check("a program that is not there", result.exit_status, 127)
        async with connection.start_sftp_client() as sftp:
            await fails("a secret", asyncssh.SFTPPermissionDenied, sftp.open("/etc/shadow"))
            await fails("a foreign folder", asyncssh.SFTPPermissionDenied, sftp.mkdir("/etc/none"))
    await fails("a stranger's key", asyncssh.PermissionDenied, connect(key=stranger).__aenter__())
    for kex in ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256",
                "ecdh-sha2-nistp384", "ecdh-sha2-nistp521", "diffie-hellman-group14-sha256",
                "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
                "diffie-hellman-group-exchange-sha256"):
        async with connect(kex_algs=[kex]) as connection:
            check(kex, (await connection.run("echo hi")).stdout, "hi\n")
    for algorithm in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384",
                      "ecdsa-sha2-nistp521", "rsa-sha2-256", "rsa-sha2-512"):
        async with connect(server_host_key_algs=[algorithm]) as connection:
            check(algorithm, (await connection.run("echo hi")).stdout, "hi\n")
    ciphers = ("chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
               "aes256-ctr", "aes192-ctr", "aes128-ctr")
    for cipher in ciphers:
        async with connect(encryption_algs=[cipher]) as connection:
            sent = os.urandom(3 << 20)
            result = await connection.run("cat", input=sent, encoding=None)
            check(cipher, result.stdout == sent, True)
    for mac in ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256",
                "hmac-sha2-512", "hmac-sha1-etm@openssh.com", "hmac-sha1"):
        async with connect(encryption_algs=["aes256-ctr"], mac_algs=[mac]) as connection:
            check(mac, (await connection.run("echo hi")).stdout, "hi\n")


asyncio.run(main())
