//! The moduli file of group exchange (RFC 4419).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::config::Global;
use crate::crypto::KexKind;
use crate::crypto::kex::Moduli;
use crate::limits::MODULI_BYTES_MAX;

/// The groups of a configuration; none where group exchange is off. A file that cannot be read
/// leaves the fixed groups, as in sshd, and a line that cannot be used leaves the others: both are
/// told.
pub fn load(config: &Global) -> Arc<Moduli> {
    if !config.kex_algorithms.contains(&KexKind::DhGroupExchange) {
        return Arc::default();
    }
    let path = &config.moduli_file;
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => {
            let path = path.display();
            warn!(%path, %why, "ModuliFile {path}: {why}; group exchange uses the fixed groups");
            return Arc::default();
        }
    };
    let (moduli, bad) = Moduli::parse(&text);
    let path = path.display();
    for bad in bad.iter().take(WARNINGS_MAX) {
        warn!(%path, line = bad.line, "ModuliFile {path}: {bad}; the line is left out");
    }
    if moduli.is_empty() {
        warn!(%path, "ModuliFile {path} has no group of 2048 to 8192 bits; the fixed groups are used");
    }
    Arc::new(moduli)
}

/// Lines of one file that are told of.
const WARNINGS_MAX: usize = 10;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.take(MODULI_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MODULI_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {MODULI_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_leaves_the_fixed_groups() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("moduli");
        let mut config = Global { moduli_file: path.clone(), ..Global::default() };
        config.kex_algorithms = vec![KexKind::DhGroupExchange];
        assert!(load(&config).is_empty(), "missing");
        let line = |prime: &[u8]| {
            let digits: String = prime.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("20260101000000 2 6 100 2047 2 {digits}\n")
        };
        let prime = KexKind::DhGroup14.group().expect("a group").prime();
        std::fs::write(&path, format!("nonsense\n{}", line(&prime))).expect("written");
        assert!(!load(&config).is_empty());
        config.kex_algorithms = KexKind::DEFAULT.to_vec();
        assert!(load(&config).is_empty(), "not asked for");
        config.kex_algorithms = vec![KexKind::DhGroupExchange];
        config.moduli_file = folder.path().to_owned();
        assert!(load(&config).is_empty(), "a folder");
    }
}
