//! How a host is reached: logins, the sessions on them, and what is done when they are lost.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::run::{Session, Sessions, State};
use super::screen::Screen;
use super::{AtHost, Copy, Host, Plan, report};
use crate::base::Instant;
use crate::client::{Options, Person, Voice};
use crate::connection::ChannelKind;
use crate::limits::{
    COPY_ALIVE_COUNT, COPY_ALIVE_TIME, COPY_LOGIN_TIME, COPY_NEAR_TIME, COPY_RETRY_TIME_MAX,
    COPY_RETRY_TIME_MIN, COPY_SESSIONS,
};
use crate::reactor::Driver;
use crate::services::Attached;
use crate::services::sftp_client::SftpClient;
use crate::shard::ClientLink;
use crate::transport;

/// A host of a copy, and what is open there.
pub struct Reached {
    pub host: Host,
    options: Options,
    /// Of each session.
    bytes_a_second: Option<u64>,
    /// Its sessions, as tasks know them. Without the first nothing goes on.
    pub stations: Vec<usize>,
    /// The first of its sessions, in the list of all.
    first: usize,
    growth: Growth,
    /// Sessions are on connections of their own.
    apart: bool,
    /// Connections at the beginning.
    pub connections: usize,
    /// Why there are fewer connections or sessions than were to be.
    pub short: Option<String>,
    /// How often it was reached again.
    pub reached_again: u64,
    /// Tries since something was last brought to its end, and what had been until then.
    tries: u32,
    advanced: u64,
    /// When the next one is due.
    pub again_at: Option<Instant>,
}

/// Whether there are to be more sessions than the first.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Growth {
    /// It is not known yet how far away the host is, or there is not enough to do.
    Possible,
    /// These were asked for.
    UnderWay(Vec<usize>),
    Over,
}

impl Reached {
    /// As tasks know it.
    pub fn sessions(&self) -> AtHost {
        let grows = self.growth != Growth::Over;
        AtHost { host: self.host.clone(), stations: self.stations.clone(), grows }
    }
}

