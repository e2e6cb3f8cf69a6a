//! One page with charts and nothing to fetch: SVG and plain tables, so that it prints and can be read by
//! everything.

use std::fmt::Write;

use super::chart::{bars, curves, short};
use super::report::{Report, Table, add};

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
p { margin: .2rem 0; } h2 { margin: 2.5rem 0 .5rem; }
dl { overflow: hidden; } dt { float: left; clear: left; width: 8rem; opacity: .7; }
dd { margin-left: 8rem; }
figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { font-weight: 600; }
figure small { font-weight: 400; opacity: .7; }
figure > svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor; }
svg .name { text-anchor: end; } svg .tick { text-anchor: middle; }
ul { list-style: none; margin: .3rem 0; padding: 0; font-size: .85rem; }
li { display: inline-block; margin-right: 1.2rem; } li svg { width: 24px; vertical-align: middle; margin-right: .4rem; }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2.5; }
.dashed { stroke-dasharray: 6 4; }
.s0 { fill: #2f7ed8; } .s1 { fill: #e07b39; } .s2 { fill: #3a9d4a; } .s3 { fill: #b04fc9; }
.s4 { fill: #b8901f; } .s5 { fill: #26a69a; } .s6 { fill: #d64550; } .s7 { fill: #7d8590; }
.c0 { stroke: #2f7ed8; } .c1 { stroke: #e07b39; } .c2 { stroke: #3a9d4a; } .c3 { stroke: #b04fc9; }
.c4 { stroke: #b8901f; } .c5 { stroke: #26a69a; } .c6 { stroke: #d64550; } .c7 { stroke: #7d8590; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; font-size: .85rem; }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
";
/// Of latencies: the rest would flatten them.
const DRAWN: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut text = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n");
    let title = format!("tidegate bench {}", safe(&report.bench));
    let _ =
        write!(text, "<title>{title}</title>\n<style>\n{STYLE}</style>\n<h1>{title}</h1>\n<dl>");
    let machine = &report.machine;
    let commit = machine.commit.clone().unwrap_or_default();
    let facts = [
        ("CPU", format!("{} ({} usable)", machine.cpu, machine.cpus)),
        ("offers", machine.features.join(" ")),
        ("kernel", machine.kernel.clone()),
        ("load", machine.load.clone()),
        ("tidegate", format!("{} {commit}", machine.tidegate)),
        ("libraries", machine.libraries.join(", ")),
    ];
    let server = report.target.as_ref().map(|told| {
        let about = format!("{} at {}; {}", told.software, told.address, told.algorithms);
        ("server", about)
    });
    for (name, fact) in facts.into_iter().chain(server) {
        let _ = write!(text, "<dt>{name}</dt><dd>{}</dd>", safe(fact.trim()));
    }
    text.push_str("</dl>\n");
    for note in report.notes() {
        let _ = writeln!(text, "<p>{}", safe(&note));
    }
    let tables = report.tables();
    charts(report, &tables, &mut text);
    text.push_str("<h2>Figures</h2>\n");
    if tables.is_empty() {
        list(report, &mut text);
    }
    tables.iter().for_each(|each| table(each, &mut text));
    text.push_str("</html>\n");
    text
}

/// What there is to see of it at a glance, by what was measured.
fn charts(report: &Report, tables: &[Table], text: &mut String) {
    for table in tables {
        match report.bench.as_str() {
            "load" => {
                let title = table.title.trim_end_matches(", ms").to_owned();
                *text += &bars(&table.pick(title, &DRAWN), "milliseconds, by phase");
            }
            "transfer" => {
                let rate = table.pick("Rate".to_owned(), &["GiB/s"]);
                let cost = table.pick("CPU".to_owned(), &["client", "server"]);
                *text += &bars(&rate, "GiB a second");
                *text += &bars(&cost, "seconds a GiB");
            }
            _ => {
                let Some(title) = table.title.strip_suffix(", GiB/s") else { continue };
                for family in families(title, table) {
                    *text += &match family.columns.len() {
                        // Of too few there is no curve.
                        ..3 => bars(&family, "GiB a second, by bytes a packet"),
                        _ => curves(&family, "GiB a second, by bytes a packet"),
                    };
                }
            }
        }
    }
    if tables.is_empty() {
        steps(report).iter().for_each(|group| *text += &bars(group, "microseconds"));
    }
}

/// Suites in groups of so few that they can be told apart: ciphers that need no MAC, and each that does.
fn families(title: &str, table: &Table) -> Vec<Table> {
    let mut families: Vec<Table> = Vec::new();
    for (line, figures) in &table.lines {
        let family = line.split_once('+').map_or("authenticated ciphers", |(cipher, _)| cipher);
        let title = format!("{title}: {family}");
        for (column, figure) in table.columns.iter().zip(figures) {
            if let Some(figure) = figure {
                add(&mut families, title.clone(), line, column, *figure);
            }
        }
    }
    families
}

/// What is to be compared beside each other: the steps of an exchange, the sides of a login, signing and
/// verifying.
fn steps(report: &Report) -> Vec<Table> {
    let mut groups: Vec<Table> = Vec::new();
    for row in &report.cases {
        let (group, name) = row.name.split_once('/').unwrap_or(("", &row.name));
        let (title, line, column) = match (group, name.rsplit_once('/')) {
            ("sign" | "verify", _) => ("signatures", name, group),
            ("kex", Some((method, step))) => ("key exchanges", method, step),
            ("login", Some((how, side))) => ("logins", how, side),
            _ => (group, name, "us"),
        };
        add(&mut groups, title.to_owned(), line, column, row.nanos / 1e3);
    }
    groups
}

fn list(report: &Report, text: &mut String) {
    text.push_str(
        "<div><table><tr><th></th><th>microseconds</th><th>a second</th><th>spread</th></tr>\n",
    );
    for row in &report.cases {
        let (name, us) = (safe(&row.name), row.nanos / 1e3);
        let (rate, spread) = (row.per_second, row.spread_percent);
        let _ = writeln!(
            text,
            "<tr><td>{name}</td><td>{us:.2}</td><td>{rate:.0}</td><td>{spread:.0} %</td></tr>"
        );
    }
    text.push_str("</table></div>\n");
}

fn table(table: &Table, text: &mut String) {
    let _ = write!(text, "<div><table><tr><th>{}</th>", safe(&table.title));
    for column in &table.columns {
        let _ = write!(text, "<th>{}</th>", safe(column));
    }
    text.push_str("</tr>\n");
    for (name, figures) in &table.lines {
        let _ = write!(text, "<tr><td>{}</td>", safe(name));
        for figure in figures {
            let figure = figure.map(short).unwrap_or_default();
            let _ = write!(text, "<td>{figure}</td>");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
}

/// Names come from /proc and from files: nothing of them is markup.
pub fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::super::report::{Row, Unit};
    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn the_page_fetches_nothing_and_shows_no_foreign_markup() {
        let mut machine = Machine::look();
        machine.cpu = "<script>\"&".to_owned();
        let sample = Sample { nanos: 1234.0, spread_percent: 2.0, per_second: 8e5 };
        let cases = ["sign/x", "kex/y/server"];
        let rows = cases.map(|name| Row::new(name.to_owned(), Unit::Operation, sample, None));
        let page = page(&Report::new("kex", machine, rows.into()));
        assert!(page.contains("&lt;script&gt;&quot;&amp;") && !page.contains("<script"), "{page}");
        assert!(!page.contains("http") && !page.contains("src="), "{page}");
        assert!(page.contains("<td>1.23</td>"), "{page}");
        // A chart of signatures, and one of exchanges.
        assert_eq!(page.matches("<figure>").count(), 2, "{page}");
    }
}
