//! What a gateway times beside the protocol, and how exactly it has to keep its times.

use std::time::Duration;

use tidegate::base::SeededEntropy;
use tidegate::services::Rules;

use crate::chance::{one_in, pick};

/// ChannelTimeout, UnusedConnectionTimeout and ClientAlive of one run.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// A pattern of channel types and how long such a channel may be idle.
    pub channel: Option<(&'static str, Duration)>,
    pub unused: Option<Duration>,
    pub alive: Option<(Duration, u32)>,
    /// They come with the login and not with the gateway's own configuration.
    pub with_login: bool,
}

/// How much later than its time something may be noticed: by way of slow networks, readers that
/// stall, jobs that wait.
pub const SLACK: Duration = Duration::from_secs(40);
/// How much earlier, by the clock of a client that learns late what the time runs from.
pub const LEAD: Duration = Duration::from_secs(15);

impl Times {
    /// Long enough for everybody who does something to be heard of in between.
    pub fn draw(chance: &mut SeededEntropy) -> Times {
        let long = [Duration::from_secs(45), Duration::from_secs(90)];
        let kinds = ["session:command", "session:*", "global"];
        Times {
            channel: one_in(chance, 4).then(|| (pick(chance, kinds), pick(chance, long))),
            unused: one_in(chance, 4).then(|| pick(chance, long)),
            alive: one_in(chance, 3).then_some((Duration::from_secs(15), 4)),
            with_login: one_in(chance, 3),
        }
    }

    pub fn rules(&self) -> Rules {
        let timeout = |(kind, time): &(&str, Duration)| ((*kind).to_owned(), *time);
        let channel_timeouts = self.channel.iter().map(timeout).collect();
        Rules { channel_timeouts, unused_timeout: self.unused, ..Rules::default() }
    }

    /// How long a command may be idle, and whether it is so by itself or with all channels.
    pub fn command(&self) -> Option<(Duration, bool)> {
        self.channel.map(|(kind, time)| (time, kind != "global"))
    }

    /// A peer that has fallen silent is gone by then, logged in or not.
    pub fn silence_max(&self) -> Option<Duration> {
        let login = Duration::from_secs(120);
        self.alive.map(|(interval, count)| login + interval * (count + 1) + SLACK)
    }
}
