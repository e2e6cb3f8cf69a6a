//! Sessions that are recorded (TidegateRecord). One socket leads from a connection to its recorder; what
//! is to wait for that waits in the connection's [`Tape`]. A request that starts a program is held, and
//! the connection's input behind it, until the recorder has written that the session begins.

use std::collections::VecDeque;

use super::relay::End;
use super::*;
use crate::connection::{ChannelId, ChannelRequest, WindowSize};
use crate::limits::TAPE_SCREENS_MAX;
use crate::services::tape::Screen;
use crate::services::{Grant, Surroundings, Tape};
use crate::wire::Message;
use crate::wire::request::{self, RequestBody};

/// What a client reads whose session cannot be recorded.
const REFUSED: &str = "sessions here are recorded, and the recorder fails; ask the administrator";
const TOO_LATE: &str = "the recorder does not answer";
const INTERNAL_SFTP: &str = "internal-sftp";

/// What a connection knows of its recordings beside the tape.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Terminals of sessions.
    screens: Vec<(ChannelId, Screen)>,
    /// What the recorder has to have taken before what is held goes on.
    opening: Option<u64>,
    held: VecDeque<(ChannelId, Held)>,
    /// The tape waits for an answer.
    armed: bool,
    /// It has failed, and sessions go on without.
    off: bool,
}

/// A request that waits.
#[derive(Debug)]
pub(super) enum Held {
    Own { want_reply: bool, request: ChannelRequest },
    Relayed(Box<[u8]>),
}

impl Recording {
    pub const fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    pub const fn is_armed(&self) -> bool {
        self.armed
    }

