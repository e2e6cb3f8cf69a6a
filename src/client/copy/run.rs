//! The sessions of a copy, and the loop that carries orders to them and news to the tasks.

use std::collections::HashMap;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::desk::{Came, Desk};
use super::{Copy, Host, Plan, report, tree};
use crate::base::{Instant, escape};
use crate::client::voice::harmless;
use crate::client::{Client, Options, Person, Voice};
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::gateway::drivers::{self, Opened};
use crate::limits::{COPY_NEAR_TIME, COPY_PROGRESS_TIME, COPY_SESSIONS};
use crate::reactor::Driver;
use crate::services::Attached;
use crate::services::forward::Note;
use crate::services::sftp_client::{Answer, Offers, SftpClient, SftpNote};
use crate::shard::{ClientLink, News};
use crate::wire::Reader;
use crate::wire::sftp::{Limits, Operation};

/// The subsystem's name, in every server's configuration.
const SUBSYSTEM: &str = "sftp";
/// The ticket of a request that no task has made.
const LIMITS_TICKET: u32 = 0;

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
        client: Client::new(driver),
        desk: Desk::default(),
        all: Vec::new(),
        by_channel: HashMap::new(),
    };
    let outcome = sessions.copy(plan, hosts, voice);
    sessions.client.finish()?;
    outcome
}

/// One SFTP session: a channel of a connection.
#[derive(Debug)]
struct Session {
    link: ClientLink,
    channel: ChannelId,
    state: State,
    /// When it was asked something, and how long the answer took.
    asked: Instant,
    delay: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// The server says what it takes at once.
    Measuring(Offers),
    Open {
        station: usize,
    },
    Lost(String),
}

struct Sessions<D: Driver> {
    client: Client<D>,
    desk: Desk,
    all: Vec<Session>,
    by_channel: HashMap<(ClientLink, ChannelId), usize>,
}

impl<D: Driver> Sessions<D> {
    fn copy(&mut self, plan: &Plan, hosts: &[(Host, Options)], voice: &Voice) -> Result<bool> {
        let mut stations = Vec::new();
        for (host, options) in hosts {
            stations.push((host.clone(), self.reach(plan, options, voice)?));
        }
        let copy = Rc::new(Copy::new(plan.clone(), self.desk.clone(), stations));
        let sources = plan.sources.iter().map(|source| copy.spot(source)).collect();
        let target = copy.spot(&plan.target);
        self.desk.begin(tree::copy_all(Rc::clone(&copy), sources, target));
        let mut screen = Screen::new(plan, self.client.shard().driver().now());
        loop {
            let goes_on = self.desk.run();
            screen.tell(&copy.take_news());
            if !goes_on {
                break;
            }
            if !self.carry() && !self.hear() {
                let until = screen.next_look();
                self.client.turn(until)?;
                self.look(&mut screen, &copy);
                self.hear();
            }
        }
        let now = self.client.shard().driver().now();
        let totals = copy.totals.get();
        screen.end(&report::summary(&copy, totals, now.since(screen.begun).as_secs_f64()));
        Ok(totals.failed == 0)
    }

    /// Logs in at a host and opens the sessions of it: several on one connection, since many servers
    /// take no more than a little of one before they answer.
    fn reach(&mut self, plan: &Plan, options: &Options, voice: &Voice) -> Result<Vec<usize>> {
        let link = self.client.log_in(options, Person::new(options.batch), voice)?;
        // What is to be slow needs no help.
        let told = plan.streams.or(plan.bytes_a_second.map(|_| 1));
        let rate = plan.bytes_a_second.map(|rate| (rate / told.unwrap_or(1) as u64).max(1));
        let first = self.all.len();
        // The first shows whether there are any to be had, and how far away they are.
        self.open(link, rate)?;
        self.wait_for(first)?;
        let delay = self.all.get(first).and_then(|session| session.delay);
        let near = delay.is_some_and(|delay| delay < COPY_NEAR_TIME);
        let count = told.unwrap_or(if near { 1 } else { COPY_SESSIONS });
        for _ in 1..count {
            self.open(link, rate)?;
        }
        for number in first + 1..self.all.len() {
            if let Err(why) = self.wait_for(number) {
                voice.debug(format_args!("{} sessions will do: {why:#}", number - first));
            }
        }
        let open = self.all.get(first..).unwrap_or_default().iter();
        Ok(open
            .filter_map(|session| match session.state {
                State::Open { station } => Some(station),
                _ => None,
            })
            .collect())
    }

    fn open(&mut self, link: ClientLink, bytes_a_second: Option<u64>) -> Result<()> {
        let service = Attached::files(SftpClient::new(bytes_a_second));
        let kind = ChannelKind::Session;
        let channel = self.client.shard().open_channel(link, &kind, Some(service));
        let channel = channel.context("no session can be asked for")?;
        self.by_channel.insert((link, channel), self.all.len());
        let asked = self.client.shard().driver().now();
        self.all.push(Session { link, channel, state: State::Opening, asked, delay: None });
        Ok(())
    }

