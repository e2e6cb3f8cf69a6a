#!/usr/bin/env python3
"""What the kernel alone takes for moving bytes: the floor under every server on this machine.

    perf/floors.py [MiB]
    perf/floors.py --sockets MIB CPU    one write and one read of a socket alone, 256 KiB, one number

CPU microseconds per MiB of plain system calls on files in memory, pipes and loopback TCP (reno), in
pieces of 32 and 256 KiB, the median of five. Both ends run on one CPU, by turns, so that the work of the
other end is in no figure; a Python call adds less than a microsecond to each.
"""

import fcntl
import os
import socket
import statistics
import sys
import time

MIB = 1 << 20
FOLDER = "/dev/shm"


def cost(pieces, work, between=lambda: None):
    """CPU seconds of `work` alone, called so often, with `between` after each."""
    spent = 0
    for _ in range(pieces):
        started = time.thread_time_ns()
        work()
        spent += time.thread_time_ns() - started
        between()
    return spent / 1e9


def drain(fd, piece, room):
    """Takes a whole piece; a stream may hand it out in parts."""
    left = piece
    while left:
        left -= os.readv(fd, [room[:left]])


def fill(fd, piece):
    left = memoryview(piece)
    while left:
        left = left[os.write(fd, left):]


def file_costs(piece, pieces):
    buffer, path = bytearray(os.urandom(piece)), f"{FOLDER}/tidegate-floors-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.unlink(path)
    place = iter(range(3 * pieces))
    here = lambda: next(place) % pieces * piece
    yield "file, write new", cost(pieces, lambda: os.pwritev(fd, [buffer], here()))
    yield "file, write over", cost(pieces, lambda: os.pwritev(fd, [buffer], here()))
    yield "file, read", cost(pieces, lambda: os.preadv(fd, [buffer], here()))
    os.close(fd)


def stream_costs(name, ends, piece, pieces):
    """The price of either end of a stream that has room for a piece."""
    reader, writer = ends
    data, room = os.urandom(piece), memoryview(bytearray(piece))
    both = (lambda: fill(writer, data), lambda: drain(reader, piece, room))
    spent = cost(pieces, both[0], both[1])
    yield f"{name}, write", spent
    both[0]()
    spent = cost(pieces - 1, both[1], both[0])
    yield f"{name}, read", spent * pieces / (pieces - 1)
    both[1]()


def pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MIB)
    return reader, writer


def loopback():
    with socket.socket() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.socket()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    return server.detach(), client.detach()


def two_passes(size):
    """Microseconds a MiB of one write and one read of 256 KiB, the median of five."""
    found, piece = [], 256 * 1024
    for _ in range(5):
        ends = loopback()
        spent = sum(seconds for _, seconds in stream_costs("", ends, piece, size // piece))
        found.append(spent * 1e6 * MIB / size)
        for end in ends:
            os.close(end)
    return statistics.median(found)


def main():
    if sys.argv[1:2] == ["--sockets"]:
        os.sched_setaffinity(0, {int(sys.argv[3])})
        print(f"{two_passes(int(sys.argv[2]) * MIB):.1f}")
        return
    size = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 256 * MIB
    os.sched_setaffinity(0, {0})
    found = {}
    for piece in (32 * 1024, 256 * 1024):
        for _ in range(5):
            costs = list(file_costs(piece, size // piece))
            for name, open_ends in (("pipe", pipe), ("loopback TCP", loopback)):
                ends = open_ends()
                costs += stream_costs(name, ends, piece, size // piece)
                for end in ends:
                    os.close(end)
            for name, seconds in costs:
                found.setdefault(name, {}).setdefault(piece, []).append(seconds * 1e6 * MIB / size)
    print(f"| us/MiB | {' | '.join(f'{piece // 1024} KiB' for piece in (32 * 1024, 256 * 1024))} |")
    print("|---|---|---|")
    for name, pieces in found.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(runs):.0f}' for runs in pieces.values())} |")


if __name__ == "__main__":
    main()
