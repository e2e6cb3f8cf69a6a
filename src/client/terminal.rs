//! Our terminal while a session has it: raw, and as it was before on every way out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr,
    tcsetattr,
};

use crate::connection::{ChannelRequest, WindowSize};
use crate::gateway::signals::{Signals, Woken};
use crate::reactor::Waker;
use crate::services::{encode_modes, window_size};

/// A terminal in raw mode. It is as it was before when this goes, however that comes about.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Takes standard input's terminal.
    ///
    /// # Errors
    /// It is none.
    pub fn enter() -> io::Result<Raw> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let raw = Raw { terminal, before };
        raw.again()?;
        Ok(raw)
    }

    fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.input_flags.insert(InputFlags::IGNPAR);
        raw.input_flags.remove(
            InputFlags::ISTRIP
                | InputFlags::INLCR
                | InputFlags::IGNCR
                | InputFlags::ICRNL
                | InputFlags::IXON
                | InputFlags::IXANY
                | InputFlags::IXOFF,
        );
        raw.local_flags.remove(
            LocalFlags::ISIG
                | LocalFlags::ICANON
                | LocalFlags::ECHO
                | LocalFlags::ECHOE
                | LocalFlags::ECHOK
                | LocalFlags::ECHONL
                | LocalFlags::IEXTEN,
        );
        raw.output_flags.remove(OutputFlags::OPOST);
        for (index, value) in
            [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)]
        {
            if let Some(place) = raw.control_chars.get_mut(index as usize) {
                *place = value;
            }
        }
        Ok(tcsetattr(&self.terminal, SetArg::TCSADRAIN, &raw)?)
    }

    fn restore(&self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }

    /// Stops this process until somebody lets it go on, with the terminal as it was.
    pub fn suspend(&self) {
        self.restore();
        let _ = raise(Signal::SIGTSTP);
        let _ = self.again();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}

/// What a server is asked for so that its terminal is like ours. Without one here it is the usual.
pub fn terminal_request() -> ChannelRequest {
    let term = std::env::var("TERM").unwrap_or_default();
    let is_word = |c: char| c.is_ascii_graphic();
    let modes = match tcgetattr(io::stdin()) {
        Ok(settings) => encode_modes(&settings.into()),
        Err(_) => vec![0],
    };
    ChannelRequest::PtyReq {
        term: term.chars().filter(|c| is_word(*c)).collect::<String>().into(),
        size: size(),
        modes: modes.into(),
    }
}

pub fn size() -> WindowSize {
    window_size(io::stdin().as_fd()).unwrap_or_default()
}

/// Signals that a session hears of between two turns.
pub struct Heard {
    signals: Receiver<Signal>,
}

impl Heard {
    /// From now on; `waker` ends the sleep of the shard. To be called before other threads exist.
    ///
    /// # Errors
    /// The system refused.
    pub fn listen(waker: Waker) -> io::Result<Heard> {
        let caught = Signals::catch(&[
            Signal::SIGWINCH,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ])?;
        let (sender, signals) = channel();
        let wait = move || {
            while let Ok(woken) = caught.wait(&[], None) {
                let Woken::Signal(signal) = woken else { continue };
                if sender.send(signal).is_err() {
                    return;
                }
                waker.wake();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        Ok(Heard { signals })
    }

    pub fn next(&self) -> Option<Signal> {
        self.signals.try_recv().ok()
    }
}
