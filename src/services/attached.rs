//! What a session channel is attached to, and how its requests choose it.

use std::ffi::CString;
use std::net::SocketAddr;
use std::sync::Arc;

use super::process::{Login, Process, Start};
use super::sftp::Sftp;
use super::{Done, Grant, Io, Program, Service, Subsystem};
use crate::connection::ChannelRequest;
use crate::reactor::{Chunk, Errno, Op};

/// The services, one of which a channel has. A closed set: dispatch is a match.
#[derive(Debug)]
pub enum Attached {
    /// A command, a shell, or a session that has not started anything yet.
    Process(Box<Process>),
    Sftp(Box<Sftp>),
}

/// What a request led to, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    Nothing,
    Started { what: String },
    Refused { what: String, why: &'static str },
}

/// What to run for a request that starts something.
enum Chosen {
    Program(Start, String),
    Sftp,
    Refused(String, &'static str),
}

impl Attached {
    /// A session that has not been asked for anything yet.
    pub fn session(grant: &Grant, client: SocketAddr, server: SocketAddr) -> Attached {
        let login = Login {
            account: grant.account.clone(),
            client,
            server,
            set_env: grant.set_env.clone(),
            open_files: grant.open_files,
        };
        Attached::Process(Box::new(Process::new(Arc::new(login))))
    }

    /// Carries a request out as far as the grant allows, and answers it if an answer is wanted.
    pub fn on_request(
        &mut self,
        request: ChannelRequest,
        want_reply: bool,
        grant: &Grant,
        io: &mut Io<'_>,
    ) -> Noted {
        let Attached::Process(process) = self else {
            answer(false, want_reply, io);
            return Noted::Nothing;
        };
        let granted = match request {
            ChannelRequest::PtyReq { term, size, modes } if grant.pty => {
                process.request_terminal(&term, size, modes, want_reply, io);
                return Noted::Nothing;
            }
            ChannelRequest::PtyReq { .. } => {
                answer(false, want_reply, io);
                let why = "terminals are not permitted (PermitTTY, or the key's options)";
                return Noted::Refused { what: "terminal".to_owned(), why };
            }
            ChannelRequest::Env { name, value } => {
                grant.accepts_variable(&name) && process.set_variable(&name, &value)
            }
            ChannelRequest::WindowChange(size) => process.resize(size),
            ChannelRequest::Signal { name } => process.signal(&name),
            ChannelRequest::Break { .. } => process.send_break(),
            request if request.starts() => return self.start(request, want_reply, grant, io),
            _ => false,
        };
        answer(granted, want_reply, io);
        Noted::Nothing
    }

    /// How it went, for the log; `None` when nothing was ever started.
    pub fn outcome(&self) -> Option<String> {
        match self {
            Attached::Process(process) => process.outcome(),
            Attached::Sftp(_) => Some("sftp".to_owned()),
        }
    }

    fn start(
        &mut self,
        request: ChannelRequest,
        want_reply: bool,
        grant: &Grant,
        io: &mut Io<'_>,
    ) -> Noted {
        let Attached::Process(process) = self else { return Noted::Nothing };
        if !process.is_preparing() {
            answer(false, want_reply, io);
            let why = "the session has already started";
            return Noted::Refused { what: "second start".to_owned(), why };
        }
        match choose(request, grant) {
            Chosen::Program(start, what) => {
                process.start(start, want_reply, io);
                Noted::Started { what }
            }
            Chosen::Sftp => {
                process.make_way(io);
                *self = Attached::Sftp(Box::new(Sftp::new(&grant.account.home)));
                answer(true, want_reply, io);
                Noted::Started { what: "sftp".to_owned() }
            }
            Chosen::Refused(what, why) => {
                answer(false, want_reply, io);
                Noted::Refused { what, why }
            }
        }
    }
}

/// `ForceCommand` and `command=` win over everything the client may ask for, subsystems included
/// (sshd_config(5)); `internal-sftp` as the forced command serves SFTP.
fn choose(request: ChannelRequest, grant: &Grant) -> Chosen {
    let (asked, what, is_subsystem) = match request {
        ChannelRequest::Exec { command } => {
            let what = format!("command {}", String::from_utf8_lossy(&command));
            (Some(command.into_vec()), what, false)
        }
        ChannelRequest::Subsystem { name } => {
            (Some(name.to_string().into_bytes()), format!("subsystem {name}"), true)
        }
        _ => (None, "shell".to_owned(), false),
    };
    if let Some(forced) = &grant.forced_command {
        if forced.split_whitespace().next() == Some("internal-sftp") {
            return Chosen::Sftp;
        }
        let original = asked.and_then(|command| CString::new(command).ok());
        return program(forced.as_bytes(), original, false, format!("forced command for {what}"));
    }
    match (asked, is_subsystem) {
        (None, _) => {
            let program = Program::Shell;
            Chosen::Program(Start { program, original_command: None, signals: true }, what)
        }
        (Some(command), false) => program(&command, None, true, what),
        (Some(name), true) => {
            let name = String::from_utf8_lossy(&name).into_owned();
            match grant.subsystem(&name) {
                Some(Subsystem::Sftp) => Chosen::Sftp,
                Some(Subsystem::Command(command)) => program(command.as_bytes(), None, false, what),
                None => Chosen::Refused(what, "no Subsystem line names it"),
            }
        }
    }
}

fn program(
    command: &[u8],
    original_command: Option<CString>,
    signals: bool,
    what: String,
) -> Chosen {
    match CString::new(command) {
        Ok(command) => {
            let program = Program::Command(command);
            Chosen::Program(Start { program, original_command, signals }, what)
        }
        Err(_) => Chosen::Refused(what, "the command contains NUL"),
    }
}

fn answer(granted: bool, want_reply: bool, io: &mut Io<'_>) {
    if want_reply {
        io.answer_request(granted);
    }
}

impl Service for Attached {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_data(data, extended, io),
            Attached::Sftp(sftp) => sftp.on_data(data, extended, io),
        }
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_eof(io),
            Attached::Sftp(sftp) => sftp.on_eof(io),
        }
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_completion(tag, op, result, io),
            Attached::Sftp(sftp) => sftp.on_completion(tag, op, result, io),
        }
    }

    fn on_done(&mut self, tag: u16, done: Done, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_done(tag, done, io),
            Attached::Sftp(sftp) => sftp.on_done(tag, done, io),
        }
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_ready(io),
            Attached::Sftp(sftp) => sftp.on_ready(io),
        }
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_close(io),
            Attached::Sftp(sftp) => sftp.on_close(io),
        }
    }

    fn release(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.release(io),
            Attached::Sftp(sftp) => sftp.release(io),
        }
    }
}
