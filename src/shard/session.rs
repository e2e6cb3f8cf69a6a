//! Channels and the services attached to them.

use super::contain::{NOBODY, meet_ordered_defect};
use super::*;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::limits::SERVICE_PAUSE;
use crate::reactor::{Chunk, Classes};
use crate::services::{Attached, Command, Io, Noted, Service, Surroundings};

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn channel_event(&mut self, key: u32, event: Event) {
        match event {
            Event::Open { id, kind } => self.open(key, id, kind),
            Event::Request { id, want_reply, request } => {
                self.request(key, id, want_reply, request);
            }
            Event::WindowOpened(id) => self.on_channel(key, id, |service, io| service.on_ready(io)),
            Event::Eof(id) => self.on_channel(key, id, |service, io| service.on_eof(io)),
            Event::PeerClosed(id) => {
                self.detach(key, id);
                self.command(key, Command::Close(id));
            }
            Event::Closed(id) => self.detach(key, id),
            Event::Opened { id } => self.offer_taken(key, id),
            Event::OpenFailed { id, text, .. } => self.offer_refused(key, id, &text),
            // Answers to a client's questions; a server asks none of these.
            _ => {}
        }
    }

    fn open(&mut self, key: u32, id: ChannelId, kind: ChannelKind) {
        if kind != ChannelKind::Session {
            self.open_other(key, id, kind);
            return;
        }
        let Some(link) = self.links.get(key as usize) else { return };
        let Some(grant) = link.grant.clone() else { return };
        let service = Attached::session(&grant, link.ends.peer, link.ends.local);
        if let Some(number) = self.attach(key, id, service) {
            self.time_channel(number, "session");
            self.tell_agent(number);
        }
        self.command(key, Command::Accept(id));
    }

    pub(super) fn attach(&mut self, key: u32, id: ChannelId, service: Attached) -> Option<u32> {
        let (generation, now) = (self.next_generation(), self.now());
        let link = self.links.get_mut(key as usize)?;
        let attachment = Attachment {
            link: key,
            id,
            generation,
            service,
            in_flight: 0,
            open: true,
            lacks: Classes::NONE,
            starved_since: now,
            timed: false,
            used: now,
            timeout: None,
            awaited: 0,
            late: false,
            lingering: 0,
        };
        let number = self.attachments.insert(attachment) as u32;
        link.channels.push((id, number));
        link.attachments += 1;
        Some(number)
    }

    pub(super) fn request(
        &mut self,
        key: u32,
        id: ChannelId,
        want_reply: bool,
        request: ChannelRequest,
    ) {
        let Some(request) = self.recorded_first(key, id, want_reply, request) else { return };
        let Some(link) = self.links.get(key as usize) else { return };
        let Some(grant) = link.grant.clone() else { return };
        let request = match request {
            ChannelRequest::AgentForward => return self.forward_agent(key, id, want_reply),
            ChannelRequest::X11Forward(asked) => {
                return self.forward_x11(key, id, want_reply, asked);
            }
            request => request,
        };
        meet_ordered_defect(link, "service");
        let (mut noted, kind) = (Noted::Nothing, session_kind(&request));
        // What clients do otherwise for servers of other names, they do not where we have OpenSSH's.
        let known = request.starts() && !crate::transport::is_openssh(link.conn.own_ident());
        let ident = known.then(|| link.conn.peer_ident().to_owned());
        self.on_channel(key, id, |service, io| {
            noted = service.on_request(request, want_reply, &grant, io);
            if let Some(ident) = &ident {
                service.know_client(ident);
            }
        });
        match noted {
            Noted::Nothing => {}
            Noted::Started { what } => {
                let number = self.links.get(key as usize).and_then(|link| link.attachment_of(id));
                if let Some(number) = number {
                    self.time_channel(number, &kind);
                }
                self.mark_class(key);
                let user = grant.account.name.clone();
                self.report_on(key, Some(id), What::SessionStarted { user, what });
            }
            Noted::Refused { what, why } => {
                self.report_on(key, Some(id), What::Refused { what, why: why.to_owned() });
            }
        }
    }

    pub(super) fn channel_data(
        &mut self,
        key: u32,
        id: ChannelId,
        extended: Option<u32>,
        chunk: Chunk,
    ) {
        if self.is_relayed(key) {
            self.pass_data(key, id, extended, chunk);
            return;
        }
        let attachment = self.links.get(key as usize).and_then(|link| link.attachment_of(id));
        match attachment {
            Some(number) => {
                self.note_traffic(number);
                self.with_service(number, |service, io| service.on_data(chunk, extended, io));
            }
            None => self.driver.pool().give_back(chunk.lease),
        }
    }

    /// A command on behalf of a channel without a service.
    pub(super) fn command(&mut self, key: u32, command: Command) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let mut around = Surroundings {
            now: self.moment.unwrap_or_else(|| self.driver.now()),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        if let Err(error) = link.outgoing.command(command, &mut link.conn, &mut around) {
            self.fail(key, error);
        }
        self.note_waiting(key);
        self.mark_dirty(key);
    }

    pub(super) fn on_channel(
        &mut self,
        key: u32,
        id: ChannelId,
        call: impl FnOnce(&mut Attached, &mut Io<'_>),
    ) {
        let attachment = self.links.get(key as usize).and_then(|link| link.attachment_of(id));
        if let Some(number) = attachment {
            self.with_service(number, call);
        }
    }

    /// Calls a service and carries out what it wished for.
    pub(super) fn with_service(
        &mut self,
        number: u32,
        call: impl FnOnce(&mut Attached, &mut Io<'_>),
    ) {
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        let key = attachment.link;
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let mut failed = None;
        let mut io = Io {
            id: attachment.id,
            conn: &mut link.conn,
            outgoing: &mut link.outgoing,
            around: Surroundings {
                now: self.moment.unwrap_or_else(|| self.driver.now()),
                pool: self.driver.pool(),
                entropy: &mut *self.entropy,
            },
            wishes: &mut self.wishes,
            failed: &mut failed,
        };
        call(&mut attachment.service, &mut io);
        self.grant_wishes(number);
        self.note_waiting(key);
        self.mark_dirty(key);
        if let Some(error) = failed {
            self.fail(key, error);
        }
    }

    /// Most calls ask for no more than to be called again: what is there for others is left alone then.
    fn grant_wishes(&mut self, number: u32) {
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        let wishes = &mut self.wishes;
        let lacks = std::mem::take(&mut wishes.starved);
        if !lacks.is_empty() && attachment.lacks.is_empty() {
            attachment.starved_since = self.driver.now();
            self.starved.push(number | OF_ATTACHMENT);
        }
        attachment.lacks = attachment.lacks.and(lacks);
        attachment.awaited = std::mem::take(&mut wishes.awaited);
        if std::mem::take(&mut wishes.late) && !std::mem::replace(&mut attachment.late, true) {
            self.late.push(number);
        }
        self.lingers |= std::mem::take(&mut wishes.lingers);
        if wishes.ask_for_more() {
            self.grant_more(number);
        }
    }

    fn grant_more(&mut self, number: u32) {
        let mut wishes = std::mem::take(&mut self.wishes);
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        let key = number | OF_ATTACHMENT;
        let (generation, link) = (attachment.generation, attachment.link);
        let under_way = wishes.ops.len() + wishes.jobs.len() + wishes.connects.len();
        attachment.in_flight += under_way as u16;
        if std::mem::take(&mut wishes.paused) {
            let until = self.driver.now().after(SERVICE_PAUSE);
            self.paused.push_back((until, number, generation));
        }
        for tag in wishes.cancels.drain(..) {
            self.cancel(Token { key, generation, tag });
        }
        for (tag, op) in wishes.ops.drain(..) {
            self.submit(Token { key, generation, tag }, op);
        }
        for (tag, mut job) in wishes.jobs.drain(..) {
            if let Job::Resolve { asker, .. } = &mut job {
                *asker = self.asker(link);
            }
            self.submit_job(Token { key, generation, tag }, job);
        }
        for (tag, to) in wishes.connects.drain(..) {
            self.connect_for(Token { key, generation, tag }, to);
        }
        for fd in wishes.shut_downs.drain(..) {
            self.driver.shutdown_send(fd);
        }
        for fd in wishes.closes.drain(..) {
            self.driver.close(fd);
        }
        if let Some(at) = wishes.wake_at.take() {
            self.service_timers.set(number, at);
        }
        for note in wishes.notes.drain(..) {
            self.note(number, note);
        }
        let rejected = wishes.reject.take();
        self.wishes = wishes;
        if let Some((reason, text)) = rejected {
            self.refuse(number, reason, text);
        }
    }

    pub(super) fn attachment_completed(&mut self, number: u32, completion: Completion) {
        let Completion { token, op, result, .. } = completion;
        if let Some(attachment) = self.attachments.get_mut(number as usize) {
            attachment.in_flight = attachment.in_flight.saturating_sub(1);
            if attachment.link == NOBODY {
                return op.dissolve(self.driver.pool());
            }
        }
        if result.is_ok_and(|bytes| bytes > 0) {
            let now = self.now();
            if let Some(attachment) = self.attachments.get_mut(number as usize) {
                attachment.starved_since = now;
            }
            self.note_traffic(number);
        }
        self.with_service(number, |service, io| service.on_completion(token.tag, op, result, io));
        self.release(number);
    }

    pub(super) fn attachment_job_done(&mut self, number: u32, token: Token, done: Done) {
        if let Some(attachment) = self.attachments.get_mut(number as usize) {
            attachment.in_flight = attachment.in_flight.saturating_sub(1);
        }
        self.note_traffic(number);
        self.with_service(number, |service, io| service.on_done(token.tag, done, io));
        self.release(number);
    }

    pub(super) fn attachment_pause_over(&mut self, number: u32, generation: u16) {
        let same = |attachment: &Attachment| attachment.generation == generation && attachment.open;
        if self.attachments.get(number as usize).is_some_and(same) {
            self.with_service(number, |service, io| service.on_ready(io));
        }
    }

    pub(super) fn attachment_fed(&mut self, number: u32) {
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        attachment.lacks = Classes::NONE;
        if attachment.open || attachment.service.lingers() {
            self.with_service(number, |service, io| service.on_ready(io));
            self.release(number);
        }
    }

    /// What has come in this turn has been handed out: services go on with it.
    pub(super) fn run_late(&mut self) {
        let mut late = std::mem::take(&mut self.late);
        for number in late.drain(..) {
            let Some(attachment) = self.attachments.get_mut(number as usize) else { continue };
            attachment.late = false;
            if attachment.open || attachment.service.lingers() {
                self.contained_for(number | OF_ATTACHMENT, |shard| {
                    shard.with_service(number, |service, io| service.on_turn_over(io));
                    shard.release(number);
                });
            }
        }
        if self.late.is_empty() {
            self.late = late;
        }
    }

    /// Something that may have held services back has changed: all of the link's may go on.
    pub(super) fn wake_services(&mut self, key: u32) {
        let count = self.links.get(key as usize).map_or(0, |link| link.channels.len());
        for n in 0..count {
            let Some((_, number)) =
                self.links.get(key as usize).and_then(|link| link.channels.get(n)).copied()
            else {
                break;
            };
            self.with_service(number, |service, io| service.on_ready(io));
        }
    }

    /// The channel is gone; its service ends once nothing of it is in flight.
    pub(super) fn detach(&mut self, key: u32, id: ChannelId) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(at) = link.channels.iter().position(|(of, _)| *of == id) else { return };
        meet_ordered_defect(link, "end");
        let (_, number) = link.channels.swap_remove(at);
        link.outgoing.forget_channel(id, self.driver.pool());
        self.end_display(key, id);
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        attachment.open = false;
        self.with_service(number, |service, io| service.on_close(io));
        self.count_lingering(key, number);
        let outcome = self.attachments.get(number as usize).and_then(|a| a.service.outcome());
        if let Some(what) = outcome.filter(|_| !self.is_client(key)) {
            self.report_on(key, Some(id), What::SessionEnded { what });
        }
        self.note_departure(key);
        self.release(number);
    }

    /// What a closed channel brought and nobody takes is memory as what open ones may bring.
    fn count_lingering(&mut self, key: u32, number: u32) {
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        attachment.lingering = attachment.service.lingering_bytes();
        let bytes = attachment.lingering;
        if let Some(link) = self.links.get_mut(key as usize).filter(|_| bytes > 0) {
            link.conn.begin_lingering(bytes);
        }
    }

    /// The connection is over: every service ends.
    pub(super) fn end_services(&mut self, key: u32) {
        self.end_listeners(key, |_| true);
        self.remove_agent(key);
        while let Some((id, _)) =
            self.links.get(key as usize).and_then(|link| link.channels.first()).copied()
        {
            self.detach(key, id);
        }
    }

    /// The channel is not opened after all.
    fn refuse(&mut self, number: u32, reason: u32, text: &'static str) {
        let Some(attachment) = self.attachments.get(number as usize) else { return };
        let (key, id) = (attachment.link, attachment.id);
        self.detach(key, id);
        self.command(key, Command::Reject { id, reason, text: text.into() });
    }

    pub(super) fn release(&mut self, number: u32) {
        let Some(attachment) = self.attachments.get(number as usize) else { return };
        if attachment.open || attachment.in_flight > 0 || attachment.service.lingers() {
            return;
        }
        self.with_service(number, |service, io| service.release(io));
        self.service_timers.clear(number);
        let attachment = self.attachments.remove(number as usize);
        if self.is_client(attachment.link) {
            self.publish(attachment.link, News::Finished(attachment.id));
        }
        if let Some(link) = self.links.get_mut(attachment.link as usize) {
            link.attachments = link.attachments.saturating_sub(1);
            link.conn.end_lingering(attachment.lingering);
        }
        self.mark_dirty(attachment.link);
    }
}

/// What a session is called by ChannelTimeout once it has been asked for this.
fn session_kind(request: &ChannelRequest) -> String {
    match request {
        ChannelRequest::Shell => "session:shell".to_owned(),
        ChannelRequest::Exec { .. } => "session:command".to_owned(),
        ChannelRequest::Subsystem { name } => format!("session:subsystem:{name}"),
        _ => "session".to_owned(),
    }
}