    fn wait_for(&mut self, number: usize) -> Result<()> {
        loop {
            match self.all.get(number).map(|session| &session.state) {
                Some(State::Open { .. }) => return Ok(()),
                Some(State::Lost(why)) => bail!("{why}"),
                _ => {}
            }
            if !self.hear() {
                self.client.turn(None)?;
            }
        }
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
            self.client.shard().with_channel(link, channel, |service, io| {
                if let Some(client) = service.as_files() {
                    (order.call)(client, io);
                }
            });
        }
        any
    }

    /// Takes what has been heard. False: nothing.
    fn hear(&mut self) -> bool {
        let mut any = false;
        while let Some((link, news)) = self.client.next_news() {
            any = true;
            match news {
                News::Heard(event) => self.event(link, &event),
                News::Told { id, note: Note::Sftp(note) } => {
                    if let Some(number) = self.by_channel.get(&(link, id)).copied() {
                        self.told(number, *note);
                    }
                }
                News::Told { .. } | News::Identified => {}
                News::Finished(id) => self.lose(link, Some(id), "the session is over"),
                News::Ended { reason } => {
                    self.lose(link, None, &escape(reason.as_bytes()).to_string());
                }
            }
        }
        any
    }

    fn event(&mut self, link: ClientLink, event: &Event) {
        let (id, why) = match event {
            Event::Opened { id } if self.by_channel.contains_key(&(link, *id)) => {
                let request = ChannelRequest::Subsystem { name: SUBSYSTEM.into() };
                self.client.shard().ask_channel(link, *id, &request, true);
                return;
            }
            Event::RequestDone { id, ok: true } => {
                self.note_time(link, *id);
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
            SftpNote::Ready(offers) if offers.limits => {
                session.state = State::Measuring(offers);
                self.note_time(link, channel);
                self.client.shard().with_channel(link, channel, |service, io| {
                    if let Some(client) = service.as_files() {
                        client.ask(LIMITS_TICKET, &Operation::Limits, io);
                    }
                });
            }
            SftpNote::Ready(offers) => self.opened(number, offers),
            SftpNote::Answered { ticket: LIMITS_TICKET, answer } => self.measured(number, &answer),
            SftpNote::Answered { ticket, answer } => {
                self.desk.deliver(ticket, Came::Answer(answer));
            }
            SftpNote::Moved { ticket, moved } => self.desk.deliver(ticket, Came::Moved(moved)),
            SftpNote::Broken(why) => {
                let why = format!("the server does not keep to SFTP: {why}");
                self.lose(link, Some(channel), &why);
            }
        }
    }

    fn measured(&mut self, number: usize, answer: &Answer) {
        let Some(session) = self.all.get(number) else { return };
        let State::Measuring(offers) = session.state else { return };
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
        self.opened(number, offers);
    }

    fn opened(&mut self, number: usize, offers: Offers) {
        let station = self.desk.add_station(offers);
        let now = self.client.shard().driver().now();
        if let Some(session) = self.all.get_mut(number) {
            session.delay = Some(now.since(session.asked));
            session.state = State::Open { station };
        }
    }

    /// The session is asked something now.
    fn note_time(&mut self, link: ClientLink, channel: ChannelId) {
        let now = self.client.shard().driver().now();
        if let Some(number) = self.by_channel.get(&(link, channel))
            && let Some(session) = self.all.get_mut(*number)
        {
            session.asked = now;
        }
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
        let now = self.client.shard().driver().now();
        if !screen.is_due(now) {
            return;
        }
        let mut moved = 0;
        for session in &self.all {
            self.client.shard().with_channel(session.link, session.channel, |service, _| {
                moved += service.as_files().map_or(0, |client| client.moved());
            });
        }
        screen.progress(copy, moved, now);
    }
}

/// What the user sees.
struct Screen {
    begun: Instant,
    quiet: bool,
    json: bool,
    /// When progress is shown next; `None`: it is not.
    next: Option<Instant>,
    last: (Instant, u64),
}

impl Screen {
    fn new(plan: &Plan, now: Instant) -> Screen {
        let shows = stderr().is_terminal() && !plan.quiet && !plan.json && !plan.dry_run;
        let next = shows.then(|| now.after(COPY_PROGRESS_TIME));
        Screen { begun: now, quiet: plan.quiet, json: plan.json, next, last: (now, 0) }
    }

    const fn next_look(&self) -> Option<Instant> {
        self.next
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at <= now)
    }

    fn progress(&mut self, copy: &Copy, moved: u64, now: Instant) {
        let (before, had) = self.last;
        let seconds = now.since(before).as_secs_f64().max(0.001);
        let rate = moved.saturating_sub(had) as f64 / seconds;
        let expected = copy.expected.get();
        let line = report::progress(copy.totals.get(), moved, expected, rate);
        // Whoever does not want to see it does not.
        let _ = stderr().lock().write_all(line.as_bytes());
        self.last = (now, moved);
        self.next = Some(now.after(COPY_PROGRESS_TIME));
    }

    fn tell(&self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let clear = if self.next.is_some() { "\r\x1b[K" } else { "" };
        let text: String = lines.iter().map(|line| format!("{clear}{line}\n")).collect();
        // JSON is what the command is run for; everything else is about it.
        let _ = match self.json {
            true => stdout().lock().write_all(text.as_bytes()),
            false => stderr().lock().write_all(text.as_bytes()),
        };
    }

    fn end(&self, summary: &str) {
        if !self.quiet || self.json {
            self.tell(&[summary.to_owned()]);
        }
    }
}
