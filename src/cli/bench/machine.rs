//! What a figure was measured on: without it no figure says anything.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine and the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    /// Logical CPUs this process may use.
    pub cpus: usize,
    /// What the CPU offers to ciphers and hashes, by the names of /proc/cpuinfo.
    pub features: Vec<String>,
    pub kernel: String,
    /// The load average of the last minute, as /proc/loadavg says.
    pub load: String,
    pub tidegate: String,
    /// The commit the program was built from, where the build was told (`TIDEGATE_COMMIT`).
    pub commit: Option<String>,
    /// Name and version of each library that does the arithmetic.
    pub libraries: Vec<String>,
}

/// Flags of /proc/cpuinfo that make SSH faster: x86-64's first, then those of 64-bit ARM.
const FEATURES: &[&str] = &[
    "aes",
    "pclmulqdq",
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "vaes",
    "vpclmulqdq",
    "sha_ni",
    "adx",
    "bmi2",
    "asimd",
    "pmull",
    "sha1",
    "sha2",
    "sha3",
    "sha512",
    "sve",
];

/// What `Cargo.lock` says this build was made with.
const LOCK: &str = include_str!("../../../Cargo.lock");

impl Machine {
    /// This machine, as far as it tells.
    pub fn look() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let uname = nix::sys::utsname::uname();
        let kernel = uname.map_or_else(
            |_| "unknown".to_owned(),
            |name| {
                let words = [name.sysname(), name.release(), name.machine()];
                words.map(|word| word.to_string_lossy().into_owned()).join(" ")
            },
        );
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            cpu: cpu_name(&cpuinfo),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            features: features(&cpuinfo),
            kernel,
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            tidegate: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("TIDEGATE_COMMIT").map(str::to_owned),
            libraries: libraries(),
        }
    }
}

fn field<'a>(cpuinfo: &'a str, names: &[&str]) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then(|| value.trim())
    })
}

fn cpu_name(cpuinfo: &str) -> String {
    let arm = || {
        let part = field(cpuinfo, &["CPU part"])?;
        let maker = field(cpuinfo, &["CPU implementer"])?;
        Some(format!("ARM implementer {maker} part {part}"))
    };
    let named = field(cpuinfo, &["model name"]).map(str::to_owned);
    named.or_else(arm).unwrap_or_else(|| "unknown".to_owned())
}

fn features(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, &["flags", "Features"]).unwrap_or_default();
    let has = |name: &&&str| flags.split(' ').any(|flag| flag == **name);
    FEATURES.iter().filter(has).map(|name| (*name).to_owned()).collect()
}

fn libraries() -> Vec<String> {
    let wanted: &[&str] = if cfg!(feature = "ring") {
        &["aws-lc-rs", "aws-lc-sys", "ring"]
    } else {
        &["aws-lc-rs", "aws-lc-sys"]
    };
    let version = |name: &&str| {
        let entry = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
        Some(format!("{name} {}", entry.split('"').next()?))
    };
    wanted.iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_architectures_are_read() {
        let x86 = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu aes vaes aesx\n";
        assert_eq!(cpu_name(x86), "Some CPU @ 3 GHz");
        assert_eq!(features(x86), ["aes", "vaes"]);
        let arm = "CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp aes pmull sha2\n";
        assert_eq!(cpu_name(arm), "ARM implementer 0x41 part 0xd40");
        assert_eq!(features(arm), ["aes", "pmull", "sha2"]);
        assert_eq!((cpu_name(""), features("").len()), ("unknown".to_owned(), 0));
    }

    #[test]
    fn the_libraries_are_those_of_the_build() {
        let libraries = libraries();
        assert!(libraries.iter().any(|line| line.starts_with("aws-lc-rs 1.")), "{libraries:?}");
        assert_eq!(libraries.len(), if cfg!(feature = "ring") { 3 } else { 2 });
    }
}
