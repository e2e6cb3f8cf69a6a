//! How long a login waits for its server. What a person takes to answer, or an agent to sign, is no waiting for it.

use std::time::Duration;

use super::Options;

/// What is left of the times that were set; `None`: there is none.
pub struct Patience<'a> {
    options: &'a Options,
    /// Until keys are agreed on (ConnectTimeout).
    exchange: Option<Duration>,
    /// Until the server is heard again (ServerAliveInterval, so often as ServerAliveCountMax says).
    silence: Option<Duration>,
    /// Until we are in.
    whole: Option<Duration>,
}

impl Patience<'_> {
    pub fn new(options: &Options) -> Patience<'_> {
        let (exchange, whole) = (options.connect_timeout, options.login_time.map(|(time, _)| time));
        Patience { options, exchange, silence: silence_of(options), whole }
    }

    /// What is left until one of the times is over.
    pub fn left(&self) -> Option<Duration> {
        [self.exchange, self.silence, self.whole].into_iter().flatten().min()
    }

    /// The server was waited for so long, and `heard` or not.
    pub fn spend(&mut self, waited: Duration, heard: bool) {
        for left in [&mut self.exchange, &mut self.silence, &mut self.whole] {
            *left = left.map(|left| left.saturating_sub(waited));
        }
        if heard {
            self.silence = silence_of(self.options);
        }
    }

    /// Keys have been agreed on.
    pub const fn has_keys(&mut self) {
        self.exchange = None;
    }

    /// The time that is over and what has set it, for the user.
    pub fn over(&self) -> Option<String> {
        let is_over = |left: Option<Duration>| left.is_some_and(|left| left.is_zero());
        if is_over(self.exchange) {
            return Some("within ConnectTimeout".to_owned());
        }
        if is_over(self.silence) {
            let (every, count) = self.options.server_alive?;
            let every = every.as_secs();
            return Some(format!("(ServerAliveInterval {every}, ServerAliveCountMax {count})"));
        }
        let (time, flag) = self.options.login_time.filter(|_| is_over(self.whole))?;
        Some(format!("within {} s ({flag})", time.as_secs_f64()))
    }
}

fn silence_of(options: &Options) -> Option<Duration> {
    options.server_alive.map(|(every, count)| every.saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_silence_begins_anew_when_the_server_is_heard() {
        let mut options = Options::new("web", "ann", None);
        assert!(Patience::new(&options).left().is_none());
        options.connect_timeout = Some(5 * SECOND);
        options.server_alive = Some((SECOND, 2));
        options.login_time = Some((9 * SECOND, "--timeout"));
        let mut patience = Patience::new(&options);
        for _ in 0..4 {
            patience.spend(SECOND, true);
            assert_eq!((patience.over(), patience.left().is_some()), (None, true));
        }
        patience.spend(SECOND, true);
        assert_eq!(patience.over().as_deref(), Some("within ConnectTimeout"));
        patience.has_keys();
        patience.spend(2 * SECOND, false);
        let told = "(ServerAliveInterval 1, ServerAliveCountMax 2)";
        assert_eq!(patience.over().as_deref(), Some(told));
        patience.spend(2 * SECOND, true);
        assert_eq!(patience.over().as_deref(), Some("within 9 s (--timeout)"));
    }
}