    fn screen(&self, id: ChannelId) -> Screen {
        let screen = self.screens.iter().find(|(of, _)| *of == id);
        screen.map(|(_, screen)| screen.clone()).unwrap_or_default()
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    fn recording(&mut self, key: u32) -> Option<&mut Recording> {
        let link = self.links.get_mut(key as usize)?;
        let records = |grant: &Arc<Grant>| grant.rules.record.is_on();
        link.grant.as_ref().filter(|grant| records(grant))?;
        Some(link.recording.get_or_insert_default())
    }

    fn tape(&mut self, key: u32) -> Option<&mut Tape> {
        self.links.get_mut(key as usize)?.outgoing.tape().as_deref_mut()
    }

    /// A request about a session that is served here. Answered back when it may be carried out.
    pub(super) fn recorded_first(
        &mut self,
        key: u32,
        id: ChannelId,
        want_reply: bool,
        request: ChannelRequest,
    ) -> Option<ChannelRequest> {
        let Some(recording) = self.recording(key) else { return Some(request) };
        if recording.is_opening() {
            recording.held.push_back((id, Held::Own { want_reply, request }));
            return None;
        }
        match &request {
            ChannelRequest::PtyReq { term, size, .. } => self.note_screen(key, id, term, *size),
            ChannelRequest::WindowChange(size) => self.note_size(key, id, *size),
            _ => {}
        }
        let link = self.links.get(key as usize)?;
        let attachment = link.attachment_of(id).and_then(|n| self.attachments.get(n as usize));
        let (Some(attachment), Some(grant)) = (attachment, &link.grant) else {
            return Some(request);
        };
        if !attachment.service.is_recorded(&request, grant) {
            return Some(request);
        }
        let what = match &request {
            ChannelRequest::Exec { command } => String::from_utf8_lossy(command).into_owned(),
            ChannelRequest::Subsystem { name } => format!("subsystem {name}"),
            _ => String::new(),
        };
        match self.begin_recording(key, id, &what, Held::Own { want_reply, request }) {
            Some(Held::Own { request, .. }) => Some(request),
            _ => None,
        }
    }

    /// The same of a client's session at a host behind the gateway.
    pub(super) fn recorded_relay(
        &mut self,
        key: u32,
        id: ChannelId,
        asked: Box<[u8]>,
    ) -> Option<Box<[u8]>> {
        let Some(recording) = self.recording(key) else { return Some(asked) };
        if recording.is_opening() {
            recording.held.push_back((id, Held::Relayed(asked)));
            return None;
        }
        let Ok(request::ChannelRequest { body, .. }) = request::ChannelRequest::parse(&asked)
        else {
            return Some(asked);
        };
        let what = match body {
            RequestBody::PtyReq { term, columns, rows, .. } => {
                let term = term.to_owned();
                self.note_screen(key, id, &term, size_of(columns, rows));
                return Some(asked);
            }
            RequestBody::WindowChange { columns, rows, .. } => {
                self.note_size(key, id, size_of(columns, rows));
                return Some(asked);
            }
            RequestBody::Exec { command } => String::from_utf8_lossy(command).into_owned(),
            RequestBody::Subsystem { name } => format!("subsystem {name}"),
            RequestBody::Shell => String::new(),
            _ => return Some(asked),
        };
        let is_subsystem = matches!(body, RequestBody::Subsystem { .. });
        if !self.relayed_is_recorded(key, id, is_subsystem) {
            return Some(asked);
        }
        match self.begin_recording(key, id, &what, Held::Relayed(asked)) {
            Some(Held::Relayed(asked)) => Some(asked),
            _ => None,
        }
    }

    fn relayed_is_recorded(&mut self, key: u32, id: ChannelId, is_subsystem: bool) -> bool {
        let Some(link) = self.links.get_mut(key as usize) else { return false };
        let Some(grant) = link.grant.clone() else { return false };
        let Some(relay) = link.relay.as_deref_mut() else { return false };
        let is_client = matches!(relay.end, End::Down(_));
        let terminal = relay.couple_mut(id).is_some_and(|couple| couple.pace.terminal);
        let forced =
            grant.forced_command.as_deref().and_then(|line| line.split_whitespace().next());
        let runs = forced.is_some_and(|word| word != INTERNAL_SFTP);
        is_client && grant.rules.record.covers(terminal, is_subsystem && !runs)
    }

    fn note_screen(&mut self, key: u32, id: ChannelId, terminal: &str, size: WindowSize) {
        let Some(recording) = self.recording(key) else { return };
        recording.screens.retain(|(of, _)| *of != id);
        if recording.screens.len() >= TAPE_SCREENS_MAX {
            recording.screens.remove(0);
        }
        let WindowSize { columns, rows, .. } = size;
        recording.screens.push((id, Screen { columns, rows, terminal: terminal.into() }));
    }

    fn note_size(&mut self, key: u32, id: ChannelId, size: WindowSize) {
        let Some(recording) = self.recording(key) else { return };
        let WindowSize { columns, rows, .. } = size;
        if let Some((_, screen)) = recording.screens.iter_mut().find(|(of, _)| *of == id) {
            (screen.columns, screen.rows) = (columns, rows);
        }
        if let Some(tape) = self.tape(key) {
            tape.resize(id, columns, rows);
            self.mark_dirty(key);
        }
    }

    /// Answers the request back where nothing is to be waited for.
    fn begin_recording(&mut self, key: u32, id: ChannelId, what: &str, held: Held) -> Option<Held> {
        let recording = self.recording(key)?;
        if recording.off {
            return Some(held);
        }
        let screen = recording.screen(id);
        if self.tape(key).is_some_and(|tape| tape.covers(id)) {
            return Some(held);
        }
        if let Err(why) = self.open_tape(key) {
            self.recorder_failed(key, &why);
            return Some(held).filter(|_| self.recording(key).is_some_and(|own| own.off));
        }
        let number = self.tape(key)?.begin(id, &screen, what);
        let recording = self.recording(key)?;
        recording.opening = Some(number);
        recording.held.push_back((id, held));
        self.mark_dirty(key);
        None
    }

    fn open_tape(&mut self, key: u32) -> Result<(), String> {
        if self.tape(key).is_some() {
            return Ok(());
        }
        let link = self.links.get_mut(key as usize).ok_or("no connection")?;
        let grant = link.grant.as_ref().ok_or("no login")?;
        let socket = self.outside.recorder(link.serial, link.ends.peer, grant)?;
        *link.outgoing.tape() = Some(Box::new(Tape::new(socket)));
        Ok(())
    }

    /// Says to the recorder what it takes, and waits for its answer.
    pub(super) fn run_tape(&mut self, key: u32) {
        let now = self.driver.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let open = link.state == LinkState::Open;
        let Some(tape) = link.outgoing.tape().as_deref_mut().filter(|tape| open && !tape.is_over())
        else {
            return;
        };
        if let Err(why) = tape.pump(now) {
            self.recorder_failed(key, &why);
            return;
        }
        let (fd, waits) = (tape.fd(), tape.is_waiting());
        let Some(recording) = link.recording.as_deref_mut() else { return };
        if waits && !std::mem::replace(&mut recording.armed, true) {
            link.in_flight += 1;
            let token = Token { key, generation: link.generation, tag: TAG_TAPE };
            self.submit(token, Op::Readable { fd });
        }
    }

    /// The recorder has answered, or is gone.
    pub(super) fn tape_readable(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if let Some(recording) = &mut link.recording {
            recording.armed = false;
        }
        let open = link.state == LinkState::Open;
        let Some(tape) = link.outgoing.tape().as_deref_mut().filter(|tape| open && !tape.is_over())
        else {
            return;
        };
        match tape.hear() {
            Ok(()) => self.tape_moved(key),
            Err(why) => self.recorder_failed(key, &why),
        }
    }

    /// What was held for the recorder goes on.
    fn tape_moved(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        if let Err(error) = link.outgoing.deliver_recorded(&mut link.conn, &mut around) {
            self.fail(key, error);
            return;
        }
        self.note_waiting(key);
        let taken = self.tape(key).map_or(u64::MAX, |tape| tape.taken());
        if let Some(recording) = self.recording(key)
            && recording.opening.take_if(|number| *number <= taken).is_some()
        {
            self.go_on_with_held(key);
        }
        self.wake_services(key);
        self.grant_recorded(key);
        self.wake_others(key);
        self.mark_ready(key);
        self.mark_dirty(key);
    }

    fn go_on_with_held(&mut self, key: u32) {
        while let Some(recording) = self.recording(key)
            && !recording.is_opening()
            && let Some((id, held)) = recording.held.pop_front()
        {
            match held {
                Held::Own { want_reply, request } => self.request(key, id, want_reply, request),
                Held::Relayed(request) => self.relay_request(key, id, request),
            }
        }
    }

    /// Hosts may send more on sessions whose recorder has caught up.
    fn grant_recorded(&mut self, key: u32) {
        let mut n = 0;
        while let Some(couple) = self.relay(key).and_then(|relay| relay.couples.get(n)) {
            let own = couple.own;
            self.pass_window(key, own);
            n += 1;
        }
    }

    /// The recorder has had its time.
    pub(super) fn expire_tape(&mut self, key: u32, now: Instant) {
        let due = self.tape(key).and_then(|tape| tape.due());
        if due.is_some_and(|at| at <= now) {
            self.recorder_failed(key, TOO_LATE);
        }
    }

    /// TidegateRecordOnFailure: the connection ends, and nothing of what was held is said; or its sessions
    /// go on without.
    fn recorder_failed(&mut self, key: u32, why: &str) {
        let Some(link) = self.links.get(key as usize) else { return };
        let continues = link.grant.as_ref().is_some_and(|grant| grant.rules.record.continues);
        self.report(key, What::NotRecorded { why: why.to_owned(), continues });
        if !continues {
            self.close_link(key, disconnect::BY_APPLICATION, REFUSED);
            return;
        }
        if let Some(tape) = self.tape(key) {
            tape.give_up();
        }
        let Some(recording) = self.recording(key) else { return };
        (recording.off, recording.opening) = (true, None);
        self.tape_moved(key);
        self.go_on_with_held(key);
    }

    /// The connection is over, and nothing of it in flight.
    pub(super) fn close_tape(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if let Some(tape) = link.outgoing.tape().take() {
            self.driver.close(tape.into_fd());
        }
    }
}

fn size_of(columns: u32, rows: u32) -> WindowSize {
    WindowSize { columns, rows, ..WindowSize::default() }
}
