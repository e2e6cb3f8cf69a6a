//! The sessions of a copy, and the loop that carries orders to them and news to the tasks.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};

use super::aside::Aside;
use super::commands::Commands;
use super::desk::{Came, Desk, What};
use super::reach::Reached;
use super::screen::Screen;
use super::{Copy, Host, Plan, report, tree};
use crate::base::Instant;
use crate::client::voice::harmless;
use crate::client::{Client, Options, Voice};
use crate::connection::{ChannelId, ChannelRequest, Event};
use crate::gateway::drivers::{self, Opened};
use crate::reactor::Driver;
use crate::services::forward::Note;
use crate::services::sftp_client::{Answer, Offers, SftpNote};
use crate::shard::{ClientLink, News};
use crate::wire::Reader;
use crate::wire::sftp::{Limits, Operation};

/// The subsystem's name, in every server's configuration.
const SUBSYSTEM: &str = "sftp";
/// The ticket of a request that no task has made: the first of every session, which says what the server
/// takes at once where that can be asked, and how far away it is.
const FIRST_TICKET: u32 = 0;

/// Copies what the plan says. True: all of it.
///
/// # Errors
/// It could not begin, or nothing can go on: why, for the user. What fails of single files is told
/// as it happens.
pub fn run(plan: &Plan, hosts: &[(Host, Options)], voice: &Voice) -> Result<bool> {
    let choice = hosts.first().map(|(_, options)| options.driver);
    let Some(choice) = choice else { bail!("both sides are here; cp(1) copies those") };
    match drivers::open(choice)? {
        Opened::Uring(driver) => run_on(driver, plan, hosts, voice),
        Opened::Mio(driver, why) => {
            if let Some(why) = why {
                voice.debug(format_args!("{why}; going on with mio (epoll)"));
            }
            run_on(driver, plan, hosts, voice)
        }
    }
}

fn run_on<D: Driver>(
    driver: D,
    plan: &Plan,
    hosts: &[(Host, Options)],
    voice: &Voice,
) -> Result<bool> {
    let mut sessions = Sessions {
        voice,
        client: Client::new(driver),
        desk: Desk::default(),
        all: Vec::new(),
        by_channel: HashMap::new(),
        commands: Commands::default(),
    };
    let outcome = sessions.copy(plan, hosts, voice);
    sessions.client.finish()?;
    outcome
}

/// One SFTP session: a channel of a connection.
#[derive(Debug)]
pub struct Session {
    pub link: ClientLink,
    pub channel: ChannelId,
    pub state: State,
    /// The lost one whose place it takes.
    pub instead: Option<usize>,
    /// When it was asked something, and how long the answer took.
    pub asked: Instant,
    pub delay: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Opening,
    Open { station: usize },
    Lost(String),
}

/// All sessions there have been, and the shard that they are on.
pub struct Sessions<'a, D: Driver> {
    voice: &'a Voice,
    pub client: Client<D>,
    pub desk: Desk,
    pub all: Vec<Session>,
    pub by_channel: HashMap<(ClientLink, ChannelId), usize>,
    commands: Commands,
}

