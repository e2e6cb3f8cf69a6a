//! A checker of Prometheus' text format, as far as a gateway uses it.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: its labels, sorted, and its value.
pub type Sample = (BTreeMap<String, String>, f64);

/// What a text has, by the names of samples. Panics where it is not well formed.
pub fn check(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::<String, Vec<Sample>>::new());
    let (mut current, mut over) = (String::new(), BTreeSet::new());
    assert!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let (what, name) = (words.next().expect("HELP or TYPE"), words.next().expect("a name"));
            let rest = words.next().unwrap_or_default();
            if name != current {
                assert!(over.insert(name.to_owned()), "{name} stands apart in two places");
                current = name.to_owned();
            }
            match what {
                "HELP" => assert!(!rest.is_empty(), "{name} has no help"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    assert!(kinds.insert(name.to_owned(), rest.to_owned()).is_none(), "{line}");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, sample) = read(line);
        let kind = kinds.get(&current).unwrap_or_else(|| panic!("no TYPE: {line}"));
        let end =
            name.strip_prefix(&*current).unwrap_or_else(|| panic!("not of {current}: {line}"));
        match &**kind {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&end), "{line}"),
            "counter" => assert!(end.is_empty() && name.ends_with("_total"), "{line}"),
            _ => assert!(end.is_empty(), "{line}"),
        }
        let known = samples.entry(name).or_default();
        assert!(known.iter().all(|(labels, _)| *labels != sample.0), "twice: {line}");
        known.push(sample);
    }
    for (name, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        check_histogram(name, &samples);
    }
    samples
}

/// A sample's name, labels and value.
fn read(line: &str) -> (String, Sample) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = line.chars().take_while(|c| is_name(*c)).collect();
    assert!(!name.is_empty(), "{line}");
    let mut rest = &line[name.len()..];
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').and_then(|value| value.parse().ok());
    (name, (labels, value.unwrap_or_else(|| panic!("no value: {line}"))))
}

/// A label's value, and what is behind its quote.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().expect("more").1 {
                'n' => value.push('\n'),
                c @ ('\\' | '"') => value.push(c),
                c => panic!("\\{c} is no escape"),
            },
            c => value.push(c),
        }
    }
    panic!("no end of {text}");
}

/// Buckets grow with their bounds, and the last one has all.
fn check_histogram(name: &str, samples: &BTreeMap<String, Vec<Sample>>) {
    let of = |end: &str| samples.get(&format!("{name}{end}")).cloned().unwrap_or_default();
    let mut series = BTreeMap::<_, Vec<(f64, f64)>>::new();
    for (mut labels, count) in of("_bucket") {
        let bound = labels.remove("le").expect("a bucket has a bound");
        series.entry(labels).or_default().push((bound.parse().expect("a number"), count));
    }
    assert!(!series.is_empty(), "{name} has no buckets");
    for (labels, buckets) in series {
        let grows = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        assert!(buckets.windows(2).all(grows), "{name} {labels:?}: {buckets:?}");
        let last = buckets.last().expect("one");
        let value = |end: &str| {
            let found = of(end).into_iter().find(|(other, _)| *other == labels);
            found.unwrap_or_else(|| panic!("{name}{end} {labels:?}")).1
        };
        assert_eq!((last.0, last.1), (f64::INFINITY, value("_count")), "{name} {labels:?}");
        assert!(value("_sum") >= 0.0);
    }
}
