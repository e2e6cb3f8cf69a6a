//! What `tidegate ssh` does with a login: one session, its streams and its end.

use anyhow::{Context, Result, bail};

use super::stdio::Borrowed;
use super::voice::harmless;
use super::{Client, Level, Options, Person, Voice};
use crate::base::escape;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::gateway::drivers::{self, Opened};
use crate::reactor::Driver;
use crate::services::Attached;
use crate::services::forward::Note;
use crate::shard::{ClientLink, News};

/// What a shell would answer for a program that it could not run; ssh's own for all that is not the
/// remote program's.
const FAILED: u8 = 255;

/// Logs in, runs what is wanted there, and answers its exit status.
///
/// # Errors
/// It could not be done, or not to the end: why, for the user.
pub fn run(options: &Options, voice: &Voice) -> Result<u8> {
    match drivers::open(options.driver)? {
        Opened::Uring(driver) => run_on(driver, options, voice),
        Opened::Mio(driver, why) => {
            if let Some(why) = why {
                voice.debug(format_args!("{why}; going on with mio (epoll)"));
            }
            run_on(driver, options, voice)
        }
    }
}

fn run_on<D: Driver>(driver: D, options: &Options, voice: &Voice) -> Result<u8> {
    let mut client = Client::new(driver);
    let link = client.log_in(options, Person::new(options.batch), voice);
    let outcome = link.and_then(|link| {
        let mut borrowed = Borrowed::default();
        Session::begin(&mut client, link, options, voice, &mut borrowed)?.run()
    });
    client.finish()?;
    outcome
}

struct Session<'a, D: Driver> {
    client: &'a mut Client<D>,
    link: ClientLink,
    options: &'a Options,
    voice: &'a Voice,
    channel: ChannelId,
    /// Requests before the one that starts the program whose answers are to come.
    unanswered: u32,
    status: Option<u8>,
    /// The channel is closed, and what it brought is written.
    closed: bool,
    finished: bool,
}

impl<'a, D: Driver> Session<'a, D> {
    fn begin(
        client: &'a mut Client<D>,
        link: ClientLink,
        options: &'a Options,
        voice: &'a Voice,
        borrowed: &mut Borrowed,
    ) -> Result<Session<'a, D>> {
        let stdio = borrowed.streams(!options.stdin_null).context("our standard streams")?;
        let service = Attached::local(&stdio, None);
        let channel = client.shard().open_channel(link, &ChannelKind::Session, Some(service));
        let channel = channel.context("no session can be asked for")?;
        Ok(Session {
            client,
            link,
            options,
            voice,
            channel,
            unanswered: 0,
            status: None,
            closed: false,
            finished: false,
        })
    }

    fn run(mut self) -> Result<u8> {
        while !(self.closed && self.finished) {
            self.client.turn(None)?;
            while let Some((link, news)) = self.client.next_news() {
                if link == self.link {
                    self.hear(news)?;
                }
            }
        }
        self.client.leave(self.link, "disconnected by user");
        Ok(self.status.unwrap_or(FAILED))
    }

    fn hear(&mut self, news: News) -> Result<()> {
        match news {
            News::Heard(event) => self.event(event)?,
            News::Told { note: Note::Deaf, id } => {
                let request = ChannelRequest::EndOfWrite;
                self.client.shard().ask_channel(self.link, id, &request, false);
            }
            News::Told { .. } => {}
            News::Finished(id) => self.finished |= id == self.channel,
            News::Ended { reason } if !self.closed => {
                let (host, reason) = (&self.options.host_name, escape(reason.as_bytes()));
                bail!("Connection to {host} is lost: {reason}");
            }
            News::Ended { .. } => {}
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> Result<()> {
        let own = self.channel;
        match event {
            Event::Opened { id } if id == own => self.ask(),
            Event::OpenFailed { id, text, .. } if id == own => {
                bail!("the server opens no session: {}", harmless(&text))
            }
            Event::RequestDone { id, ok } if id == own => self.answered(ok)?,
            Event::Request { id, request, .. } if id == own => self.told(&request),
            Event::PeerClosed(id) | Event::Closed(id) if id == own => self.closed = true,
            Event::Open { id, .. } => {
                self.client.shard().refuse_channel(self.link, id, "not asked for");
            }
            _ => {}
        }
        Ok(())
    }

    /// The channel is open: what is to run there?
    fn ask(&mut self) {
        let request = match &self.options.command {
            Some(command) => ChannelRequest::Exec { command: command.clone().into() },
            None => ChannelRequest::Shell,
        };
        self.client.shard().ask_channel(self.link, self.channel, &request, true);
    }

    fn answered(&mut self, ok: bool) -> Result<()> {
        if self.unanswered > 0 {
            self.unanswered -= 1;
            return Ok(());
        }
        if !ok {
            let what = if self.options.command.is_some() { "exec" } else { "shell" };
            bail!("{what} request failed: the server does not start it");
        }
        let (link, channel) = (self.link, self.channel);
        self.client.shard().with_channel(link, channel, |service, io| service.read_locally(io));
        Ok(())
    }

    /// How the program has ended.
    fn told(&mut self, request: &ChannelRequest) {
        match request {
            ChannelRequest::ExitStatus { code } => self.status = Some(*code as u8),
            ChannelRequest::ExitSignal { name, core_dumped, text } => {
                let (name, text) = (escape(name.as_bytes()), harmless(text));
                let core = if *core_dumped { " (core dumped)" } else { "" };
                let told = format_args!("Killed by signal {name}{core} there. {text}");
                self.voice.say(Level::Verbose, told);
                self.status = Some(FAILED);
            }
            _ => {}
        }
    }
}
