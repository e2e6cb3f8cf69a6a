//! Figures in the text format of Prometheus, of one gateway or of several together.

use std::collections::HashMap;

use super::figures::object;
use super::text::harmless;

/// One metric with the samples of all gateways.
#[derive(Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    samples: Vec<String>,
}

/// What follows a family's name in the names of its samples.
const ENDS: [&str; 5] = ["_bucket", "_sum", "_count", "_total", "_created"];

/// Reads an answer to `metrics`.
///
/// # Errors
/// The gateway's own, or that this is no answer.
pub fn read(answer: Vec<u8>) -> Result<String, String> {
    if matches!(answer.first(), None | Some(b'{')) {
        object(&answer)?;
    }
    let text = String::from_utf8(answer).map_err(|_| "its answer is no text".to_owned())?;
    if !text.starts_with('#') {
        return Err("its answer is no metrics".to_owned());
    }
    if !text.ends_with('\n') {
        return Err("its answer is cut off".to_owned());
    }
    Ok(text)
}

/// Every metric once, with what each gateway says of it, as the format wants it. Samples get a label with
/// the gateway's name, where it has one here.
pub fn merge(texts: &[(Option<String>, String)]) -> String {
    let (mut order, mut families) = (Vec::new(), HashMap::<String, Family>::new());
    let mut of = |name: &str, change: &mut dyn FnMut(&mut Family)| {
        if !families.contains_key(name) {
            order.push(name.to_owned());
        }
        change(families.entry(name.to_owned()).or_default());
    };
    for (gateway, text) in texts {
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), rest) => {
                    current = name.to_owned();
                    let rest = rest.unwrap_or_default();
                    of(name, &mut |family| {
                        let place =
                            if what == "HELP" { &mut family.help } else { &mut family.kind };
                        place.get_or_insert_with(|| rest.to_owned());
                    });
                }
                // A remark.
                _ if line.starts_with('#') => {}
                _ => {
                    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
                    let is_of = name == current
                        || ENDS.iter().any(|end| name.strip_suffix(end) == Some(&*current));
                    let family = if is_of { &*current } else { name };
                    let sample = labelled(name, rest, gateway.as_deref());
                    of(family, &mut |family| family.samples.push(sample.clone()));
                }
            }
        }
    }
    let mut out = String::new();
    for name in order {
        let Some(family) = families.remove(&name) else { continue };
        let about = [("HELP", family.help), ("TYPE", family.kind)];
        let about = about.into_iter().filter_map(|(what, text)| Some((what, text?)));
        let about = about.map(|(what, text)| format!("# {what} {name} {text}"));
        for line in about.chain(family.samples) {
            // Backslashes stand in pairs in what is quoted there.
            out += harmless(&line, "\\").trim_end();
            out.push('\n');
        }
    }
    out
}

fn labelled(name: &str, rest: &str, gateway: Option<&str>) -> String {
    match (gateway, rest.strip_prefix('{')) {
        (None, _) => format!("{name}{rest}"),
        (Some(gateway), None) => format!("{name}{{gateway=\"{gateway}\"}}{rest}"),
        (Some(gateway), Some(rest)) => {
            let comma = if rest.starts_with('}') { "" } else { "," };
            format!("{name}{{gateway=\"{gateway}\"{comma}{rest}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# HELP a_total What it is.\n# TYPE a_total counter\na_total 1\n\
        # TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4\nh_count 3\n";

    #[test]
    fn every_family_stands_once_with_the_samples_of_all() {
        let other =
            "# TYPE h histogram\nh_count 9\n# remark\nb{} 7\n# TYPE a_total counter\na_total 2\n";
        let both =
            [(Some("5".to_owned()), ONE.to_owned()), (Some("6".to_owned()), other.to_owned())];
        assert_eq!(
            merge(&both),
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total{gateway=\"5\"} 1\n\
             a_total{gateway=\"6\"} 2\n# TYPE h histogram\nh_bucket{gateway=\"5\",le=\"1\"} 2\n\
             h_bucket{gateway=\"5\",le=\"+Inf\"} 3\nh_sum{gateway=\"5\"} 4\nh_count{gateway=\"5\"} 3\n\
             h_count{gateway=\"6\"} 9\nb{gateway=\"6\"} 7\n"
        );
        assert_eq!(merge(&[(None, ONE.to_owned())]), ONE);
        assert_eq!(merge(&[]), "");
    }

    #[test]
    fn what_is_no_answer_is_told() {
        assert_eq!(read(ONE.into()).as_deref(), Ok(ONE));
        for (answer, part) in [
            ("", "nothing"),
            ("{\"error\":\"no\"}\n", "no"),
            ("{}\n", "no metrics"),
            ("hello\n", "no metrics"),
            ("# TYPE a cou", "cut off"),
        ] {
            assert_eq!(
                read(answer.into()).map_err(|why| why.contains(part)),
                Err(true),
                "{answer}"
            );
        }
        assert!(read(b"# \xff\n".to_vec()).is_err());
    }

    #[test]
    fn cases_120_130_labels_move_no_cursor_and_stay_labels() {
        let text = "# TYPE a gauge\na{name=\"\x1b\\\\\\\"\u{202e}\"} 1\n".to_owned();
        let merged = merge(&[(None, text)]);
        assert_eq!(merged, "# TYPE a gauge\na{name=\"\\\\x1b\\\\\\\"\\\\u{202e}\"} 1\n");
    }
}
