//! Passwords (RFC 4252 §8) and prompts (RFC 4256).

use super::{Stage, Waits};
use crate::base::Instant;
use crate::connection::{Connection, Event, Method, Proven, Query, Questions, Secret, Secrets};
use crate::limits::{
    AUTH_PROMPTS_MAX, LANGUAGE_BYTES_MAX, PAM_MESSAGE_BYTES_MAX, PROMPT_BYTES_MAX,
};
use crate::transport::{Env, Error, Server};
use crate::wire::auth::{InfoRequest, InfoResponse, Prompts};
use crate::wire::{Reader, Writer};

/// What was asked for and is to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Prompted {
    Ours {
        password: bool,
        code: bool,
    },
    /// So many prompts of somebody else's.
    Others(u32),
}

impl Connection<Server> {
    pub(super) fn password_attempt(
        &mut self,
        password: &[u8],
        changes: bool,
        now: Instant,
    ) -> Option<Event> {
        if changes {
            // Nobody was asked to change his.
            self.count_failure(Method::Password.name(), None, false);
            self.refuse_later(now, now);
            return None;
        }
        let password = Some(Secret::copy(password));
        let secrets = Secrets { password, code: None, prompted: false };
        self.ask_about(Method::Password, secrets, now)
    }

    /// Whether the user exists is not known here and changes no prompt. A code alone never begins a
    /// login: where nothing has succeeded yet, the password is asked for too.
    pub(super) fn interactive_attempt(
        &mut self,
        rest: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let mut body = Reader::new(rest);
        let read = body
            .string(LANGUAGE_BYTES_MAX)
            .and_then(|_| body.string(PROMPT_BYTES_MAX))
            .and_then(|_| body.end());
        if read.is_err() {
            return Err(Error::PeerMisbehaved("a keyboard-interactive request cut short"));
        }
        if self.login.config.talks {
            return Ok(self.converse(None, env.now));
        }
        let codes = self.login.config.asks_codes;
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(None) };
        let (password, code) = (!codes || !trying.partly, codes);
        trying.prompted = Some(Prompted::Ours { password, code });
        let mut space = [0; 64];
        let mut out = Writer::new(&mut space);
        let mut count = 0;
        for (asked, text) in [(password, PASSWORD), (code, CODE)] {
            if asked {
                count += 1;
                let written = out.string(text.as_bytes()).and_then(|()| out.boolean(false));
                written.map_err(|_| Error::Invariant("no room for two prompts"))?;
            }
        }
        let prompts = Prompts::from_parts(count, out.written());
        let request = InfoRequest { name: "", instruction: "", language: "", prompts };
        self.transport.send(&request, env).map(|()| None)
    }

    /// Somebody else asks on. What does not fit into a packet is left out.
    pub(super) fn ask_on(&mut self, asks: &Questions, env: &mut Env<'_>) -> Result<(), Error> {
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(()) };
        let mut space = [0; QUESTIONS_BYTES_MAX];
        let mut out = Writer::new(&mut space);
        let mut count = 0;
        for (text, echo) in &asks.prompts {
            let written = out.string(text.as_bytes()).and_then(|()| out.boolean(*echo));
            written.map_err(|_| Error::Invariant("no room for prompts"))?;
            count += 1;
        }
        trying.prompted = Some(Prompted::Others(count));
        let prompts = Prompts::from_parts(count, out.written());
        let (name, instruction) = (&*asks.name, &*asks.instruction);
        self.transport.send(&InfoRequest { name, instruction, language: "", prompts }, env)
    }

    /// Case 60: answers to no prompt, or to others, end the connection.
    pub(super) fn prompts_answered(
        &mut self,
        response: &InfoResponse<'_>,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(None) };
        trying.requests += 1;
        let prompted = trying.prompted.take();
        let wrong = Error::PeerMisbehaved("answers to prompts that were not made");
        let expected = match prompted {
            Some(Prompted::Ours { password, code }) => u32::from(password) + u32::from(code),
            Some(Prompted::Others(count)) => count,
            None => return Err(wrong),
        };
        if response.len() != expected {
            return Err(wrong);
        }
        self.check_requests()?;
        let Some(Prompted::Ours { password, code }) = prompted else {
            let answers = response.answers().map(Secret::copy).collect();
            return Ok(self.converse(Some(answers), now));
        };
        let mut answers = response.answers();
        let mut next = |asked: bool| if asked { answers.next().map(Secret::copy) } else { None };
        let secrets = Secrets { password: next(password), code: next(code), prompted: true };
        Ok(self.ask_about(Method::KeyboardInteractive, secrets, now))
    }

    fn ask_about(&mut self, method: Method, secrets: Secrets, now: Instant) -> Option<Event> {
        let user = self.user_of(method, now)?;
        Some(Event::Query(Query::CheckSecrets { user, secrets: Box::new(secrets) }))
    }

    fn converse(&mut self, answers: Option<Vec<Secret>>, now: Instant) -> Option<Event> {
        let user = self.user_of(Method::KeyboardInteractive, now)?;
        Some(Event::Query(Query::Converse { user, answers }))
    }

    /// Who is to be asked about; from now on that is waited for. `None`: a name that nobody has.
    fn user_of(&mut self, method: Method, now: Instant) -> Option<Box<str>> {
        let Stage::Trying(trying) = &mut self.login.stage else { return None };
        let user = trying.user.clone().unwrap_or_default();
        if user.is_empty() || user.contains(|c: char| c.is_control()) {
            self.count_failure(method.name(), None, false);
            self.refuse_later(now, now);
            return None;
        }
        trying.waits = Some(Waits::Secrets { asked_at: now, method });
        Some(user)
    }

    pub(super) fn secrets_judged(
        &mut self,
        method: Method,
        right: bool,
        asked_at: Instant,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        if right {
            let proven = Proven { method: method.name(), key: None, verified: None };
            return self.succeeded(method, proven, asked_at, env);
        }
        self.count_failure(method.name(), None, false);
        self.refuse_later(asked_at, env.now);
        Ok(())
    }
}

/// Prompts with their texts' lengths.
const QUESTIONS_BYTES_MAX: usize = PAM_MESSAGE_BYTES_MAX + 5 * AUTH_PROMPTS_MAX as usize;
const PASSWORD: &str = "Password: ";
const CODE: &str = "Verification code: ";
