//! The client's agent, for the programs of its sessions (`auth-agent-req@openssh.com`). A connection
//! has one socket for it, made at the first request and known to every session that starts later.

use std::path::PathBuf;

use super::*;
use crate::connection::ChannelId;
use crate::services::Command;
use crate::services::forward::Place;

/// Where a connection's agent can be found.
#[derive(Debug, Default)]
pub(super) enum Agent {
    #[default]
    None,
    /// A worker makes the socket.
    Asked,
    At(PathBuf),
}

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn forward_agent(&mut self, key: u32, id: ChannelId, want_reply: bool) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let permitted = link.grant.as_ref().is_some_and(|grant| grant.rules.forwarding.agent);
        let refused = match &link.agent {
            _ if !permitted => Some("AllowAgentForwarding, DisableForwarding or the key's options"),
            Agent::At(_) => Some("the connection has one already"),
            Agent::None | Agent::Asked => None,
        };
        let mut waits = false;
        if refused.is_none() {
            self.on_channel(key, id, |service, _| waits = service.await_agent(want_reply));
        }
        if waits {
            self.make_agent(key);
            return;
        }
        if want_reply {
            self.command(key, Command::Reply { id, ok: false });
        }
        let why = refused.unwrap_or("the session has ended or is no program's").to_owned();
        self.report(key, What::Refused { what: "the client's agent".to_owned(), why });
    }

    fn make_agent(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if matches!(link.agent, Agent::None) {
            link.agent = Agent::Asked;
            link.in_flight += 1;
            let token = Token { key, generation: link.generation, tag: TAG_AGENT };
            self.submit_job(token, Job::MakeAgentSocket);
        }
    }

    /// A worker has made the socket, or could not.
    pub(super) fn agent_made(&mut self, key: u32, done: Done) {
        let made = match done {
            Done::AgentSocket(made) => made,
            _ => Err(io::Error::other("a worker failed")),
        };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let open = link.state == LinkState::Open;
        match made {
            Ok((path, socket)) => {
                link.agent = Agent::At(path.clone());
                if open {
                    self.accept_for(key, Place::Agent(path), 0, socket);
                } else {
                    self.remove_agent(key);
                }
            }
            Err(why) => {
                link.agent = Agent::None;
                let user = link.grant.as_ref().map(|grant| grant.account.name.clone());
                let (user, why) = (user.unwrap_or_default(), why.to_string());
                let what = "the client's agent".to_owned();
                self.report(key, What::NotForwarded { user, what, why });
            }
        }
        let count = self.links.get(key as usize).map_or(0, |link| link.channels.len());
        for n in 0..count {
            let link = self.links.get(key as usize);
            let channel = link.and_then(|link| link.channels.get(n)).copied();
            if let Some((_, number)) = channel.filter(|_| open) {
                self.tell_agent(number);
            }
        }
    }

    /// Tells a session where the agent is, or that there is none.
    pub(super) fn tell_agent(&mut self, number: u32) {
        let Some(attachment) = self.attachments.get(number as usize) else { return };
        let Some(link) = self.links.get(attachment.link as usize) else { return };
        let path = match &link.agent {
            Agent::At(path) => Some(path.clone()),
            Agent::None | Agent::Asked => None,
        };
        self.with_service(number, |service, io| service.agent_made(path, io));
    }

    /// The connection is over: its socket goes.
    pub(super) fn remove_agent(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        match std::mem::take(&mut link.agent) {
            Agent::None => {}
            // It goes when it is there.
            Agent::Asked => link.agent = Agent::Asked,
            Agent::At(path) => {
                link.in_flight += 1;
                let token = Token { key, generation: link.generation, tag: TAG_AGENT_GONE };
                self.submit_job(token, Job::RemoveAgentSocket(path));
            }
        }
    }
}
