//! Connections that a proxy passes on: before anything else they tell whose they are. Only then are
//! they admitted, as that client's.

use super::*;
use crate::base::Span;
use crate::limits::{PREFACES_MAX, SMALL_BYTES};
use crate::reactor::Target;
use crate::wire::proxy::{self, ProxyOrigin, ProxyScan};

/// How a proxy's connection is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// How long it may take to tell.
    pub time: Duration,
    /// One that begins otherwise is refused; else it is the proxy's own.
    pub required: bool,
}

/// Why a proxy's connection is turned away that does not tell whose it is.
pub const UNTOLD: [&str; 3] =
    ["no PROXY header", "a malformed PROXY header", "no PROXY header in time"];

/// A connection that has not told yet.
#[derive(Debug)]
pub(super) struct Preface {
    socket: Fd,
    ends: Ends,
    generation: u16,
    required: bool,
    /// What has come. At most a header and what one receive brings behind it.
    bytes: Vec<u8>,
}

/// What becomes of one.
enum Verdict {
    Wait,
    Admit(Ends),
    Drop,
    Refuse(&'static str),
}

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn ask_whose(&mut self, socket: Fd, ends: Ends, asking: Asking) {
        if self.prefaces.len() >= PREFACES_MAX {
            self.drop_connection(socket, "too many connections of proxies that tell nothing");
            return;
        }
        let generation = self.next_generation();
        let required = asking.required;
        let preface = Preface { socket, ends, generation, required, bytes: Vec::new() };
        let key = self.prefaces.insert(preface) as u32;
        self.preface_timers.set(key, self.driver.now().after(asking.time));
        self.receive_preface(key);
    }

    fn receive_preface(&mut self, key: u32) {
        let Some(preface) = self.prefaces.get(key as usize) else { return };
        let (fd, generation) = (preface.socket, preface.generation);
        let token = Token { key: key | OF_PREFACE, generation, tag: 0 };
        self.submit(token, Op::Recv { fd, into: Target::Shared });
    }

    pub(super) fn preface_completed(&mut self, completion: Completion) {
        let Completion { token, op, result, .. } = completion;
        let key = token.key & !OF_PREFACE;
        let pool = self.driver.pool();
        let Some(preface) = self.prefaces.get_mut(key as usize) else {
            op.dissolve(pool);
            return;
        };
        if let Op::Recv { into: Target::Owned { mut lease, mut spans }, .. } = op {
            let span = Span::new(spans.pop().map_or(0, |span| span.at), result.unwrap_or(0));
            preface.bytes.extend_from_slice(span.of(pool.bytes(&mut lease)).unwrap_or_default());
            pool.give_back(lease);
        }
        let verdict = match result {
            Ok(0) => Verdict::Drop,
            Ok(_) => preface.judge(),
            Err(errno) if errno.0 == libc::ECANCELED && !self.stopping => preface.judge_late(),
            Err(_) => Verdict::Drop,
        };
        match verdict {
            Verdict::Wait => self.receive_preface(key),
            Verdict::Admit(ends) => self.introduce(key, ends),
            Verdict::Drop => {
                let preface = self.end_preface(key);
                self.driver.close(preface.socket);
                self.outside.untold();
            }
            Verdict::Refuse(why) => {
                let preface = self.end_preface(key);
                self.drop_connection(preface.socket, why);
                self.outside.untold();
            }
        }
        if self.retiring {
            self.tell_when_accepting_is_over();
        }
    }

    fn introduce(&mut self, key: u32, ends: Ends) {
        let Preface { socket, mut bytes, .. } = self.end_preface(key);
        if self.links.len() + self.arrivals.len() >= LINKS_MAX {
            self.drop_connection(socket, TOO_MANY_LINKS);
            return;
        }
        match self.outside.admit_as(socket, ends, &mut bytes) {
            Admission::Here(ends) => {
                self.arrivals
                    .push_back((self.driver.now(), Arrival::Accepted(socket, ends, bytes)));
            }
            Admission::Elsewhere => {}
            Admission::Refused | Admission::Ask(..) => self.refused(socket),
        }
    }

    fn end_preface(&mut self, key: u32) -> Preface {
        self.preface_timers.clear(key);
        self.prefaces.remove(key as usize)
    }

    /// Those that did not tell in time end, or are taken for what they are.
    pub(super) fn expire_prefaces(&mut self, now: Instant) {
        while let Some(key) = self.preface_timers.pop(now) {
            self.cancel_preface(key);
        }
    }

    pub(super) fn cancel_prefaces(&mut self) {
        let keys: Vec<u32> = self.prefaces.iter().map(|(key, _)| key as u32).collect();
        keys.into_iter().for_each(|key| self.cancel_preface(key));
    }

    fn cancel_preface(&mut self, key: u32) {
        if let Some(preface) = self.prefaces.get(key as usize) {
            let generation = preface.generation;
            self.cancel(Token { key: key | OF_PREFACE, generation, tag: 0 });
        }
    }
}

impl Preface {
    fn judge(&mut self) -> Verdict {
        match proxy::scan(&self.bytes) {
            Ok(ProxyScan::Need) => Verdict::Wait,
            Ok(ProxyScan::Absent) if self.required => Verdict::Refuse(UNTOLD[0]),
            Ok(ProxyScan::Absent) => Verdict::Admit(self.ends),
            Ok(ProxyScan::Header { used, origin }) => {
                self.bytes.drain(..used);
                Verdict::Admit(match origin {
                    ProxyOrigin::Itself => self.ends,
                    ProxyOrigin::Client { client, .. } => Ends { peer: client, ..self.ends },
                })
            }
            Err(_) => Verdict::Refuse(UNTOLD[1]),
        }
    }

    /// A client may wait for our identification before it sends its own.
    fn judge_late(&self) -> Verdict {
        match self.required || !self.bytes.is_empty() {
            true => Verdict::Refuse(UNTOLD[2]),
            false => Verdict::Admit(self.ends),
        }
    }
}

const _: () = assert!(PREFACES_MAX < OF_PREFACE as usize && SMALL_BYTES > 0);
