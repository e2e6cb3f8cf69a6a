"""Bar charts as SVG by hand; the colours follow the reader's light or dark."""

from xml.sax.saxutils import escape

BAR, GAP, GROUP_GAP, LEFT, WIDTH, TOP = 12, 2, 14, 270, 960, 64
COLOURS = [("#0969da", "#58a6ff"), ("#8250df", "#bc8cff"), ("#cf222e", "#ff7b72"),
           ("#9a6700", "#d29922"), ("#1a7f37", "#3fb950"), ("#57606a", "#8b949e")]


def style(count):
    light = "".join(f".s{n}{{fill:{COLOURS[n % len(COLOURS)][0]}}}" for n in range(count))
    dark = "".join(f".s{n}{{fill:{COLOURS[n % len(COLOURS)][1]}}}" for n in range(count))
    return ("<style>text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:15px}"
            ".g{stroke:#d0d7de}" + light +
            "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#30363d}" + dark + "}</style>")


def step(most):
    """A round distance of grid lines, some five of them."""
    unit = 1e-6
    while unit * 100 < most:
        unit *= 10
    return next(unit * times for times in (1, 2, 5, 10, 20, 50, 100) if unit * times * 6 >= most)


def bars(title, rows, names):
    """`rows`: a label and, for each name, a value or none."""
    values = [value for _, figures in rows for value in figures.values() if value]
    most = max(values, default=1.0)
    scale = (WIDTH - LEFT - 70) / most
    body, y = [], TOP
    for text, figures in rows:
        here = [name for name in names if name in figures]
        middle = y + len(here) * (BAR + GAP) / 2 + 3
        body.append(f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(text)}</text>')
        for name in here:
            value = figures[name]
            if value is None:
                body.append(f'<text x="{LEFT + 4}" y="{y + 10}" font-size="10">-</text>')
            else:
                long = max(1.0, value * scale)
                body.append(f'<rect class="s{names.index(name)}" x="{LEFT}" y="{y}" width="{long:.1f}" '
                            f'height="{BAR}"><title>{escape(name)}</title></rect>'
                            f'<text x="{LEFT + long + 4:.1f}" y="{y + 10}">{value:.3g}</text>')
            y += BAR + GAP
        y += GROUP_GAP
    grid, at = [], 0.0
    while at <= most * 1.001:
        x = LEFT + at * scale
        grid.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{y - GROUP_GAP}"/>')
        at += step(most)
    key = [f'<rect class="s{n}" x="{LEFT + n * 130}" y="36" width="12" height="12"/>'
           f'<text x="{LEFT + n * 130 + 17}" y="46">{escape(name)}</text>'
           for n, name in enumerate(names)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
        f'height="{y}" role="img" aria-label="{escape(title)}">', style(len(names)),
        f'<text class="t" x="8" y="20">{escape(title)}</text>', *key, *grid, *body, "</svg>", ""])
