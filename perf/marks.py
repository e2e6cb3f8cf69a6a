"""The marks that were set for transfers, beside what was measured."""

import statistics

CPU = "cpu_s_per_gib"
FIRST, OTHER = "tidegate-uring", "tidegate-mio"
SAME_CIPHER = ("aes128-gcm", "aes256-gcm")


def row(case, setting="aes256-gcm", connections=1):
    return (case, setting, connections)


def wanted():
    """What, the row and server measured, the row and server it is compared with, and the quotient that
    is allowed; without a second row the figure itself, in the unit of `key`."""
    for case, sshd, russh in (("sftp-get", 0.40, 0.75), ("sftp-put", 0.40, 0.70)):
        for setting in SAME_CIPHER:
            at = row(case, setting)
            yield f"{case}, {setting}", CPU, (at, FIRST), (at, "sshd"), sshd
            yield f"{case}, {setting}", CPU, (at, FIRST), (at, "russh"), russh
        at = row(case, "defaults")
        yield f"{case}, the client's defaults", CPU, (at, FIRST), (at, "sshd"), 0.28
    for case, sshd in (("exec-down", 0.65), ("exec-up", 0.55)):
        at = row(case)
        yield f"{case}, aes256-gcm", CPU, (at, FIRST), (at, "sshd"), sshd
        yield f"{case}, aes256-gcm", CPU, (at, FIRST), (at, "russh"), 0.85
    for setting in SAME_CIPHER:
        eight, one = row("sftp-get", setting, 8), row("sftp-get", setting)
        yield f"sftp-get by 8, {setting}", CPU, (eight, FIRST), (one, FIRST), 1.1
    at = row("sftp-get", "chacha20-poly1305")
    yield "sftp-get, chacha20-poly1305", CPU, (at, FIRST), (at, "sshd"), 0.60
    for case in ("sftp-get", "sftp-put", "exec-down", "exec-up"):
        at = row(case)
        yield f"{case}, aes256-gcm", CPU, (at, OTHER), (at, FIRST), 1.25
    for case in ("sftp-get", "sftp-put"):
        yield f"peak memory, {case} by 8, MiB", "peak_mib", (row(case, connections=8), FIRST), None, 64


def table(rows):
    """Lines of Markdown for the marks of which both sides were measured."""
    figures = {each["case"]: each["figures"] for each in rows}
    parts = {each["case"]: each["part"] for each in rows}

    def median(key, place):
        case, server = place
        figure = figures.get(case, {}).get(server, {})
        runs = figure.get(key)
        return statistics.median(runs) if runs and "failed" not in figure else None

    lines = []
    for what, key, ours, theirs, most in wanted():
        value, whole = median(key, ours), median(key, theirs) if theirs else 1
        if value is None or not whole:
            continue
        against = "" if theirs is None else theirs[1] if ours[0] == theirs[0] else "one connection"
        if theirs and parts[ours[0]] != parts[theirs[0]]:
            against += ", in another part"
        found = value / whole
        verdict = "yes" if found <= most else "**no**"
        lines.append(f"| {what} | {ours[1]} | {against} | {found:.2f} | {most:.2f} | {verdict} |")
    if lines:
        lines[:0] = ["### Marks", "", "| case | server | beside | measured | at most | met |",
                     "|---|---|---|---|---|---|"]
        lines.append("")
    return lines


# Of the handshake's CPU in one process.
HAND_OFF_MOST = 0.05
# Bytes are to cost the same; rounds of one program are this far apart.
BYTES_MOST = 1.05


def separation(rows):
    """Lines of Markdown: what being passed on costs a login, and whether bytes cost the same."""
    figures = {each["case"]: each["figures"] for each in rows}
    lines = []

    def median(case, shape, key):
        runs = figures.get(case, {}).get(shape, {}).get(key)
        return statistics.median(runs) if runs else None

    def tell(what, driver, found, most):
        verdict = "yes" if found <= most else "**no**"
        lines.append(f"| {what} | {driver} | {found:.3f} | {most:.2f} | {verdict} |")

    for driver in sorted({driver for _, driver in figures}, reverse=True):
        ends = [median((what, driver), shape, "cpu_us_each") for shape in ("separated", "one-process")
                for what in ("auth", "connect")]
        if all(ends):
            ours, ours_before, single, single_before = ends
            tell("a login behind its key exchange, separated less one process, of one process's login",
                 driver, ((ours - ours_before) - (single - single_before)) / single, HAND_OFF_MOST)
        for case in ("sftp-get", "sftp-put"):
            pair = [median((case, driver), shape, "cpu_s_per_gib") for shape in ("separated", "one-process")]
            if all(pair):
                tell(f"{case}, separated of one process", driver, pair[0] / pair[1], BYTES_MOST)
    if lines:
        lines[:0] = ["### Marks", "", "| what | driver | measured | at most | met |", "|---|---|---|---|---|"]
        lines.append("")
    return lines
