//! One real driver or the other, for tests that hold on all of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Completion, Driver, DriverStats, Errno, Fd, Full, MioConfig, MioDriver, Op, Pool, PoolSizes,
    Token, UringConfig, UringDriver, Waker,
};
use crate::base::Instant;

/// The ways to the kernel that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// io_uring, with all that this kernel has.
    Uring,
    /// io_uring, as Linux 5.11 has it.
    UringPlain,
    Mio,
    /// mio, with every file operation left to a helper.
    MioPlain,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Uring, Way::UringPlain, Way::Mio, Way::MioPlain];

    /// For tests that run once for each driver (`TIDEGATE_TEST_DRIVER`) rather than on all of them.
    pub fn under_test() -> Way {
        match std::env::var("TIDEGATE_TEST_DRIVER").as_deref() {
            Ok("mio") => Way::Mio,
            _ => Way::Uring,
        }
    }
}

/// A driver of either kind.
#[derive(Debug)]
pub enum EitherDriver {
    Uring(Box<UringDriver>),
    Mio(Box<MioDriver>),
}

impl EitherDriver {
    /// # Errors
    /// The kernel refuses it.
    pub fn new(way: Way, in_flight_max: u32, pool: PoolSizes) -> io::Result<EitherDriver> {
        let plain = matches!(way, Way::UringPlain | Way::MioPlain);
        Ok(match way {
            Way::Uring | Way::UringPlain => {
                let config = UringConfig { in_flight_max, pool, plain, ..UringConfig::default() };
                EitherDriver::Uring(Box::new(UringDriver::new(config)?))
            }
            Way::Mio | Way::MioPlain => {
                let config = MioConfig { in_flight_max, pool, plain };
                EitherDriver::Mio(Box::new(MioDriver::new(config)?))
            }
        })
    }
}

macro_rules! pass_on {
    ($either:expr, $driver:ident => $call:expr) => {
        match $either {
            EitherDriver::Uring($driver) => $call,
            EitherDriver::Mio($driver) => $call,
        }
    };
}

impl Driver for EitherDriver {
    fn now(&self) -> Instant {
        pass_on!(self, driver => driver.now())
    }

    fn pool(&mut self) -> &mut Pool {
        pass_on!(self, driver => driver.pool())
    }

    fn submit(&mut self, token: Token, op: Op) -> Result<(), Full> {
        pass_on!(self, driver => driver.submit(token, op))
    }

    fn cancel(&mut self, token: Token) {
        pass_on!(self, driver => driver.cancel(token));
    }

    fn socket(&mut self, to: &SocketAddr) -> Result<Fd, Errno> {
        pass_on!(self, driver => driver.socket(to))
    }

    fn welcome(&mut self, fd: Fd) -> Option<SocketAddr> {
        pass_on!(self, driver => driver.welcome(fd))
    }

    fn close(&mut self, fd: Fd) {
        pass_on!(self, driver => driver.close(fd));
    }

    fn release(&mut self, fd: Fd) {
        pass_on!(self, driver => driver.release(fd));
    }

    fn set_receive_mark(&mut self, fd: Fd, bytes: u32) {
        pass_on!(self, driver => driver.set_receive_mark(fd, bytes));
    }

    fn shutdown(&mut self, fd: Fd) {
        pass_on!(self, driver => driver.shutdown(fd));
    }

    fn shutdown_send(&mut self, fd: Fd) {
        pass_on!(self, driver => driver.shutdown_send(fd));
    }

    fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> io::Result<()> {
        pass_on!(self, driver => driver.wait(until, out))
    }

    fn linger(&mut self, time: Duration) {
        pass_on!(self, driver => driver.linger(time));
    }

    fn waker(&self) -> Waker {
        pass_on!(self, driver => driver.waker())
    }

    fn stats(&self) -> DriverStats {
        pass_on!(self, driver => driver.stats())
    }
}
