"""Results: one JSON file that parts are merged into, and the Markdown and charts made of it."""

import json
import re
import statistics

import chart
import marks

FORMAT = 1
# Above this a row says how far its runs were apart.
SPREAD_PERCENT_MAX = 25

# How slow the CPU was, and what is left without the rounds in which it was (gateway.PACE_MAX).
AT_PACE = [("cpu_at_pace", "The same, of rounds in which the CPU kept its pace", "CPU-s/GiB", 2),
           ("pace", "Time of the same arithmetic meanwhile, to the least of the run", "times", 2)]

# What each section shows: key of the figures, heading, unit, digits.
SHOWN = {
    "transfers": [("cpu_s_per_gib", "Server CPU", "CPU-s/GiB", 2),
                  ("gib_per_s", "Rate", "GiB/s", 2),
                  ("peak_mib", "Peak server memory", "MiB", 1)],
    "small-files": [("cpu_ms_per_file", "Server CPU of a file of 4 KiB", "CPU-ms", 3),
                    ("ms_per_file", "Time of a file of 4 KiB", "ms", 3)],
    "logins": [("cpu_ms_each", "Server CPU of a login", "CPU-ms", 2)],
    "idle": [("kib_each", "Memory of an idle login", "KiB PSS", 1),
             ("wakes_per_s", "Threads that wake", "a second", 1)],
    "pipes": [("mib_per_s", "Rate through a long pipe", "MiB/s", 1),
              ("under_way_mib", "Bytes under way", "MiB", 2),
              ("peak_mib", "Peak server memory", "MiB", 1)],
    "fairness": [("echo_p50_ms", "Echo, median", "ms", 2),
                 ("echo_p99_ms", "Echo, 99th percentile", "ms", 2),
                 ("echo_bulk_mib", "Bulk bytes that pass during an echo", "MiB", 2),
                 ("least_share", "Slowest bulk flow to the mean", "", 2),
                 ("most_share", "Fastest bulk flow to the mean", "", 2),
                 ("gib_per_s", "Bulk flows together", "GiB/s", 2)],
    "forward": [("cpu_s_per_gib", "Server CPU of a forwarded connection", "CPU-s/GiB", 2), *AT_PACE],
    "proxied": [("cpu_s_per_gib", "Gateway CPU of a proxied session", "CPU-s/GiB", 2), *AT_PACE],
    "shared": [("cpu_s_per_gib", "Gateway CPU of a session, own connection or shared", "CPU-s/GiB", 2), *AT_PACE,
               ("gib_per_s", "Rate", "GiB/s", 2)],
    "shared-logins": [("cpu_ms_each", "Gateway CPU of a login that goes on", "CPU-ms", 2),
                      ("host_ms_each", "CPU of the host behind, sshd", "CPU-ms", 2),
                      ("per_cpu_s", "Logins for a second of CPU of both", "", 0)],
    "echo": [("added_ms", "What the proxy adds to an echo, median", "ms", 3),
             ("through_ms", "Echo through the proxy, median", "ms", 3),
             ("direct_ms", "Echo without it, median", "ms", 3)],
    "copies": [("client_share", "Client CPU of `tidegate cp` to that of sftp", "", 2),
               ("client_cp", "Client CPU, tidegate cp", "CPU-s/GiB", 2),
               ("client_sftp", "Client CPU, sftp", "CPU-s/GiB", 2),
               ("both_cp", "CPU of both ends, tidegate cp", "CPU-s/GiB", 2),
               ("both_sftp", "CPU of both ends, sftp", "CPU-s/GiB", 2)],
    "far-copies": [("rate_share", "Rate of `tidegate cp` to that of OpenSSH's program", "", 1),
                   ("rate_cp", "tidegate cp", "MiB/s or files/s", 1),
                   ("rate_stock", "sftp; scp -r for small files", "MiB/s or files/s", 1)],
    "separation": [("cpu_us_each", "Server CPU of a connection or a request", "us", 1),
                   ("cpu_s_per_gib", "Server CPU of bytes", "CPU-s/GiB", 2),
                   ("sleeps_each", "Threads that go to sleep, for each connection", "", 1),
                   ("calls_each", "System calls of a login, all processes", "", 1)],
}
TITLES = {"transfers": "Transfers", "small-files": "Many small files", "logins": "Logins",
          "idle": "Idle logins", "pipes": "Long pipes", "fairness": "Typing beside bulk flows",
          "forward": "Forwarded connections", "proxied": "Proxied sessions",
          "shared": "Connections to hosts that are shared", "shared-logins": "Logins over shared connections",
          "echo": "Typing through the proxy", "copies": "Copies", "far-copies": "Copies over a long way",
          "separation": "Separated processes and one process"}


