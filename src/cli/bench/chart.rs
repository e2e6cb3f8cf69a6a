//! Charts as SVG that stands in a page: nothing to fetch, every figure of bars beside them as text, and
//! lines that differ in more than their colours.

use std::fmt::Write;

use super::html::safe;
use super::report::Table;

/// Of what is drawn; the page scales it.
const WIDTH: f64 = 920.0;
/// A character of a label, about: fonts differ.
const CHARACTER: f64 = 6.7;
const LABEL_MAX: f64 = 420.0;
const BAR: f64 = 13.0;
/// Room for a figure behind the longest bar.
const FIGURE: f64 = 60.0;
const PLOT_HEIGHT: f64 = 260.0;
const LINE: f64 = 18.0;
/// From here on the smallest bar is no bar any more.
const FAR: f64 = 100.0;
/// Colours that there are; `.s0` and so on in the page's style.
pub const COLOURS: usize = 8;

/// How long a bar is, of what there is room for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// By the largest figure.
    Linear(f64),
    /// From the power of ten below the smallest, over so many.
    Logarithmic(f64, f64),
}

impl Scale {
    fn of(table: &Table) -> Scale {
        let most = table.figures().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let least = table.figures().filter(|figure| *figure > 0.0).fold(most, f64::min);
        if most / least < FAR {
            return Scale::Linear(most);
        }
        let low = least.log10().floor();
        Scale::Logarithmic(low, (most.log10() - low).max(1.0))
    }

    fn share(self, figure: f64) -> f64 {
        match self {
            Scale::Linear(most) => figure / most,
            Scale::Logarithmic(low, decades) => {
                ((figure.max(f64::MIN_POSITIVE).log10() - low) / decades).max(0.0)
            }
        }
    }

    /// Where a reader holds on to it: powers of ten, each ten times the one before.
    fn marks(self) -> impl Iterator<Item = f64> {
        let (low, count) = match self {
            Scale::Linear(_) => (0.0, 0),
            Scale::Logarithmic(low, decades) => (low, decades.floor() as i32 + 1),
        };
        (0..count).map(move |mark| 10f64.powf(low + f64::from(mark)))
    }
}

/// A bar for each figure, in groups by line: `unit` is that of all of them. Figures that lie far apart are
/// drawn by their logarithms.
pub fn bars(table: &Table, unit: &str) -> String {
    let scale = Scale::of(table);
    let longest = table.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * CHARACTER + 10.0).min(LABEL_MAX);
    let room = WIDTH - left - FIGURE;
    let mut body = String::new();
    let mut y = 4.0;
    let total = table.lines.iter().map(|(_, figures)| BAR * figures.len().max(1) as f64 + 6.0);
    let down: f64 = y + total.sum::<f64>();
    for mark in scale.marks() {
        let x = left + room * scale.share(mark);
        let _ = write!(
            body,
            "<path d=\"M{x:.1} 0V{down:.0}\" class=\"grid\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" class=\"tick\">{mark}</text>",
            down + 12.0
        );
    }
    for (name, figures) in &table.lines {
        let height = BAR * figures.len().max(1) as f64;
        let middle = y + height / 2.0;
        let _ = write!(
            body,
            "<text x=\"{:.0}\" y=\"{:.1}\" class=\"name\">{}</text>",
            left - 6.0,
            middle + 4.0,
            safe(name)
        );
        for (number, figure) in figures.iter().enumerate() {
            let Some(figure) = figure else { continue };
            let width = room * scale.share(*figure);
            let top = y + BAR * number as f64;
            let _ = write!(
                body,
                "<rect x=\"{left:.0}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 class=\"s{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                top + 1.0,
                BAR - 2.0,
                number % COLOURS,
                left + width + 4.0,
                top + BAR - 2.5,
                short(*figure)
            );
        }
        y += height + 6.0;
    }
    let keys = table.columns.iter().map(|name| (name.as_str(), false));
    let keys = if table.columns.len() > 1 { key(keys) } else { String::new() };
    match scale {
        Scale::Linear(_) => figure(&table.title, unit, (WIDTH, y), &body, &keys),
        Scale::Logarithmic(..) => {
            let unit = format!("{unit}, on a logarithmic scale");
            figure(&table.title, &unit, (WIDTH, y + 16.0), &body, &keys)
        }
    }
}