impl<D: Driver> Sessions<'_, D> {
    fn copy(&mut self, plan: &Plan, hosts: &[(Host, Options)], voice: &Voice) -> Result<bool> {
        let mut reached = Vec::new();
        for (host, options) in hosts {
            reached.push(self.reach(plan, host, options, voice)?);
        }
        let hosts = reached.iter().map(Reached::sessions).collect();
        let aside = Aside::new(self.client.shard().driver().waker());
        let mut screen = Screen::new(plan, self.client.now());
        let around = (self.desk.clone(), aside);
        let copy = Rc::new(Copy::new(plan.clone(), around, hosts, screen.shows()));
        let sources = plan.sources.iter().map(|source| copy.spot(source)).collect();
        let target = copy.spot(&plan.target);
        self.desk.begin(tree::copy_all(Rc::clone(&copy), sources, target));
        loop {
            for one in &mut reached {
                self.grow(one, &copy);
            }
            let goes_on = self.desk.run();
            screen.tell(&copy.take_news());
            if !goes_on {
                break;
            }
            for one in &mut reached {
                self.restore(one, &copy, &screen, voice);
            }
            if !self.carry() && !self.hear() {
                let again = reached.iter().filter_map(|one| one.again_at);
                let looks = [screen.next_look(), self.commands.next_look()];
                self.client.turn(again.chain(looks.into_iter().flatten()).min())?;
                self.commands.expire(&mut self.client, &self.desk);
                self.look(&mut screen, &copy);
                self.hear();
            }
        }
        let seconds = self.client.now().since(screen.begun).as_secs_f64();
        screen.end(&report::summary(&copy, &reached, seconds));
        self.client.learn_last(self.voice)?;
        Ok(copy.totals.get().failed == 0)
    }

    // ---- Between tasks and sessions ---------------------------------------------------------------

    /// Carries what tasks have ordered to the sessions. False: nothing.
    fn carry(&mut self) -> bool {
        let mut any = false;
        while let Some(order) = self.desk.next_order() {
            any = true;
            let is_it = |s: &&Session| s.state == State::Open { station: order.station };
            let Some(session) = self.all.iter().find(is_it) else { continue };
            let (link, channel) = (session.link, session.channel);
            match order.what {
                What::Call(call) => {
                    self.client.shard().with_channel(link, channel, |service, io| {
                        if let Some(client) = service.as_files() {
                            call(client, io);
                        }
                    });
                }
                What::Command { ticket, command, patience } => {
                    let until = self.client.now().after(patience);
                    let to = (link, ticket);
                    self.commands.start(&mut self.client, &self.desk, to, (command, until));
                }
            }
        }
        any
    }

    /// Takes what has been heard. False: nothing.
    pub fn hear(&mut self) -> bool {
        let mut any = false;
        while let Some((link, news)) = self.client.next_news() {
            any = true;
            let Some(news) = self.client.learn(link, news, self.voice) else { continue };
            match news {
                News::Heard(event) => self.event(link, &event),
                News::Told { id, note: Note::Sftp(note) } => {
                    if let Some(number) = self.by_channel.get(&(link, id)).copied() {
                        self.told(number, *note);
                    }
                }
                News::Told { .. } | News::Identified => {}
                // One that does not open tells why.
                News::Finished(id) if !self.is_opening(link, id) => {
                    self.lose(link, Some(id), "the session is over");
                }
                News::Finished(_) => {}
                News::Ended { reason } => {
                    self.lose(link, None, &reason);
                }
            }
        }
        any
    }

    fn event(&mut self, link: ClientLink, event: &Event) {
        if self.commands.hear(&mut self.client, &self.desk, (link, event)) {
            return;
        }
        let (id, why) = match event {
            Event::Opened { id } if self.by_channel.contains_key(&(link, *id)) => {
                let request = ChannelRequest::Subsystem { name: SUBSYSTEM.into() };
                self.client.shard().ask_channel(link, *id, &request, true);
                // Right behind it, as sftp(1) does, and a round trip earlier.
                self.client.shard().with_channel(link, *id, |service, io| {
                    if let Some(client) = service.as_files() {
                        client.greet(io);
                    }
                });
                return;
            }
            Event::RequestDone { id, ok: false } => {
                (*id, "the server has no sftp subsystem for us".to_owned())
            }
            Event::OpenFailed { id, text, .. } => {
                (*id, format!("the server opens no session: {}", harmless(text)))
            }
            Event::PeerClosed(id) | Event::Closed(id) => {
                (*id, "the server has ended the session".to_owned())
            }
            _ => return,
        };
        self.lose(link, Some(id), &why);
    }

    fn told(&mut self, number: usize, note: SftpNote) {
        let Some(session) = self.all.get_mut(number) else { return };
        let (link, channel) = (session.link, session.channel);
        match note {
            SftpNote::Ready(offers) => self.opened(number, offers),
            SftpNote::Answered { ticket: FIRST_TICKET, answer } => self.measured(number, &answer),
            SftpNote::Answered { ticket, answer } => {
                self.desk.deliver(ticket, Came::Answer(answer));
            }
            SftpNote::Moved { ticket, moved } => self.desk.deliver(ticket, Came::Moved(moved)),
            SftpNote::Ended => self.lose(link, Some(channel), "the server's sftp has ended"),
            SftpNote::Broken(why) => {
                let why = format!("the server does not keep to SFTP: {why}");
                // It will not do so the next time either.
                if let State::Open { station } = session.state {
                    self.desk.give_up(station, &why);
                }
                self.lose(link, Some(channel), &why);
            }
        }
    }

    /// The first answer of a session is there.
    fn measured(&mut self, number: usize, answer: &Answer) {
        let now = self.client.now();
        let Some(session) = self.all.get_mut(number) else { return };
        session.delay = Some(now.since(session.asked));
        let (link, channel) = (session.link, session.channel);
        if let Answer::Extended(data) = answer
            && let Ok(limits) = Limits::decode(&mut Reader::new(data))
        {
            self.client.shard().with_channel(link, channel, |service, _| {
                if let Some(client) = service.as_files() {
                    client.know_limits(limits);
                }
            });
        }
    }

    /// A session is there. What it takes at once is asked together with the first that tasks ask for.
    fn opened(&mut self, number: usize, offers: Offers) {
        let now = self.client.now();
        let Some(link) = self.all.get(number).map(|session| session.link) else { return };
        let deep = offers.check_file && self.is_ours(link);
        let offers = Offers { deep, in_order: deep || self.is_openssh(link), ..offers };
        let Some(session) = self.all.get_mut(number) else { return };
        session.asked = now;
        let channel = session.channel;
        let station = match session.instead {
            Some(station) => {
                self.desk.revive(station, offers);
                station
            }
            None => self.desk.add_station(offers),
        };
        session.state = State::Open { station };
        let first = match offers.limits {
            true => Operation::Limits,
            false => Operation::RealPath { path: b"." },
        };
        self.client.shard().with_channel(link, channel, |service, io| {
            if let Some(client) = service.as_files() {
                if offers.deep {
                    client.go_deep();
                }
                client.ask(FIRST_TICKET, &first, io);
            }
        });
    }

    fn is_opening(&self, link: ClientLink, channel: ChannelId) -> bool {
        let number = self.by_channel.get(&(link, channel));
        number.and_then(|number| self.all.get(*number)).is_some_and(|s| s.state == State::Opening)
    }

    /// A session is over, or all of a connection.
    fn lose(&mut self, link: ClientLink, channel: Option<ChannelId>, why: &str) {
        for session in &mut self.all {
            let meant = channel.is_none_or(|channel| session.channel == channel);
            if session.link != link || !meant || matches!(session.state, State::Lost(_)) {
                continue;
            }
            if let State::Open { station } = session.state {
                self.desk.lose(station, why);
            }
            session.state = State::Lost(why.to_owned());
        }
    }

    /// Shows how far it is, if it is time to.
    fn look(&mut self, screen: &mut Screen, copy: &Copy) {
        let now = self.client.now();
        if screen.is_due(now) {
            screen.progress(copy, now);
        }
    }
}
