//! Replays every input that a fuzzer's target has been given for keeps: seeds made by our own
//! encoders, and whatever once failed.
//!
//! `TIDEGATE_WRITE_SEEDS=1 cargo test --test corpus` writes the seeds anew.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tidegate::fuzzing::TARGETS;

#[path = "corpus/seeds.rs"]
mod seeds;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_kept_still_passes() {
    if std::env::var_os("TIDEGATE_WRITE_SEEDS").is_some() {
        write_seeds();
    }
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let inputs = files(&root().join("tests/corpus").join(name));
        assert!(inputs.len() >= 3, "{name} has no corpus in tests/corpus");
        for path in inputs {
            let data = fs::read(&path).expect("a readable input");
            if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "targets failed on {failed:#?}");
}

/// Seeds that say nothing any more would be replayed for ever and find nothing.
#[test]
fn the_seeds_are_what_our_encoders_make() {
    if std::env::var_os("TIDEGATE_WRITE_SEEDS").is_some() {
        return;
    }
    let mut names = BTreeSet::new();
    for (target, name, bytes) in seeds::all() {
        assert!(names.insert((target, name.clone())), "two seeds are called {target}/{name}");
        let path = root().join("tests/corpus").join(target).join(name);
        let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(kept == bytes, "{} is out of date: see the top of this file", path.display());
    }
}

#[test]
fn targets_folders_and_files_agree() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted(), "the table of targets is out of order");
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let mut folders = files(&root().join("tests/corpus"));
    folders.retain(|path| path.is_dir());
    assert_eq!(folders.iter().map(stem).collect::<Vec<_>>(), names, "tests/corpus");
    let entries = files(&root().join("tests/fuzz/fuzz_targets"));
    assert_eq!(entries.iter().map(stem).collect::<Vec<_>>(), names, "tests/fuzz/fuzz_targets");
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).expect("a manifest");
    for (entry, name) in entries.iter().zip(&names) {
        let text = fs::read_to_string(entry).expect("a target");
        assert!(text.contains(&format!("tidegate::fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in Cargo.toml");
    }
}

fn write_seeds() {
    let place = |target: &str, name: &str| {
        let folder = root().join("tests/corpus").join(target);
        fs::create_dir_all(&folder).expect("a folder");
        folder.join(name)
    };
    for (target, name, bytes) in seeds::all() {
        fs::write(place(target, &name), bytes).expect("written");
    }
    for (target, name, bytes) in seeds::kept() {
        let path = place(target, &name);
        if !path.exists() {
            fs::write(path, bytes).expect("written");
        }
    }
}
