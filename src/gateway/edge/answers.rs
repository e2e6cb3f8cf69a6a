use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::error;

use super::words::{Greeting, Tell};
use crate::connection::ConnectionConfig;
use crate::gateway::mailbox::Reads;
use crate::gateway::startups::Startups;
use crate::reactor::Token;
use crate::services::{About, Done, Greeted};
use crate::shard::Mail;

/// Reads what root's process answers a shard, and has what answers are made of besides.
pub struct Answers {
    /// What connections begin with.
    pub connection: Arc<ConnectionConfig>,
    pub startups: Arc<Startups>,
}

impl Reads for Arc<Answers> {
    fn read(&mut self, message: &[u8], _: Option<OwnedFd>, mail: &mut Vec<Mail>) -> u64 {
        let tells = match Tell::decode(message) {
            Ok(Tell::Several(all)) => all,
            Ok(tell) => vec![tell],
            Err(_) => Vec::new(),
        };
        if tells.is_empty() {
            error!("the gateway sent something that is no answer");
        }
        mail.extend(tells.into_iter().filter_map(|tell| {
            let (token, done) = self.answer(tell)?;
            Some(Mail::Done { token, done })
        }));
        0
    }
}

impl Answers {
    fn answer(&self, tell: Tell) -> Option<(Token, Done)> {
        let (ticket, done) = match tell {
            Tell::Signature { ticket, signature } => {
                let signature = Some(signature).filter(|bytes| !bytes.is_empty());
                (ticket, Done::Signature(signature.map(Vec::into_boxed_slice)))
            }
            Tell::Greeted { ticket, greeting, verbosity } => {
                let config = greeting.map(|greeting| Arc::new(self.greeted(*greeting)));
                let about = About { verbosity, ..About::default() };
                (ticket, Done::Greeted(Greeted { config, about }))
            }
            Tell::Key { ticket, grant, stranger } => {
                stranger.into_iter().for_each(|peer| self.startups.note_unknown_user(peer));
                (ticket, Done::Key(grant))
            }
            Tell::Asks { ticket, asks } => (ticket, Done::Asks(Box::new(asks))),
            Tell::Admitted { ticket, answer } => (ticket, Done::Admitted(answer)),
            Tell::Lost { ticket } => (ticket, Done::Lost),
            _ => {
                error!("the gateway sent something that is no answer");
                return None;
            }
        };
        Some((ticket.token, done))
    }

    /// What the settings of a user change of a connection before his login.
    fn greeted(&self, greeting: Greeting) -> ConnectionConfig {
        let Greeting { banner, tries_max, chains, codes, talks, limits } = greeting;
        let mut own = self.connection.with_limits(limits);
        (own.banner, own.auth_tries_max) = (banner, tries_max);
        (own.chains, own.asks_codes, own.talks) = (chains, codes, talks);
        own
    }
}
