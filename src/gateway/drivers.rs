//! Which driver a shard runs on: io_uring where the kernel lets us, otherwise mio.

use std::io;

use super::config::DriverChoice;
use crate::limits::{RING_COMPLETIONS_ALONE, RING_SUBMISSIONS_ALONE};
use crate::reactor::{MioConfig, MioDriver, UringConfig, UringDriver};

/// A driver of either kind. Whoever runs a shard on it does so for each kind apart, so that the
/// choice costs nothing on the data path.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one a thread, and it is taken apart at once"
)]
pub enum Opened {
    Uring(UringDriver),
    /// With the reason why it is not io_uring, unless mio was asked for.
    Mio(MioDriver, Option<io::Error>),
}

/// Makes a driver on the calling thread, to which it belongs.
///
/// # Errors
/// What was asked for cannot be had, or the process is out of descriptors or memory.
pub fn open(choice: DriverChoice) -> io::Result<Opened> {
    open_as(choice, Manner::default())
}

/// What a driver is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// [`UringConfig::confined`].
    pub confined: bool,
    /// The process serves one connection. Its ring is small, and where the kernel has no room for one
    /// more it goes on with mio, whatever was asked for: the gateway has long begun.
    pub alone: bool,
}

/// The same in this manner.
///
/// # Errors
/// As [`open`].
pub fn open_as(choice: DriverChoice, manner: Manner) -> io::Result<Opened> {
    let Manner { confined, alone } = manner;
    let usual = UringConfig { confined, ..UringConfig::default() };
    let config = match alone {
        false => usual,
        true => UringConfig {
            submissions: RING_SUBMISSIONS_ALONE,
            completions: RING_COMPLETIONS_ALONE,
            ..usual
        },
    };
    let refusal = match choice {
        DriverChoice::Mio => None,
        DriverChoice::Auto | DriverChoice::Uring => match UringDriver::new(config) {
            Ok(driver) => return Ok(Opened::Uring(driver)),
            Err(why) if alone && why.kind() == io::ErrorKind::OutOfMemory => Some(why),
            Err(why) if choice == DriverChoice::Uring => {
                let text = format!("{why}; TidegateDriver auto or --driver mio does without it");
                return Err(io::Error::new(why.kind(), text));
            }
            Err(why) => Some(why),
        },
    };
    Ok(Opened::Mio(MioDriver::new(MioConfig::default())?, refusal))
}

impl Opened {
    /// One line for the log, and whether it is a warning.
    pub fn about(&self) -> (String, bool) {
        match self {
            Opened::Uring(driver) => (format!("Driver: {}", driver.features()), false),
            Opened::Mio(_, None) => ("Driver: mio (epoll), as configured".to_owned(), false),
            Opened::Mio(_, Some(why)) => (format!("{why}; going on with mio (epoll)"), true),
        }
    }

    /// What the process's other shards are to be opened with, so that a refusal is met once.
    pub const fn choice(&self) -> DriverChoice {
        match self {
            Opened::Uring(_) => DriverChoice::Auto,
            Opened::Mio(..) => DriverChoice::Mio,
        }
    }
}