class Results:
    """A results file; each row belongs to the part of the run that measured it last."""

    def __init__(self, path):
        self.path = path
        self.parts, self.rows = [], []
        if path.exists():
            old = json.loads(path.read_text())
            if old.get("format") != FORMAT:
                raise SystemExit(f"{path} is not a results file of this program; name another")
            self.parts, self.rows = old["parts"], old["rows"]
            for row in self.rows:
                row["case"] = tuple(row["case"])

    def begin(self, part):
        part["number"] = 1 + max((old["number"] for old in self.parts), default=0)
        self.parts.append(part)
        return part["number"]

    def add(self, section, case, part, figures):
        """A row replaces an older one of the same case whole: servers are compared within a run."""
        self.rows = [row for row in self.rows if (row["section"], row["case"]) != (section, case)]
        self.rows.append({"section": section, "case": case, "part": part, "figures": figures})
        self.save()

    def save(self):
        used = {row["part"] for row in self.rows}
        self.parts = [part for part in self.parts if part["number"] in used]
        text = json.dumps({"format": FORMAT, "parts": self.parts, "rows": self.rows}, indent=1)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text + "\n")
        fresh.replace(self.path)
        self.path.with_suffix(".md").write_text("\n".join(self.markdown()))
        for section in sorted({row["section"] for row in self.rows}):
            key, heading, unit, _ = SHOWN[section][0]
            rows = [(label(row["case"]), {name: median(figure, key)
                                         for name, figure in row["figures"].items()})
                    for row in self.sorted(section)]
            svg = chart.bars(f"{TITLES[section]}: {heading.lower()}, {unit}", rows, self.servers())
            self.path.with_name(f"{self.path.stem}-{section}.svg").write_text(svg)

    def sorted(self, section):
        return [row for row in self.rows if row["section"] == section]

    def servers(self):
        names = []
        for row in self.rows:
            names += [name for name in row["figures"] if name not in names]
        return names

    def markdown(self):
        yield f"# Measured: {self.path.stem}"
        yield ""
        yield ("Medians; every row is of one run in which the servers took turns. The quotients are "
               "those of the first server to the others. How it was measured: "
               "[perf/README.md](../README.md). All runs: "
               f"[{self.path.name}]({self.path.name}).")
        yield ""
        for section in TITLES:
            if self.sorted(section):
                yield f"## {TITLES[section]}"
                yield ""
                yield f"![{TITLES[section]}]({self.path.stem}-{section}.svg)"
                yield ""
                for what in SHOWN[section]:
                    yield from self.table(section, *what)
                if section == "transfers":
                    yield from marks.table(self.sorted(section))
                if section == "separation":
                    yield from marks.separation(self.sorted(section))
                yield from self.agreements(section)
                yield from self.failures(section)
        yield "## The parts of this run"
        yield ""
        for part in self.parts:
            yield from described(part)

    def table(self, section, key, heading, unit, digits):
        rows = [row for row in self.sorted(section)
                if any(figure.get(key) for figure in row["figures"].values())]
        if not rows:
            return
        servers = [name for name in self.servers() if any(name in row["figures"] for row in rows)]
        yield f"### {heading}{', ' + unit if unit else ''}"
        yield ""
        others = servers[1:]
        quotients = [f"to {name}" for name in others]
        yield "| case | " + " | ".join(servers + quotients) + " | part |"
        yield "|---" * (len(servers) + len(others) + 2) + "|"
        for row in rows:
            values = [median(row["figures"].get(name, {}), key) for name in servers]
            cells = [shown(row["figures"].get(name, {}), key, digits) for name in servers]
            for value in values[1:]:
                whole = values[0] is not None and value
                cells.append(f"{values[0] / value:.2f}" if whole else "")
            yield "| " + " | ".join([label(row["case"])] + cells + [str(row["part"])]) + " |"
        yield ""

    def agreements(self, section):
        """Key exchange and cipher of clients that were told nothing."""
        found = {}
        for row in self.sorted(section):
            for name, figure in row["figures"].items():
                if "defaults" in row["case"] and figure.get("negotiated"):
                    found.setdefault(name, figure["negotiated"])
        if found:
            yield "With the client's defaults it came to:"
            yield ""
            for name, words in found.items():
                yield f"- {name}: {words}"
            yield ""

    def failures(self, section):
        """What could not be measured, and why, each reason once."""
        found = {}
        for row in self.sorted(section):
            for name, figure in row["figures"].items():
                if "failed" in figure:
                    found.setdefault((name, reason(figure)), []).append(label(row["case"]))
        if found:
            yield "Not measured (`-`):"
            yield ""
            for (name, why), cases in found.items():
                yield f"- {name}, {'; '.join(cases)}: {why}"
            yield ""


def reason(figure):
    """Without the port, which is another each time."""
    return re.sub(r"Unable to negotiate.*: no matching", "no matching", figure["failed"])


def median(figure, key):
    """Of the runs that there are; none of a server that failed."""
    runs = figure.get(key)
    return statistics.median(runs) if runs and "failed" not in figure else None


def shown(figure, key, digits):
    value = median(figure, key)
    if value is None:
        return "-"
    runs = figure[key]
    spread = 100 * (max(runs) - min(runs)) / abs(value) if value else 0
    far = f" (±{spread / 2:.0f} %)" if spread > SPREAD_PERCENT_MAX else ""
    return f"{value:.{digits}f}{far}"


def label(case):
    return ", ".join(str(word) for word in case)


def described(part):
    machine = part["machine"]
    yield f"### Part {part['number']}: {part['started']}"
    yield ""
    yield f"- {machine['cpus']} x {machine['cpu']} ({', '.join(machine['cpu_features'])}), " \
          f"{machine['memory_mib']} MiB, Linux {machine['kernel']}; servers on CPU " \
          f"{part['server_cpus']}, clients on CPU {part['client_cpus']}"
    yield f"- congestion control {part['congestion_control']}; {part['size_mib']} MiB a run, " \
          f"{part['rounds']} rounds"
    yield "- " + "; ".join(f"{name}: {text}" for name, text in part["versions"].items())
    quiet = part["quiet"]
    yield f"- load {quiet['load_before']} before and {quiet['load_after']} after; steal " \
          f"{quiet['steal_percent']} %, others {quiet['foreign_percent']} % of the CPU"
    for noise in quiet["noise"]:
        yield f"- **noisy**: {noise}"
    yield ""