impl<D: Driver> Sessions<'_, D> {
    /// Logs in at a host and opens the sessions of it: several, since many servers take no more than a
    /// little of one before they answer.
    ///
    /// # Errors
    /// There is no way in, or no session to be had.
    pub fn reach(
        &mut self,
        plan: &Plan,
        host: &Host,
        options: &Options,
        voice: &Voice,
    ) -> Result<Reached> {
        let mut options = options.clone();
        // A server that vanishes is to be noticed in time.
        options.server_alive.get_or_insert((COPY_ALIVE_TIME, COPY_ALIVE_COUNT));
        let link = self.client.log_in(&options, Person::new(options.batch), voice)?;
        // What is to be slow needs no help.
        let told = plan.streams.or(plan.bytes_a_second.map(|_| 1));
        let rate = plan.bytes_a_second.map(|rate| (rate / told.unwrap_or(1) as u64).max(1));
        let first = self.open(link, rate, None)?;
        self.wait_for(first).context(options.host_name.clone())?;
        let mut reached = Reached {
            host: host.clone(),
            options,
            bytes_a_second: rate,
            stations: Vec::new(),
            first,
            growth: if told.is_some() { Growth::Over } else { Growth::Possible },
            apart: plan.streams.is_some() && !self.is_ours(link),
            connections: 1,
            short: None,
            reached_again: 0,
            tries: 0,
            advanced: 0,
            again_at: None,
        };
        let count = told.unwrap_or(1);
        let links = self.further_links(&mut reached, link, count, voice);
        for n in 1..count {
            self.open(links.get(n % links.len()).copied().unwrap_or(link), rate, None)?;
        }
        for number in first + 1..self.all.len() {
            if let Err(why) = self.wait_for(number) {
                reached.short.get_or_insert_with(|| format!("{why:#}"));
            }
        }
        let open = self.all.get(first..).unwrap_or_default().iter();
        reached.stations = open.filter_map(Session::station).collect();
        Ok(reached)
    }

    /// Opens further sessions of a host that is far away, where there is something for them to do, and
    /// tells tasks of those that are there. Nothing waits for them.
    pub fn grow(&mut self, reached: &mut Reached, copy: &Copy) {
        match &mut reached.growth {
            Growth::Over => {}
            Growth::Possible => {
                let first = self.all.get(reached.first);
                let Some(delay) = first.and_then(|session| session.delay) else { return };
                if delay < COPY_NEAR_TIME {
                    reached.growth = Growth::Over;
                    copy.stop_growing(&reached.host);
                } else if let Some(link) = first.map(|session| session.link)
                    && reached.stations.first().is_some_and(|first| copy.has_much_for(*first))
                {
                    let rate = reached.bytes_a_second;
                    let all = (1..COPY_SESSIONS).map_while(|_| self.open(link, rate, None).ok());
                    reached.growth = Growth::UnderWay(all.collect());
                }
            }
            Growth::UnderWay(numbers) => {
                let (stations, short) = (&mut reached.stations, &mut reached.short);
                numbers.retain(|number| match self.all.get(*number).map(|one| &one.state) {
                    Some(State::Opening) => true,
                    Some(State::Open { station }) => {
                        stations.push(*station);
                        copy.add_station(&reached.host, *station);
                        false
                    }
                    Some(State::Lost(why)) => {
                        short.get_or_insert_with(|| why.clone());
                        false
                    }
                    None => false,
                });
                if numbers.is_empty() {
                    reached.growth = Growth::Over;
                    copy.stop_growing(&reached.host);
                }
            }
        }
    }

    /// Our own server moves what one connection carries at any delay; another gets one connection for
    /// each session, as far as it lets us in without a question. The first that it refuses is the last.
    fn further_links(
        &mut self,
        reached: &mut Reached,
        link: ClientLink,
        count: usize,
        voice: &Voice,
    ) -> Vec<ClientLink> {
        let mut links = vec![link];
        while reached.apart && links.len() < count {
            match self.log_in_again(&reached.options, Person::new(true), voice) {
                Ok(link) => links.push(link),
                Err(why) => {
                    reached.short = Some(format!("{why:#}"));
                    break;
                }
            }
        }
        reached.connections = links.len();
        links
    }

    /// A login after the first: it does not wait for ever.
    fn log_in_again(
        &mut self,
        options: &Options,
        person: Person,
        voice: &Voice,
    ) -> Result<ClientLink> {
        let mut options = options.clone();
        options.connect_timeout.get_or_insert(COPY_LOGIN_TIME);
        options.batch |= person == Person::new(true);
        self.client.log_in(&options, person, voice)
    }

    pub fn is_ours(&mut self, link: ClientLink) -> bool {
        self.is_by(link, transport::is_ours)
    }

    pub fn is_openssh(&mut self, link: ClientLink) -> bool {
        self.is_by(link, transport::is_openssh)
    }

    fn is_by(&mut self, link: ClientLink, software: fn(&[u8]) -> bool) -> bool {
        let connection = self.client.shard().client(link);
        connection.is_some_and(|connection| software(connection.peer_ident()))
    }

    /// Asks for a session, in the place of a lost one or besides. Its number in the list.
    fn open(
        &mut self,
        link: ClientLink,
        bytes_a_second: Option<u64>,
        instead: Option<usize>,
    ) -> Result<usize> {
        let service = Attached::files(SftpClient::new(bytes_a_second));
        let kind = ChannelKind::Session;
        let channel = self.client.shard().open_channel(link, &kind, Some(service));
        let channel = channel.context("no session can be asked for")?;
        let number = self.all.len();
        self.by_channel.insert((link, channel), number);
        let asked = self.client.now();
        let state = State::Opening;
        self.all.push(Session { link, channel, state, instead, asked, delay: None });
        Ok(number)
    }

    fn wait_for(&mut self, number: usize) -> Result<()> {
        let until = self.client.now().after(COPY_LOGIN_TIME);
        loop {
            match self.all.get(number).map(|session| &session.state) {
                Some(State::Open { .. }) => return Ok(()),
                Some(State::Lost(why)) => bail!("{why}"),
                _ => {}
            }
            if self.hear() {
                continue;
            }
            if self.client.now() >= until {
                bail!("the server opens no session, and does not refuse one");
            }
            self.client.turn(Some(until))?;
        }
    }

    // ---- What was lost ---------------------------------------------------------------------------

    /// Reaches a host again, if something of it was lost and it is time to.
    pub fn restore(&mut self, reached: &mut Reached, copy: &Copy, screen: &Screen, voice: &Voice) {
        let desk = self.desk.clone();
        let is_lost = |number: &usize| {
            let station = desk.station(*number);
            station.lost.is_some() && !station.given_up
        };
        let lost: Vec<usize> = reached.stations.iter().copied().filter(is_lost).collect();
        let Some(first) = lost.first() else { return };
        let outcome = match reached.again_at {
            Some(at) if self.client.now() < at => return,
            Some(_) => self.reopen(reached, &lost, voice),
            None => Err(anyhow::anyhow!(desk.station(*first).lost.unwrap_or_default())),
        };
        reached.again_at = None;
        match outcome {
            Ok(()) => {
                reached.reached_again += 1;
                screen.tell(report::reached_again(copy, &reached.host).as_slice());
            }
            Err(why) => self.put_off(reached, &lost, &format!("{why:#}"), (copy, screen)),
        }
    }

    /// Sets the time of the next try, or gives the host up.
    fn put_off(
        &mut self,
        reached: &mut Reached,
        lost: &[usize],
        why: &str,
        (copy, screen): (&Copy, &Screen),
    ) {
        if reached.advanced != copy.advanced.get() {
            reached.advanced = copy.advanced.get();
            reached.tries = 0;
        }
        if reached.tries >= copy.plan.retries {
            lost.iter().for_each(|station| self.desk.give_up(*station, why));
            return;
        }
        let wait = back_off(reached.tries);
        reached.tries += 1;
        reached.again_at = Some(self.client.now().after(wait));
        screen.tell(report::lost(copy, &reached.host, why, (reached.tries, wait)).as_slice());
    }

    /// Opens sessions in the place of lost ones, over connections that are there or new ones. Of those
    /// that cannot be had any more all but the first are done without.
    fn reopen(&mut self, reached: &mut Reached, lost: &[usize], voice: &Voice) -> Result<()> {
        let alive = |session: &&Session| {
            session.station().is_some_and(|station| reached.stations.contains(&station))
        };
        let mut link = self.all.iter().find(alive).map(|session| session.link);
        for station in lost {
            let main = reached.stations.first() == Some(station);
            match self.reopen_one(reached, &mut link, (*station, main), voice) {
                Ok(()) => {}
                Err(why) if main || link.is_none() => return Err(why),
                Err(why) => {
                    let why = format!("{why:#}");
                    self.desk.give_up(*station, &why);
                    reached.short.get_or_insert(why);
                }
            }
        }
        Ok(())
    }

    fn reopen_one(
        &mut self,
        reached: &Reached,
        link: &mut Option<ClientLink>,
        (station, main): (usize, bool),
        voice: &Voice,
    ) -> Result<()> {
        let on = match *link {
            Some(link) if main || !reached.apart => link,
            // Nobody is asked for one that can be done without.
            other => {
                let person = Person::new(reached.options.batch || other.is_some());
                self.log_in_again(&reached.options, person, voice)?
            }
        };
        let number = self.open(on, reached.bytes_a_second, Some(station))?;
        self.wait_for(number)?;
        link.get_or_insert(on);
        Ok(())
    }
}

impl Session {
    const fn station(&self) -> Option<usize> {
        match self.state {
            State::Open { station } => Some(station),
            _ => None,
        }
    }
}

/// How long is waited before a try, after so many in vain.
fn back_off(tries: u32) -> Duration {
    COPY_RETRY_TIME_MIN.saturating_mul(1 << tries.min(16)).min(COPY_RETRY_TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_later_and_not_too_late() {
        let waits: Vec<Duration> = (0..40).map(back_off).collect();
        assert_eq!(waits.first(), Some(&COPY_RETRY_TIME_MIN));
        assert!(waits.is_sorted() && waits.last() == Some(&COPY_RETRY_TIME_MAX));
    }
}
