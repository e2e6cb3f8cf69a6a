//! Files with holes: what is not there is not sent, and is read as zeros all the same.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::lost::{cp_over, line};
use crate::server::{both, text};
use crate::support::noise;
use crate::{folder, here, parts, run_well, there};

const SIZE: u64 = 300 << 20;
/// Where there is data, and how much; the second is behind more than anything that is under way.
const DATA: [(u64, usize); 3] = [(0, 3 << 20), (150 << 20, 5 << 20), (200 << 20, 10)];
/// What the connection carries: the data and little more.
const CARRIED: i64 = 12 << 20;

fn sparse(path: &Path) {
    let file = File::create(path).expect("a file");
    for (at, len) in DATA {
        file.write_all_at(&noise(len, at), at).expect("data");
    }
    file.set_len(SIZE).expect("a hole to the end");
}

fn is_it(path: &Path) {
    let file = File::open(path).expect("it is there");
    assert_eq!(file.metadata().expect("it").len(), SIZE);
    let mut expected = vec![0; SIZE as usize];
    for (at, len) in DATA {
        expected[at as usize..][..len].copy_from_slice(&noise(len, at));
    }
    let mut found = vec![1; SIZE as usize];
    file.read_exact_at(&mut found, 0).expect("it is read");
    assert!(found == expected, "something else was copied");
}

fn bytes_on_disk(path: &Path) -> u64 {
    fs::metadata(path).expect("it").blocks() * 512
}

#[test]
fn holes_are_not_sent_and_stay_holes() {
    both(&[], |server| {
        let place = folder(server, "place");
        let (from, to) = (server.path("from"), place.join("to"));
        sparse(&from);
        assert!(bytes_on_disk(&from) < 9 << 20, "this file system has no holes");
        for words in [&[][..], &["--streams", "3"]] {
            let _ = fs::remove_file(&to);
            // Were the holes sent, the connection would end before.
            let port = line(server, &[CARRIED, 0]);
            let (source, target) = (here(&from), there(&to));
            let words = [&["--retries", "0", &source, &target], words].concat();
            let output = cp_over(server, port, &words).output().expect("it runs");
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            is_it(&to);
            assert!(bytes_on_disk(&to) < 9 << 20, "{} bytes there", bytes_on_disk(&to));
        }
        // Over what has none.
        fs::write(&to, noise(20 << 20, 4)).expect("a file");
        run_well(server, &["--fsync", "-p", &here(&from), &there(&to)]);
        is_it(&to);
    });
}

/// What an interrupted copy has left, of whatever content, shows through no hole.
#[test]
fn a_copy_with_holes_goes_on_and_believes_nothing_that_may_be_one() {
    both(&[], |server| {
        let place = folder(server, "place");
        let (from, to) = (server.path("from"), place.join("to"));
        sparse(&from);
        // Lost in the second stretch of data, and gone on with by the same command.
        let output =
            cp_over(server, line(server, &[6 << 20, i64::MAX]), &[&here(&from), &there(&to)])
                .output()
                .expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("; 1 retry") && said.contains("went on behind"), "{said}");
        is_it(&to);
        // A part file that is somebody's noise where the source has a hole.
        let _ = fs::remove_file(&to);
        let port = line(server, &[6 << 20, 0]);
        let words = ["--retries", "0", &here(&from), &there(&to)];
        let output = cp_over(server, port, &words).output().expect("it runs");
        assert_ne!(output.status.code(), Some(0));
        let part = parts(&place).pop().expect("a part");
        let part = File::options().write(true).open(part).expect("it");
        part.write_all_at(&noise(60 << 20, 1), 4 << 20).expect("noise");
        run_well(server, &[&here(&from), &there(&to)]);
        is_it(&to);
    });
}
