//! One page with charts and nothing to fetch: bars of plain HTML, so that it prints and can be
//! read by everything.

use std::fmt::Write;

use super::report::{Report, Table};

const STYLE: &str = "\
:root { color-scheme: light dark; --bar: #2f7ed8; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
td { position: relative; font-variant-numeric: tabular-nums; }
td i { position: absolute; inset: auto auto 0 0; height: 3px; background: var(--bar); }
dt { float: left; clear: left; width: 8rem; opacity: .7; } dd { margin-left: 8rem; }
";

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
    let tables = report.tables();
    if tables.is_empty() {
        list(report, &mut text);
    }
    tables.iter().for_each(|each| table(each, &mut text));
    for note in report.notes() {
        let _ = writeln!(text, "<p>{}", safe(&note));
    }
    text.push_str("</html>\n");
    text
}

fn list(report: &Report, text: &mut String) {
    let most = report.cases.iter().map(|row| row.nanos).fold(0.0, f64::max);
    text.push_str(
        "<table><tr><th></th><th>microseconds</th><th>a second</th><th>spread</th></tr>\n",
    );
    for row in &report.cases {
        let (name, us) = (safe(&row.name), row.nanos / 1e3);
        let bar = bar(row.nanos, most);
        let (rate, spread) = (row.per_second, row.spread_percent);
        let _ = writeln!(
            text,
            "<tr><td>{name}</td><td>{us:.2}{bar}</td><td>{rate:.0}</td><td>{spread:.0} %</td></tr>"
        );
    }
    text.push_str("</table>\n");
}

fn table(table: &Table, text: &mut String) {
    let figures = table.lines.iter().flat_map(|(_, figures)| figures.iter().flatten());
    let most = figures.copied().fold(0.0, f64::max);
    let _ = write!(text, "<table><tr><th>{}</th>", safe(&table.title));
    for column in &table.columns {
        let _ = write!(text, "<th>{}</th>", safe(column));
    }
    text.push_str("</tr>\n");
    for (name, figures) in &table.lines {
        let _ = write!(text, "<tr><td>{}</td>", safe(name));
        for figure in figures {
            let _ = match figure {
                Some(figure) => write!(text, "<td>{figure:.2}{}</td>", bar(*figure, most)),
                None => write!(text, "<td></td>"),
            };
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
}

fn bar(figure: f64, most: f64) -> String {
    format!("<i style=\"width:{:.1}%\"></i>", 100.0 * figure / most.max(f64::MIN_POSITIVE))
}

/// Names come from /proc and from files: nothing of them is markup.
fn safe(text: &str) -> String {
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
        assert!(page.contains("<td>1.23<i style=\"width:100.0%\"></i></td>"), "{page}");
    }
}
