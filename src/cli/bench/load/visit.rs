//! One connection of a load, and where it stands.

use std::fmt;

use super::super::flags::{LoadFlags, Scenario};
use super::talk::{Answer, Talk};
use crate::base::Instant;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest};
use crate::shard::ClientLink;

/// What a connection is waiting for; each has a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The TCP connection; from when it was to begin.
    Tcp,
    /// The server's identification.
    Version,
    Kex,
    Auth,
    /// The channel to be open.
    Channel,
    /// What runs on it to be there.
    Start,
    /// What it is all about: the end of a command, an answer.
    Work,
    /// Nothing.
    Held,
    /// From when it was to begin until it was done.
    Total,
}

impl Phase {
    pub const ALL: [Phase; 9] = [
        Phase::Tcp,
        Phase::Version,
        Phase::Kex,
        Phase::Auth,
        Phase::Channel,
        Phase::Start,
        Phase::Work,
        Phase::Held,
        Phase::Total,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Phase::Tcp => "tcp",
            Phase::Version => "version",
            Phase::Kex => "kex",
            Phase::Auth => "auth",
            Phase::Channel => "channel",
            Phase::Start => "start",
            Phase::Work => "work",
            Phase::Held => "held",
            Phase::Total => "total",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One connection.
#[derive(Debug)]
pub struct Visit {
    /// Tells this visit from an earlier one in its place.
    pub number: u64,
    /// When it was to begin.
    pub intended: Instant,
    pub phase: Phase,
    /// When that began.
    pub since: Instant,
    pub link: Option<ClientLink>,
    pub channel: Option<ChannelId>,
    /// Answers still to be waited for.
    pub rounds: u32,
    /// The key was shown, or the password; before that, the server was asked what it takes.
    pub shown: bool,
    /// Of the command that it ran.
    pub status: Option<u32>,
}

/// What the connections of a scenario open and ask for.
pub struct Script {
    pub scenario: Scenario,
    /// `None`: nothing is opened.
    pub kind: Option<ChannelKind>,
    /// What is asked of the channel.
    pub request: Option<ChannelRequest>,
    questions: Vec<Vec<u8>>,
    answer: Answer,
    /// Answers that are waited for.
    pub rounds: u32,
}

/// SSH_FXP_INIT of version 3, and SSH_FXP_REALPATH of "." (draft-ietf-secsh-filexfer-02 §4, §6.11).
const SFTP_INIT: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];
const SFTP_REALPATH: [u8; 14] = [0, 0, 0, 10, 16, 0, 0, 0, 1, 0, 0, 0, 1, b'.'];

impl Script {
    /// `port`: where the server listens, as itself sees it.
    ///
    /// # Errors
    /// The place that connections are to be forwarded to is none.
    pub fn new(scenario: Scenario, flags: &LoadFlags, port: u16) -> Result<Script, String> {
        let exec = |command: &str| ChannelRequest::Exec { command: command.as_bytes().into() };
        let mut script = Script {
            scenario,
            kind: Some(ChannelKind::Session),
            request: None,
            questions: Vec::new(),
            answer: Answer::Bytes(1),
            rounds: 0,
        };
        match scenario {
            Scenario::Connect | Scenario::Auth | Scenario::Idle => script.kind = None,
            Scenario::Exec => script.request = Some(exec(&flags.command)),
            Scenario::Echo => {
                script.request = Some(exec("cat"));
                script.questions = vec![vec![b'.'; flags.bytes as usize]];
                script.answer = Answer::Bytes(u64::from(flags.bytes));
                script.rounds = flags.messages;
            }
            Scenario::Sftp => {
                script.request = Some(ChannelRequest::Subsystem { name: "sftp".into() });
                script.questions = vec![SFTP_INIT.to_vec(), SFTP_REALPATH.to_vec()];
                script.answer = Answer::Frame;
                script.rounds = flags.messages;
            }
            Scenario::Forward => {
                let to = flags.to.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
                let (host, port) = split(&to).ok_or_else(|| format!("{to:?} is no HOST:PORT"))?;
                let (origin_host, origin_port) = ("127.0.0.1".into(), 65_535);
                let host = host.into();
                script.kind =
                    Some(ChannelKind::DirectTcpip { host, port, origin_host, origin_port });
                script.rounds = 1;
            }
        }
        Ok(script)
    }

    /// What is attached to the channel; `None`: what it brings is of no interest.
    pub fn talk(&self) -> Option<Talk> {
        (self.rounds > 0).then(|| Talk::new(self.questions.clone(), self.answer))
    }

    /// The first answer belongs to the start of what runs there.
    pub const fn starts_with_an_answer(&self) -> bool {
        matches!(self.scenario, Scenario::Sftp)
    }
}

fn split(to: &str) -> Option<(&str, u32)> {
    let (host, port) = to.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port: u16 = port.parse().ok()?;
    (!host.is_empty() && port > 0).then_some((host, u32::from(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_hosts_with_ports() {
        assert_eq!(split("web:80"), Some(("web", 80)));
        assert_eq!(split("[::1]:22"), Some(("::1", 22)));
        for wrong in ["web", ":80", "web:0", "web:x", "web:70000"] {
            let flags = LoadFlags { to: Some(wrong.to_owned()), ..LoadFlags::default() };
            assert!(Script::new(Scenario::Forward, &flags, 22).is_err(), "{wrong}");
        }
        let script = Script::new(Scenario::Forward, &LoadFlags::default(), 22).expect("a script");
        assert!(matches!(script.kind, Some(ChannelKind::DirectTcpip { port: 22, .. })));
        assert!(script.talk().is_some());
    }
}
