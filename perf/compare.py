#!/usr/bin/env python3
"""Tidegate beside every other SSH server on the machine: CPU, rates, memory, fairness.

    perf/compare.py                          everything, more than an hour
    perf/compare.py --list                   what that is, by section and case
    perf/compare.py --sections transfers --cases sftp-get --settings aes128-gcm
    perf/compare.py --minutes 4 --resume     what is not measured yet, as far as four minutes go

Needs root (sshd separates privileges, control groups account for CPU), OpenSSH's client and server,
and Rust; Debian's dropbear-bin takes part when it is installed. It builds what it needs. Results go to
perf/results/NAME.json, .md and .svg; a case that is measured again replaces its row there, each row
with the record of the machine at its own time. With --minutes it exits with 75 when something is left.
perf/README.md says how everything is measured.
"""

import argparse
import datetime
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import copies
import fairness
import gateway
import logins
import machine
import pipes
import report
import separation
import servers as kinds
import small_files
import transfers
from place import MIB, ROOT, Site

SECTIONS = ["transfers", "small-files", "logins", "idle", "pipes", "fairness", "forward", "proxied", "echo",
            "shared", "shared-logins", "copies", "far-copies", "separation"]
LOGIN_CASES = ["light", "beside-live", "programs"]
# Something is left to be measured (EX_TEMPFAIL).
LEFT = 75


def rows(options):
    """Every case of the sections that were asked for."""
    found = [("transfers", (case, setting, connections)) for case in transfers.CASES
             for setting in options.settings for connections in options.connections]
    found += [("small-files", (case,)) for case in small_files.CASES]
    found += [("logins", (case,)) for case in LOGIN_CASES]
    found.append(("idle", ("idle-memory",)))
    found += [("pipes", case) for case in pipes.cases(options.delays)]
    found += [("fairness", (case,)) for case in fairness.CASES]
    found += gateway.cases()
    found += [("copies" if case[0] in copies.NEAR else "far-copies", case) for case in copies.cases()]
    found += [("separation", case) for case in separation.cases()]
    return [(section, case) for section, case in found if section in options.sections
            and (not options.cases or case[0] in options.cases)]


