//! Runs one thing on several connections at once, from the moment at which all are ready.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::usage::{Meter, Spent};
use crate::base::escape;
use crate::client::Client;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::reactor::Driver;
use crate::services::forward::Note;
use crate::services::{Attached, Guest};
use crate::shard::{ClientLink, News};

/// What has moved, as guests count it.
#[derive(Debug, Default)]
pub struct Moved {
    /// Bytes on channels, either way: whether anything goes on.
    carried: Cell<u64>,
    /// Bytes of what is measured that are where they belong, as far as can be told.
    done: Cell<u64>,
}

impl Moved {
    pub fn carried(&self, bytes: u64) {
        self.carried.set(self.carried.get() + bytes);
    }

    pub fn done(&self, bytes: u64) {
        self.done.set(self.done.get() + bytes);
    }
}

/// What runs on one connection.
pub struct Errand {
    pub request: ChannelRequest,
    pub guest: Box<dyn Guest>,
    /// The guest tells when it is ready to begin.
    pub greets: bool,
    /// It is over when the server closes the channel; otherwise when the guest tells.
    pub closes: bool,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub time: Duration,
    pub own: Spent,
    pub server: Option<Spent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Asked,
    Greeted,
    Ready,
    Running,
    Over,
    Gone,
}

struct Lane {
    link: ClientLink,
    channel: ChannelId,
    request: ChannelRequest,
    step: Step,
    greets: bool,
    closes: bool,
    status: Option<u32>,
}

/// Logged-in connections, and what runs on them.
pub struct Runner<'a, D: Driver> {
    pub client: &'a mut Client<D>,
    pub links: Vec<ClientLink>,
    pub meter: &'a Meter,
    /// What errands count.
    pub moved: Rc<Moved>,
    /// For the user: where they run.
    pub host: String,
    /// How long nothing may move.
    pub stall: Duration,
    /// That was too long: the connections are of no use any more.
    pub stalled: bool,
}

impl<D: Driver> Runner<'_, D> {
    /// One errand for each connection, the first ones first.
    ///
    /// # Errors
    /// The connection is lost or stands still, or the server does not do what it is asked for.
    pub fn run(&mut self, errands: Vec<Errand>) -> Result<Took> {
        self.moved.done.set(0);
        let mut lanes = Vec::new();
        for (link, errand) in self.links.clone().into_iter().zip(errands) {
            let Errand { request, guest, greets, closes } = errand;
            let guest = Some(Attached::Guest(guest));
            let channel = self.client.shard().open_channel(link, &ChannelKind::Session, guest);
            let channel = channel.context("no session can be asked for")?;
            let (step, status) = (Step::Asked, None);
            lanes.push(Lane { link, channel, request, step, greets, closes, status });
        }
        self.until(&mut lanes, Step::Ready)?;
        let before = (self.meter.own(), self.meter.of_server());
        let begun = self.client.shard().driver().now();
        for lane in &mut lanes {
            lane.step = Step::Running;
            self.client.shard().with_channel(lane.link, lane.channel, Attached::begin);
        }
        self.until(&mut lanes, Step::Over)?;
        let time = self.client.shard().driver().now().since(begun);
        let own = self.meter.own().since(&before.0);
        let server = self.meter.of_server().zip(before.1);
        let server = server.map(|(now, before)| now.since(&before));
        for lane in &lanes {
            self.client.shard().close_channel(lane.link, lane.channel);
        }
        self.until(&mut lanes, Step::Gone)?;
        Ok(Took { time, own, server })
    }

    fn until(&mut self, lanes: &mut [Lane], step: Step) -> Result<()> {
        let there = |lane: &Lane| lane.step as u8 >= step as u8;
        let state = |lanes: &[Lane]| lanes.iter().map(|lane| lane.step as u64).sum::<u64>();
        let mut last = (self.client.now(), 0, 0);
        while !lanes.iter().all(there) {
            let (since, ..) = last;
            self.client.turn(Some(since.after(self.stall)))?;
            while let Some((link, news)) = self.client.next_news() {
                self.hear(lanes, link, news)?;
            }
            let (now, carried, steps) = (self.client.now(), self.moved.carried.get(), state(lanes));
            if (carried, steps) != (last.1, last.2) {
                last = (now, carried, steps);
            } else if now >= since.after(self.stall) {
                self.stalled = true;
                bail!(
                    "{}: nothing has moved for {} s, after {} bytes (--stall says how long is too long)",
                    self.host,
                    self.stall.as_secs_f64(),
                    self.moved.done.get()
                );
            }
        }
        Ok(())
    }

    fn hear(&mut self, lanes: &mut [Lane], link: ClientLink, news: News) -> Result<()> {
        let Some(lane) = lanes.iter_mut().find(|lane| lane.link == link) else {
            return Ok(());
        };
        let own = |id: ChannelId| id == lane.channel;
        match news {
            News::Ended { reason } => {
                bail!("the connection is lost: {reason}")
            }
            News::Finished(id) if own(id) => lane.step = Step::Gone,
            News::Told { id, note } if own(id) => lane.told(note)?,
            News::Heard(event) => match event {
                Event::Opened { id } if own(id) => {
                    self.client.shard().ask_channel(link, id, &lane.request, true);
                }
                Event::OpenFailed { id, text, .. } if own(id) => {
                    bail!("the server opens no session: {}", escape(text.as_bytes()))
                }
                Event::RequestDone { id, ok } if own(id) => lane.granted(ok)?,
                Event::Request { id, request: ChannelRequest::ExitStatus { code }, .. }
                    if own(id) =>
                {
                    lane.status = Some(code);
                }
                Event::PeerClosed(id) | Event::Closed(id) if own(id) => lane.closed()?,
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

impl Lane {
    fn granted(&mut self, ok: bool) -> Result<()> {
        if !ok {
            bail!("the server refuses {:?}", self.request);
        }
        self.step = if self.greets { Step::Greeted } else { Step::Ready };
        Ok(())
    }

    fn told(&mut self, note: Note) -> Result<()> {
        match (note, self.step) {
            (Note::Failed { what, why }, _) => bail!("{what}: {why}"),
            (Note::Reached, Step::Asked | Step::Greeted) => self.step = Step::Ready,
            (Note::Reached, Step::Running) if !self.closes => self.step = Step::Over,
            _ => {}
        }
        Ok(())
    }

    fn closed(&mut self) -> Result<()> {
        match (self.step, self.status) {
            (Step::Over | Step::Gone, _) => {}
            (Step::Running, Some(0)) if self.closes => self.step = Step::Over,
            (_, Some(status)) => bail!("the command has ended with status {status}"),
            (_, None) => bail!("the server has closed the session"),
        }
        Ok(())
    }
}
