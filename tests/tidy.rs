//! The house rules that a compiler does not know: floors, file sizes, where `unsafe` may stand,
//! files nobody declares, attacks without a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules and their floors; a module imports only from floors below its own.
const FLOORS: &[(&str, u8)] = &[
    ("base", 0),
    ("limits", 0),
    ("wire", 1),
    ("crypto", 2),
    ("transport", 3),
    ("connection", 4),
    ("reactor", 5),
    ("services", 6),
    ("shard", 7),
    ("gateway", 8),
    ("client", 9),
    ("observe", 9),
    ("cli", 10),
    ("fuzzing", 10),
];

/// Where `unsafe` may stand: the reactor's ring and pool, the edges to system calls that no safe
/// wrapper covers, and the one call into code compiled for a CPU that was asked what it is.
const UNSAFE_FOLDERS: &[&str] =
    &["src/reactor/", "src/services/", "src/gateway/", "src/base/wide.rs"];

const FILE_LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every Rust file below `folder`: its path from the root, and its text.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        (name, fs::read_to_string(&path).expect("a text file"))
    };
    paths.into_iter().map(read).collect()
}

/// Files that are tests as a whole; their modules are declared under `cfg(test)`.
fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.ends_with("bench.rs") || name.contains("/tests/")
}

/// Code without comments and without the tests at its bottom.
fn production(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Our modules named after `crate::` anywhere in the code, grouped imports included.
fn imports(code: &str) -> BTreeSet<String> {
    let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let compact = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for (at, mark) in compact.match_indices("crate::") {
        let rest = &compact[at + mark.len()..];
        let items: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        let names = items.iter().map(|item| item.trim().chars().take_while(is_word).collect());
        found.extend(names.filter(|name: &String| floor_of(name).is_some()));
    }
    found
}

#[test]
fn modules_import_only_lower_floors() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files("src") {
        let module = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        let Some(floor) = floor_of(module) else { continue };
        for import in imports(&production(&text)) {
            let other = floor_of(&import).expect("known");
            let meets = module == "reactor" && (1..=4).contains(&other);
            if import != module && (other > floor || meets) {
                wrong.push(format!("{name} (floor {floor}) imports {import} (floor {other})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    for line in text.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        assert!(floor_of(module).is_some(), "{module} has no floor in tests/tidy.rs");
    }
}

/// Lines of a gateway's log come a moment after what they tell of: `tells` waits for them.
#[test]
fn tests_do_not_look_into_a_log_once() {
    let owners = ["gateway", "self.gateway", "site.gateway", "site"];
    for (name, text) in rust_files("tests") {
        let compact = text.split_whitespace().collect::<String>();
        for owner in owners {
            let once = format!("assert!({owner}.log().contains(");
            assert!(!compact.contains(&once), "{name}: {once}");
        }
    }
}

#[test]
fn unsafe_stays_at_the_edges() {
    for (name, text) in rust_files("src") {
        let code = production(&text);
        let mut words = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        if words.any(|word| word == "unsafe") {
            let allowed = UNSAFE_FOLDERS.iter().any(|folder| name.starts_with(folder));
            assert!(allowed, "{name} uses unsafe; only {UNSAFE_FOLDERS:?} may");
        }
    }
}

#[test]
fn files_are_small_and_finished() {
    let marks = ["todo!(", "unimplemented!(", "FIXME", "XXX"];
    let mut wrong = Vec::new();
    for (name, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{name} has {lines} lines; {FILE_LINES_MAX} is the most"));
        }
        let unfinished = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        if name != "tests/tidy.rs" {
            wrong.extend(text.lines().filter(unfinished).map(|line| format!("{name}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_declared() {
    let files = rust_files("src");
    let mut wrong = Vec::new();
    for (name, _) in &files {
        let path = Path::new(name);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if name == "src/lib.rs" || name == "src/main.rs" {
            continue;
        }
        let folder = path.parent().expect("a folder");
        let (module, folder) = match stem {
            "mod" => {
                let own = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                (own, folder.parent().expect("a folder"))
            }
            _ => (stem, folder),
        };
        let parents = [folder.join("mod.rs"), folder.join("lib.rs"), folder.with_extension("rs")];
        let declared = files.iter().any(|(parent, text)| {
            let declaration = format!("mod {module};");
            parents.iter().any(|path| Path::new(parent) == path)
                && text.lines().any(|line| line.trim_end().ends_with(&declaration))
        });
        if !declared {
            wrong.push(format!("no module declares {name}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_protocol_floors_know_no_clock_and_no_io() {
    let banned = [
        "std::net::Tcp",
        "std::fs",
        "std::io::Read",
        "std::thread",
        "SystemTime",
        "Instant::now",
        "tracing::",
        "println!",
        "nix::",
        "libc::",
    ];
    let mut wrong = Vec::new();
    for floor in ["src/wire", "src/crypto", "src/transport", "src/connection"] {
        for (name, text) in rust_files(floor).into_iter().filter(|(name, _)| !is_test(name)) {
            let code = production(&text);
            let seen = banned.iter().filter(|word| code.contains(**word));
            wrong.extend(seen.map(|word| format!("{name} uses {word}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The numbers of docs/security-cases.md.
const CASES: std::ops::RangeInclusive<u32> = 1..=137;

/// The loads and failures.
const LOADS: &str = "R1 R2 R3 R3b R4 R5 R6 R7 R8 R9 R10 R11 R12 R12b R13 R14 R15 R16 R17 R18 R19 R20 \
    R21 R22 R23 R24 R25 R26 R27 R28 R29 R30 R31";

/// Whether the name of a test bears a number: by itself, or between two with `to` in the middle.
fn bears(test: &str, number: u32) -> bool {
    let words: Vec<&str> = test.split('_').collect();
    let alone = words.iter().any(|word| word.trim_start_matches('r').parse() == Ok(number));
    let between = words.windows(3).any(|words| {
        let ends = (words[0].parse::<u32>(), words[2].parse::<u32>());
        words[1] == "to" && matches!(ends, (Ok(from), Ok(to)) if (from..=to).contains(&number))
    });
    alone || between
}

/// What is wrong with the tests that a row names.
fn wrong_tests(number: u32, tests: &str, files: &[(String, String)]) -> Vec<String> {
    let (mut wrong, mut borne, mut text) = (Vec::new(), false, None);
    for word in tests.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            text = files.iter().find(|(name, _)| name == word).map(|(_, text)| text);
            if text.is_none() {
                wrong.push(format!("case {number}: no file {word}"));
            }
        } else {
            let is_test = text.is_some_and(|text| {
                let start = text.find(&format!("fn {word}("));
                let before = start.map(|start| text[..start].trim_end());
                before.is_some_and(|before| before.ends_with("#[test]"))
            });
            if !is_test {
                wrong.push(format!("case {number}: no test {word} in the file named before it"));
            }
            borne |= bears(word, number);
        }
    }
    let waits = tests.contains("waits for: ");
    if text.is_none() && !waits {
        wrong.push(format!("case {number} has no test and does not say what it waits for"));
    } else if text.is_some() && !borne {
        wrong.push(format!("case {number}: none of its tests bears the number"));
    }
    wrong
}

#[test]
fn every_attack_has_a_test_or_says_what_it_waits_for() {
    let files: Vec<_> = rust_files("src").into_iter().chain(rust_files("tests")).collect();
    let table = fs::read_to_string(root().join("docs/security-cases.md")).expect("the table");
    let mut wanted = CASES;
    let (mut wrong, mut loads) = (Vec::new(), Vec::new());
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0]
            .strip_prefix('R')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            loads.push(cells[0].to_owned());
            wrong.extend(wrong_load(&cells, &files));
            continue;
        }
        let Ok(number) = cells[0].parse() else { continue };
        assert_eq!(wanted.next(), Some(number), "the next row of docs/security-cases.md");
        assert_eq!(cells.len(), 3, "case {number}: number, attack, tests");
        // What waits may name commands in the same quotes.
        let tests = cells[2].split("waits for: ").next().unwrap_or_default();
        let waits = if tests.len() < cells[2].len() { "waits for: " } else { "" };
        wrong.extend(wrong_tests(number, &format!("{tests}{waits}"), &files));
    }
    assert_eq!(wanted.next(), None, "a case is missing at the end of docs/security-cases.md");
    let all: Vec<String> = LOADS.split_whitespace().map(str::to_owned).collect();
    assert_eq!(loads, all, "the rows of loads and failures");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a row about a load or a failure: it names tests, what measured it, what it
/// waits for, or why it cannot apply.
fn wrong_load(cells: &[&str], files: &[(String, String)]) -> Vec<String> {
    let says = ["waits for: ", "measured: ", "cannot apply: "].iter().any(|w| cells[2].contains(w));
    let tests = cells[2].split("waits for: ").next().unwrap_or_default();
    let tests = tests.split("measured: ").next().unwrap_or_default();
    let marker = if says { "waits for: " } else { "" };
    let mut wrong = wrong_tests(0, &format!("{tests}{marker}"), files);
    wrong.retain(|line| !line.ends_with("bears the number"));
    wrong.iter().map(|line| format!("{}: {line}", cells[0])).collect()
}

#[test]
fn names_of_tests_bear_their_numbers() {
    assert!(bears("case_4_control", 4) && bears("cases_42_43_forms", 43));
    assert!(bears("cases_1_to_6_identifications", 5) && bears("case_44_and_46_keys", 46));
    assert!(!bears("case_14_marker", 4) && !bears("cases_1_to_6_x", 7));
    let files = vec![("a.rs".to_owned(), "#[test]\nfn case_7_x() {}\nfn case_8_y() {}".to_owned())];
    let count = |number, tests| wrong_tests(number, tests, &files).len();
    assert_eq!(count(7, "`a.rs`: `case_7_x`"), 0);
    assert_eq!(count(8, "`a.rs`: `case_7_x`"), 1, "another's number");
    assert_eq!(count(8, "`a.rs`: `case_8_y`"), 1, "no test");
    assert_eq!(count(7, "`a.rs`: `case_7_z`"), 1, "no such function");
    assert_eq!(count(7, "`b.rs`: `case_7_x`"), 3, "no such file");
    assert_eq!((count(7, ""), count(7, "waits for: ")), (1, 0));
}

/// SECURITY case 48: no key is ever used to decrypt by RSA, so there is no oracle; and the crate
/// that cannot do it in constant time (RUSTSEC-2023-0071) is not there.
#[test]
fn case_48_nothing_decrypts_by_rsa() {
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let lock = fs::read_to_string(root().join(lock)).expect("a lock file");
        assert!(lock.contains("name = \"aws-lc-rs\""), "a lock file of ours");
        assert!(!lock.lines().any(|line| line == "name = \"rsa\""), "the crate rsa is locked");
    }
    let names = ["PrivateDecryptingKey", "OaepPrivate", "Pkcs1Private", "RSA_private_decrypt"];
    for (name, text) in rust_files("src") {
        let found = names.iter().find(|word| text.contains(**word));
        assert!(found.is_none(), "{name} uses {found:?}");
    }
}

/// Crates below these versions have known defects (RustSec); `.cargo/deny.toml` says the same to
/// `cargo deny`.
const DEFECTIVE_BELOW: [(&str, [u32; 3]); 11] = [
    ("anyhow", [1, 0, 103]),
    ("bcrypt", [0, 19, 2]),
    ("cmov", [0, 4, 4]),
    ("rand", [0, 10, 1]),
    ("tracing-subscriber", [0, 3, 20]),
    ("slab", [0, 4, 11]),
    ("crossbeam-channel", [0, 5, 15]),
    ("crossbeam-epoch", [0, 9, 20]),
    ("ring", [0, 17, 12]),
    ("aws-lc-sys", [0, 39, 0]),
    ("mio", [0, 8, 11]),
];

#[test]
fn case_137_no_dependency_is_known_to_be_defective() {
    let deny = fs::read_to_string(root().join(".cargo/deny.toml")).expect("a list");
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let lock = fs::read_to_string(root().join(lock)).expect("a lock file");
        for (name, least) in DEFECTIVE_BELOW {
            let [major, minor, patch] = least;
            let line = format!("{{ name = \"{name}\", version = \"<{major}.{minor}.{patch}\" }}");
            assert!(deny.contains(&line), "{line} is not in .cargo/deny.toml");
            let start = format!("name = \"{name}\"\nversion = \"");
            let found = lock.split(&start).skip(1);
            let versions = found.map(|rest| rest.split('"').next().unwrap_or_default());
            let mut count = 0;
            for version in versions {
                count += 1;
                let numbers: Vec<u32> =
                    version.split('.').map(|part| part.parse().unwrap_or(0)).collect();
                assert!(numbers.as_slice() >= least.as_slice(), "{name} {version}");
            }
            // The fuzzing crate does without the second provider, and without tests of ours.
            let elsewhere = ["ring", "rand"].contains(&name);
            assert!(count > 0 || elsewhere, "{name} is not locked: take it off the list");
        }
        for banned in ["tokio", "async-std", "openssl", "openssl-sys", "rustls"] {
            assert!(!lock.contains(&format!("name = \"{banned}\"\n")), "{banned} is locked");
        }
    }
}

/// SECURITY R22: the clock on the wall may be set at any time. Sessions, rekeys and penalties are
/// timed by the other one; only certificates, accounts, codes and records ask for the date.
#[test]
fn r22_protocol_and_event_loop_do_not_know_the_date() {
    let floors = ["base", "wire", "crypto", "transport", "connection", "reactor", "shard"];
    for (name, text) in rust_files("src") {
        let floor = name.split('/').nth(1).unwrap_or_default();
        let dated = ["SystemTime", "CLOCK_REALTIME"].iter().any(|word| text.contains(word));
        assert!(!dated || !floors.contains(&floor), "{name} asks for the date");
    }
}