def measure(site, running, section, case):
    rounds, size = site.options.rounds, site.options.size * MIB
    if section == "transfers":
        name, setting, connections = case
        # Eight share what one would move, twice.
        size *= 1 if connections == 1 else 2
        return transfers.measure(site, running, name, setting, connections, rounds, size)
    if (section, case) in gateway.cases():
        return gateway.measure(site, running, section, case)
    if section in ("logins", "idle"):
        few = 1 if section == "idle" else rounds
        return logins.measure(site, running, case[0], few)
    if section == "small-files":
        return small_files.measure(site, running, case[0], rounds, site.options.files)
    if section in ("copies", "far-copies"):
        return copies.measure(site, running, case, rounds, size)
    if section == "separation":
        return separation.measure(site, case, rounds)
    if section == "pipes":
        return pipes.measure(site, running, case, max(1, rounds // 2))
    return fairness.measure(site, case[0], max(1, rounds // 2))


def run(options, todo, results):
    """Measures one case after the other; answers how many are left when the time is over."""
    started, site, running = time.monotonic(), Site(options), []
    part = {
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv[1:]),
        "machine": machine.describe(),
        "versions": {"client": machine.output(["ssh", "-V"])},
        "size_mib": options.size, "rounds": options.rounds,
        "server_cpus": sorted(options.server_cpus), "client_cpus": sorted(options.client_cpus),
    }
    watch, before = machine.Watch(), own_seconds()
    try:
        with machine.CongestionControl(options.congestion) as part["congestion_control"]:
            for kind in options.kinds:
                part["versions"][kind.name] = kind.version(site)
                running.append(kinds.Server(kind, site))
            number = results.begin(part)
            longest = 0.0
            for done, (section, case) in enumerate(todo):
                spent = time.monotonic() - started
                if options.minutes and done and spent + 1.2 * longest > 60 * options.minutes:
                    return len(todo) - done
                figures = measure(site, running, section, case)
                longest = max(longest, time.monotonic() - started - spent)
                used = own_seconds() - before + site.clients.seconds() + site.commands.seconds()
                used += site.gone + sum(server.group.seconds() for server in running)
                part["quiet"] = watch.report(used)
                results.add(section, case, number, figures)
                tell(section, case, figures)
            return 0
    finally:
        for noise in part.get("quiet", {}).get("noise", []):
            print(f"NOISY: {noise}", flush=True)
        for server in running:
            server.stop()
        site.close()


def own_seconds():
    """This program's CPU; that of its clients is in their group."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def tell(section, case, figures):
    shown = report.SHOWN[section]
    measured = lambda what: any(what[0] in figure for figure in figures.values())
    key, _, unit, digits = next(filter(measured, shown), shown[0])
    words = [f"{name} {report.shown(figure, key, digits)}" if "failed" not in figure
             else f"{name} failed ({figure['failed']})" for name, figure in figures.items()]
    print(f"{section} {report.label(case)} [{unit}]: {', '.join(words)}", flush=True)


def build(options):
    """The product, the load program, the relay and the russh server, as far as they are needed."""
    cargo = ["cargo", "build", "--release"]
    # By itself: with the examples it would be built for tests, with the simulator and with counters.
    subprocess.run(cargo + ["--bin", "tidegate"], cwd=ROOT, check=True)
    examples = ["--example", "load", "--example", "relay", "--example", "floor"]
    subprocess.run(cargo + examples, cwd=ROOT, check=True)
    if any(kind.name == "russh" for kind in options.kinds):
        subprocess.run(cargo + ["--locked"], cwd=ROOT / "perf/russh-peer", check=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    split = lambda text: text.split(",")
    numbers = lambda text: [int(word) for word in text.split(",")]
    cpus = lambda text: set(numbers(text))
    parser.add_argument("--sections", type=split, default=SECTIONS)
    parser.add_argument("--cases", type=split)
    parser.add_argument("--settings", type=split, default=list(transfers.SETTINGS))
    parser.add_argument("--connections", type=numbers, default=transfers.CONNECTIONS)
    parser.add_argument("--delays", type=numbers, default=list(pipes.SIZES_MIB))
    parser.add_argument("--servers", type=split)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="MiB a run")
    parser.add_argument("--files", type=int, default=10_000, help="small files a run")
    parser.add_argument("--logins", type=int, default=200)
    parser.add_argument("--live", type=int, default=1000, help="sessions that stay open")
    parser.add_argument("--idle", type=int, default=5000, help="idle forwarded and proxied sessions")
    parser.add_argument("--name", default=datetime.date.today().isoformat())
    parser.add_argument("--out", type=Path, default=ROOT / "perf/results")
    parser.add_argument("--data", default="/dev/shm", help="where files lie; memory by default")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--reactors", type=int)
    parser.add_argument("--server-cpus", type=cpus, default={0})
    parser.add_argument("--client-cpus", type=cpus, default={max(1, os.cpu_count() - 1)})
    parser.add_argument("--command-cpus", type=cpus, help="of commands that servers run; the server's by default")
    parser.add_argument("--congestion", default="reno", help="congestion control; empty: as it is")
    parser.add_argument("--patience", type=float, default=45, help="seconds for one run")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="another server, with {port}, {host_key} and {authorized_keys} filled in")
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--minutes", type=float, help="end when the next case would take longer")
    parser.add_argument("--resume", action="store_true", help="leave out what NAME has already")
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args()


def main():
    options = arguments()
    todo = rows(options)
    if options.list:
        for section, case in todo:
            print(section, report.label(case))
        return 0
    if os.geteuid() != 0:
        sys.exit("perf/compare.py needs root: sshd separates privileges, control groups account for CPU")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    options.binary = options.binary or target / "tidegate"
    examples = [target / "examples" / name for name in ("load", "relay", "floor")]
    options.load, options.relay, options.floor = examples
    every = kinds.KINDS + [kinds.Other(*peer.split("=", 1)) for peer in options.peer]
    options.kinds = [kind for kind in every if not options.servers or kind.name in options.servers]
    if not options.no_build:
        build(options)
    for kind in list(options.kinds):
        why = kind.missing(options)
        if why:
            print(f"{kind.name} takes no part: {why}", flush=True)
            options.kinds.remove(kind)
    options.out.mkdir(parents=True, exist_ok=True)
    results = report.Results(options.out / f"{options.name}.json")
    if options.resume:
        have = {(row["section"], tuple(row["case"])) for row in results.rows}
        todo = [row for row in todo if row not in have]
    if not todo:
        print("everything that was asked for is measured")
        return 0
    # Each login that stays is a descriptor in two programs.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal; what was measured is kept"))
    left = run(options, todo, results)
    if left:
        print(f"{left} cases are left")
    return LEFT if left else 0


if __name__ == "__main__":
    sys.exit(main())
