//! Commands that are run at a server on channels of their own, beside its SFTP sessions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::desk::{Came, Desk};
use super::listener::Listener;
use crate::base::Instant;
use crate::client::Client;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::reactor::Driver;
use crate::services::Attached;
use crate::shard::ClientLink;

/// One under way.
struct Command {
    ticket: u32,
    request: ChannelRequest,
    said: Rc<RefCell<Vec<u8>>>,
    status: Option<u32>,
    until: Instant,
}

/// Those under way, and whom to tell how they end.
#[derive(Default)]
pub struct Commands {
    all: HashMap<(ClientLink, ChannelId), Command>,
}

impl Commands {
    /// Starts one. What it has said is delivered when it has ended well; nothing in every other case, one
    /// that has not ended by `until` among them.
    pub fn start<D: Driver>(
        &mut self,
        client: &mut Client<D>,
        desk: &Desk,
        (link, ticket): (ClientLink, u32),
        (command, until): (Vec<u8>, Instant),
    ) {
        let said = Rc::<RefCell<Vec<u8>>>::default();
        let guest = Attached::Guest(Box::new(Listener { said: Rc::clone(&said) }));
        match client.shard().open_channel(link, &ChannelKind::Session, Some(guest)) {
            Some(channel) => {
                let request = ChannelRequest::Exec { command: command.into() };
                let one = Command { ticket, request, said, status: None, until };
                self.all.insert((link, channel), one);
            }
            None => desk.deliver(ticket, Came::Said(None)),
        }
    }

    /// False: it is about something else.
    pub fn hear<D: Driver>(
        &mut self,
        client: &mut Client<D>,
        desk: &Desk,
        (link, event): (ClientLink, &Event),
    ) -> bool {
        let (Event::Opened { id }
        | Event::OpenFailed { id, .. }
        | Event::RequestDone { id, .. }
        | Event::Request { id, .. }
        | Event::PeerClosed(id)
        | Event::Closed(id)) = event
        else {
            return false;
        };
        let Some(one) = self.all.get_mut(&(link, *id)) else { return false };
        match event {
            Event::Opened { .. } => {
                client.shard().ask_channel(link, *id, &one.request, true);
            }
            Event::RequestDone { ok: true, .. } => {
                client.shard().with_channel(link, *id, Attached::begin);
            }
            Event::Request { request: ChannelRequest::ExitStatus { code }, .. } => {
                one.status = Some(*code);
            }
            Event::Request { .. } => {}
            _ => self.end(client, desk, (link, *id)),
        }
        true
    }

    fn end<D: Driver>(
        &mut self,
        client: &mut Client<D>,
        desk: &Desk,
        (link, channel): (ClientLink, ChannelId),
    ) {
        let Some(one) = self.all.remove(&(link, channel)) else { return };
        let well = one.status == Some(0);
        desk.deliver(one.ticket, Came::Said(well.then(|| one.said.take())));
        client.shard().close_channel(link, channel);
    }

    /// Gives those up that take too long, or whose connection is no more.
    pub fn expire<D: Driver>(&mut self, client: &mut Client<D>, desk: &Desk) {
        let now = client.now();
        let late = self.all.iter().filter(|(_, one)| one.until <= now).map(|(at, _)| *at);
        for at in late.collect::<Vec<_>>() {
            self.end(client, desk, at);
        }
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.all.values().map(|one| one.until).min()
    }
}
