//! The client's X server, for the programs of one session (`x11-req`, RFC 4254 §6.3). The session has
//! a display of its own, which listens until the session is over.

use super::*;
use crate::connection::{ChannelId, X11Request};
use crate::services::Command;
use crate::services::forward::{DisplaySpec, Listened, Place};

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn forward_x11(
        &mut self,
        key: u32,
        id: ChannelId,
        want_reply: bool,
        request: X11Request,
    ) {
        let Some(link) = self.links.get(key as usize) else { return };
        let Some(grant) = link.grant.clone() else { return };
        let rules = &grant.rules.forwarding;
        let mut waits = false;
        if rules.x11 {
            self.on_channel(key, id, |service, _| waits = service.await_display(want_reply));
        }
        if waits {
            let (inet, inet6) = (rules.inet, rules.inet6);
            let rules = rules.display.clone();
            let spec = DisplaySpec { channel: id, request, rules, inet, inet6 };
            let Some(link) = self.links.get_mut(key as usize) else { return };
            link.in_flight += 1;
            let token = Token { key, generation: link.generation, tag: TAG_DISPLAY };
            self.submit_job(token, Job::MakeDisplay(Box::new(spec)));
            return;
        }
        if want_reply {
            self.command(key, Command::Reply { id, ok: false });
        }
        let why = match rules.x11 {
            false => "X11Forwarding, DisableForwarding or the key's options",
            true => "the session has a display already, has started, or is no program's",
        };
        self.report(key, What::Refused { what: "X11".to_owned(), why: why.to_owned() });
    }

    /// A worker has made a display listen, or could not.
    pub(super) fn display_made(&mut self, key: u32, done: Done) {
        let Done::Display(spec, made) = done else {
            // Which session it was for is lost with the job.
            self.close_link(key, disconnect::BY_APPLICATION, "a worker failed");
            return;
        };
        let DisplaySpec { channel, request, .. } = *spec;
        let Some(link) = self.links.get(key as usize) else { return };
        // A session that is over needs none: the sockets close by themselves.
        if link.state != LinkState::Open || link.attachment_of(channel).is_none() {
            return;
        }
        let user = link.grant.as_ref().map(|grant| grant.account.name.clone()).unwrap_or_default();
        let display = match made {
            Ok(Listened { number, sockets, display }) => {
                for socket in sockets {
                    let place = Place::Display { number, channel, single: request.single };
                    self.accept_for(key, place, 0, socket);
                }
                let what = format!("x11-connection from display {}", display.name);
                self.report(key, What::Listening { user, what });
                Some(display)
            }
            Err(why) => {
                let (what, why) = ("x11-connection".to_owned(), why.to_string());
                self.report(key, What::NotForwarded { user, what, why });
                None
            }
        };
        self.on_channel(key, channel, |service, io| service.display_made(display, io));
    }

    /// The session is over, or its only connection has come.
    pub(super) fn end_display(&mut self, key: u32, id: ChannelId) {
        let its = |place: &Place| matches!(place, Place::Display { channel, .. } if *channel == id);
        self.end_listeners(key, |one| its(one.place()));
    }
}
