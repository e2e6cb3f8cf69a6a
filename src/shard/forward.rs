//! Connections that clients have made through here, and what services ask of the shard besides
//! operations and jobs.

use super::*;
use crate::connection::{ChannelId, ChannelKind};
use crate::limits::{FORWARDS_MAX, FORWARDS_PENDING_MAX};
use crate::services::forward::{Note, Target};
use crate::services::{Attached, Command, Service};
use crate::wire::channel::open_failure;

impl<D: Driver, O: Outside> Shard<D, O> {
    /// A channel that is no session.
    pub(super) fn open_other(&mut self, key: u32, id: ChannelId, kind: ChannelKind) {
        let target = match kind {
            ChannelKind::DirectTcpip { host, port, .. } => Target::Tcp { host, port },
            ChannelKind::DirectStreamlocal { path } => Target::Path(path),
            kind => {
                let text = "unknown channel type";
                let reason = open_failure::UNKNOWN_CHANNEL_TYPE;
                self.command(key, Command::Reject { id, reason, text: text.into() });
                let what = format!("channel {kind:?}");
                self.report_on(key, Some(id), What::Refused { what, why: text.to_owned() });
                return;
            }
        };
        let what = format!("{} to {target}", target.kind());
        match self.may_forward(key, &target) {
            Ok(()) => {
                let grant = self.links.get(key as usize).and_then(|link| link.grant.clone());
                let Some(grant) = grant else { return };
                let service = Attached::forward(target, &grant.rules.forwarding);
                if let Some(number) = self.attach(key, id, service) {
                    self.with_service(number, |service, io| service.begin(io));
                }
            }
            Err((reason, why)) => {
                // A client learns that it may not, not which line says so.
                let text = match reason {
                    open_failure::ADMINISTRATIVELY_PROHIBITED => "forwarding is not permitted",
                    _ => why,
                };
                self.command(key, Command::Reject { id, reason, text: text.into() });
                self.report_on(key, Some(id), What::Refused { what, why: why.to_owned() });
            }
        }
    }

    fn may_forward(&self, key: u32, target: &Target) -> Result<(), (u32, &'static str)> {
        let shortage = |text| Err((open_failure::RESOURCE_SHORTAGE, text));
        let Some(link) = self.links.get(key as usize) else { return shortage("no connection") };
        let Some(grant) = &link.grant else { return shortage("no login") };
        target
            .check(&grant.rules.forwarding)
            .map_err(|why| (open_failure::ADMINISTRATIVELY_PROHIBITED, why))?;
        // Those that linger count: they have a descriptor too.
        if link.attachments as usize >= FORWARDS_MAX {
            return shortage("too many forwarded connections");
        }
        let attachments = link.channels.iter().map(|(_, number)| *number as usize);
        let attachments = attachments.filter_map(|number| self.attachments.get(number));
        if attachments.filter(|attachment| attachment.service.is_pending()).count()
            >= FORWARDS_PENDING_MAX
        {
            return shortage("too many connections are still being made");
        }
        Ok(())
    }

    /// Makes sockets and connects them.
    pub(super) fn connect_for(&mut self, token: Token, to: SocketAddr) {
        match self.driver.socket(&to) {
            Ok(fd) => self.submit(token, Op::Connect { fd, to }),
            Err(errno) => {
                let op = Op::Connect { fd: Fd(-1), to };
                self.withdrawn.push(Completion { token, op, result: Err(errno), more: false });
            }
        }
    }

    pub(super) fn note(&mut self, number: u32, note: Note) {
        let Some(attachment) = self.attachments.get(number as usize) else { return };
        let key = attachment.link;
        if self.is_client(key) {
            let id = attachment.id;
            self.publish(key, News::Told { id, note });
            return;
        }
        let id = attachment.id;
        let Some(link) = self.links.get(key as usize) else { return };
        let grant = link.grant.as_ref();
        let user = grant.map(|grant| grant.account.name.clone()).unwrap_or_default();
        let what = match note {
            Note::Opened { what } => {
                let kind = attachment.service.kind();
                self.time_channel(number, kind);
                What::Forwarding { user, what }
            }
            Note::Failed { what, why } => What::NotForwarded { user, what, why },
            Note::Ended { what, bytes_in, bytes_out, reason } => {
                What::Forwarded { user, what, bytes_in, bytes_out, reason }
            }
            Note::File(event) => What::File(event),
            // A client's.
            Note::Typed(_) | Note::Deaf | Note::Reached | Note::Sftp(_) => return,
        };
        self.report_on(key, Some(id), what);
    }

    /// Calls the services whose time has come.
    pub(super) fn expire_service_timers(&mut self, now: Instant) {
        while let Some(number) = self.service_timers.pop(now) {
            self.contained_for(number | OF_ATTACHMENT, |shard| {
                shard.with_service(number, |service, io| service.on_ready(io));
                shard.release(number);
            });
        }
    }
}