/// A curve for each line over the columns. Lines of one first word have one colour; those behind the first
/// of them are dashed.
pub fn curves(table: &Table, unit: &str) -> String {
    let most = table.figures().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let step = tick(most);
    let top = step * (most / step).ceil();
    let (left, bottom) = (46.0, PLOT_HEIGHT - 26.0);
    let across = (WIDTH - left - 30.0) / table.columns.len().saturating_sub(1).max(1) as f64;
    let x = |column: usize| left + across * column as f64;
    let y = |figure: f64| bottom - (bottom - 10.0) * figure / top;
    let mut body = String::new();
    for tick in 0..=(top / step).round() as u32 {
        let figure = step * f64::from(tick);
        let at = y(figure);
        let _ = write!(
            body,
            "<path d=\"M{left} {at:.1}H{WIDTH}\" class=\"grid\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" class=\"name\">{}</text>",
            left - 6.0,
            at + 4.0,
            (figure * 1e6).round() / 1e6
        );
    }
    for (column, name) in table.columns.iter().enumerate() {
        let (at, down) = (x(column), bottom + 18.0);
        let _ = write!(
            body,
            "<text x=\"{at:.0}\" y=\"{down:.0}\" class=\"tick\">{}</text>",
            safe(name)
        );
    }
    let styles = styles(table);
    for ((_, figures), (colour, dashed)) in table.lines.iter().zip(&styles) {
        let mut path = String::new();
        let mut dots = String::new();
        for (column, figure) in figures.iter().enumerate() {
            let Some(figure) = figure else { continue };
            let (x, y) = (x(column), y(*figure));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
            let _ =
                write!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"s{colour}\"/>");
        }
        let dash = if *dashed { " dashed" } else { "" };
        let _ = write!(body, "<path d=\"{path}\" class=\"curve c{colour}{dash}\"/>{dots}");
    }
    let names = table.lines.iter().map(|(name, _)| name.as_str());
    let keys = curve_key(names.zip(styles));
    figure(&table.title, unit, (WIDTH, PLOT_HEIGHT), &body, &keys)
}

/// The colour of each line, and whether it is dashed.
fn styles(table: &Table) -> Vec<(usize, bool)> {
    let first = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut seen: Vec<String> = Vec::new();
    let of = |(name, _): &(String, Vec<Option<f64>>)| {
        let name = first(name);
        match seen.iter().position(|known| *known == name) {
            Some(at) => (at % COLOURS, true),
            None => {
                seen.push(name);
                ((seen.len() - 1) % COLOURS, false)
            }
        }
    };
    table.lines.iter().map(of).collect()
}

fn figure(title: &str, unit: &str, (width, height): (f64, f64), body: &str, keys: &str) -> String {
    let title = safe(title);
    format!(
        "<figure><figcaption>{title} <small>{}</small></figcaption>{keys}\
         <svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">{body}</svg>\
         </figure>\n",
        safe(unit)
    )
}

fn key<'a>(names: impl Iterator<Item = (&'a str, bool)>) -> String {
    curve_key(names.enumerate().map(|(at, (name, dashed))| (name, (at % COLOURS, dashed))))
}

fn curve_key<'a>(names: impl Iterator<Item = (&'a str, (usize, bool))>) -> String {
    let mut text = String::from("<ul>");
    for (name, (colour, dashed)) in names {
        let dash = if dashed { " dashed" } else { "" };
        let _ = write!(
            text,
            "<li><svg viewBox=\"0 0 24 {LINE}\"><path d=\"M0 9H24\" class=\"curve c{colour}{dash}\"/>\
             </svg>{}</li>",
            safe(name)
        );
    }
    text + "</ul>"
}

/// A round step of which three to eight reach so far.
fn tick(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
    steps.into_iter().find(|step| most / step <= 6.0).unwrap_or(10.0 * power)
}

/// Three digits, as far as they say something.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{figure:.2}"),
        ..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for most in [0.003, 0.07, 0.9, 1.0, 4.4, 5.9, 6.1, 73.0, 99_999.0] {
            let step = tick(most);
            let count = (most / step).ceil();
            assert!((2.0..=6.0).contains(&count), "{most}: {count} of {step}");
        }
    }

    #[test]
    fn libraries_of_one_suite_share_a_colour() {
        let mut table = Table::new("seal".to_owned());
        for line in ["a one", "a two", "b one"] {
            table.add(line, "64", 1.0);
        }
        assert_eq!(styles(&table), [(0, false), (0, true), (1, false)]);
        let drawn = curves(&table, "GiB/s");
        assert_eq!(
            drawn.matches("class=\"curve c0\"").count(),
            2,
            "its line, and its key: {drawn}"
        );
    }

    #[test]
    fn figures_far_apart_are_drawn_by_their_logarithms() {
        let mut table = Table::new("case".to_owned());
        table.add("near", "us", 20.0);
        table.add("far", "us", 1500.0);
        assert_eq!(Scale::of(&table), Scale::Linear(1500.0));
        table.add("farther", "us", 20_000.0);
        let scale = Scale::of(&table);
        assert_eq!(scale.marks().collect::<Vec<_>>(), [10.0, 100.0, 1000.0, 10_000.0]);
        assert!(scale.share(10.0).abs() < 1e-9 && (scale.share(20_000.0) - 1.0).abs() < 1e-9);
        assert!(bars(&table, "us").contains("us, on a logarithmic scale"));
    }

    #[test]
    fn the_longest_bar_is_the_largest_figure() {
        let mut table = Table::new("case".to_owned());
        for (line, figure) in [("short", 1.0), ("long", 4.0)] {
            table.add(line, "us", figure);
        }
        let drawn = bars(&table, "us");
        let widths: Vec<f64> = drawn
            .split("width=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2, "{drawn}");
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
    }
}
