//! What a session channel is attached to, and how its requests choose it.

use std::ffi::CString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::forward::{Cookies, Display, Forward, Forwarding, Permits, Target};
use super::local::{Escapes, Local, Stdio};
use super::process::{Login, Process, Start};
use super::scp::{self, Scp};
use super::sftp::{Flags, Options, Sftp};
use super::sftp_client::SftpClient;
use super::{
    Account, Done, Grant, Guest, Io, Luggage, Notice, Prelude, Program, Rules, Service, Subsystem,
    Unpacking,
};
use crate::connection::ChannelRequest;
use crate::reactor::{Chunk, Errno, Fd, Op};
use crate::wire::Malformed;

const INTERNAL_SFTP: &str = "internal-sftp";
/// What sshd says to who asks for something else, and its exit statuses.
const SFTP_ONLY: &str = "This service allows sftp connections only.\n";
const SFTP_ONLY_STATUS: u8 = 1;
const NO_LOGIN_STATUS: u8 = 254;
const EXPIRED: &str =
    "WARNING: Your password has expired.\nPassword change required but no TTY available.\n";
const EXPIRED_STATUS: u8 = 1;

/// What is packed.
const PROCESS: u8 = 1;
const FORWARD: u8 = 2;
const SFTP: u8 = 3;

/// The services, one of which a channel has. A closed set: dispatch is a match.
#[derive(Debug)]
pub enum Attached {
    /// A command, a shell, or a session that has not started anything yet.
    Process(Box<Process>),
    Sftp(Box<Sftp>),
    Scp(Box<Scp>),
    /// A connection to elsewhere.
    Forward(Box<Forward>),
    /// Our own standard streams, as a client.
    Local(Box<Local>),
    /// Something of whoever opened the channel, as a client.
    Guest(Box<dyn Guest>),
    /// Files of a server, as a client.
    SftpClient(Box<SftpClient>),
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
    /// With the options behind its name.
    Sftp(Box<Options>),
    Scp(Box<scp::Command>, String),
    Refused(String, &'static str),
}

impl Attached {
    /// A session that has not been asked for anything yet.
    pub fn session(grant: &Grant, client: SocketAddr, server: SocketAddr) -> Attached {
        let login = Attached::login(grant, client, server);
        Attached::Process(Box::new(Process::new(Arc::new(login))))
    }

    fn login(grant: &Grant, client: SocketAddr, server: SocketAddr) -> Login {
        Login {
            account: grant.account.clone(),
            client,
            server,
            set_env: grant.set_env.clone(),
            open_files: grant.open_files,
            rules: grant.rules.clone(),
        }
    }

    /// A connection that the client wants made; [`Attached::begin`] starts it.
    pub fn forward(target: Target, rules: &Forwarding) -> Attached {
        Attached::Forward(Box::new(Forward::new(target, rules)))
    }

    /// One to where somebody says by SOCKS on the channel, of what `permits` lists.
    pub fn socks(permits: Permits) -> Attached {
        Attached::Forward(Box::new(Forward::socks(permits)))
    }

    /// A connection to an X server, for whoever has the fake one of these cookies.
    pub fn display(target: Target, cookies: Cookies) -> Attached {
        Attached::Forward(Box::new(Forward::display(target, cookies)))
    }

    /// The same to an agent that is lent, which is told first for whom it will sign.
    pub fn agent(path: Box<[u8]>, bind: Box<[u8]>) -> Attached {
        Attached::Forward(Box::new(Forward::agent(path, bind)))
    }

    /// A connection that was taken for the client, which is asked to open the channel.
    pub fn offered(kind: &'static str, what: String, socket: Fd) -> Attached {
        Attached::Forward(Box::new(Forward::offered(kind, what, socket)))
    }

    /// The client has opened the channel that we asked for.
    pub fn opened(&mut self, io: &mut Io<'_>) {
        if let Attached::Forward(forward) = self {
            forward.opened(io);
        }
    }

    /// The client has refused it, and the channel is gone.
    pub fn refused(&mut self, why: &str, io: &mut Io<'_>) {
        if let Attached::Forward(forward) = self {
            forward.refused(why, io);
        }
    }

    /// The client's agent is to be had before the session's program starts. `false`: this is no
    /// program's session.
    pub const fn await_agent(&mut self, want_reply: bool) -> bool {
        match self {
            Attached::Process(process) => process.await_agent(want_reply),
            _ => false,
        }
    }

    /// Where the client's agent can be found from now on; `None`: nowhere.
    pub fn agent_made(&mut self, path: Option<PathBuf>, io: &mut Io<'_>) {
        if let Attached::Process(process) = self {
            process.agent_made(path, io);
        }
    }

    /// The client's X server is to be had before the session's program starts. `false`: this is no
    /// program's session, or it has one.
    pub const fn await_display(&mut self, want_reply: bool) -> bool {
        match self {
            Attached::Process(process) => process.await_display(want_reply),
            _ => false,
        }
    }

    /// Where the client's X server can be found; `None`: nowhere.
    pub fn display_made(&mut self, display: Option<Display>, io: &mut Io<'_>) {
        if let Attached::Process(process) = self {
            process.display_made(display, io);
        }
    }

    /// It could go on in another process as it is now.
    pub fn may_move(&self) -> bool {
        match self {
            Attached::Process(process) => process.may_move(),
            Attached::Forward(forward) => forward.may_move(),
            Attached::Sftp(sftp) => sftp.may_move(),
            Attached::Scp(_)
            | Attached::Local(_)
            | Attached::Guest(_)
            | Attached::SftpClient(_) => false,
        }
    }

    /// Begins nothing more, and asks back what may wait for somebody else: it is to go on in another process.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.halt(io),
            Attached::Forward(forward) => forward.halt(io),
            Attached::Sftp(sftp) => sftp.halt(io),
            _ => {}
        }
    }

    /// How much it packs of data that came by its channel, at most.
    pub const fn burden(&self) -> u32 {
        match self {
            Attached::Process(process) => process.unwritten(),
            Attached::Forward(forward) => forward.unwritten(),
            _ => 0,
        }
    }

    /// Goes on: it has come from another process, or could not go there.
    pub fn go_on(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.go_on(io),
            Attached::Forward(forward) => forward.go_on(io),
            Attached::Sftp(sftp) => sftp.go_on(io),
            _ => {}
        }
    }

    /// Packs what has halted and has nothing in flight; nothing is left here but to be released. `false`: it
    /// is nothing that moves.
    pub fn pack(&mut self, out: &mut Luggage, io: &mut Io<'_>) -> bool {
        match self {
            Attached::Process(process) => {
                out.byte(PROCESS);
                process.pack(out, io);
            }
            Attached::Forward(forward) => {
                out.byte(FORWARD);
                forward.pack(out);
            }
            Attached::Sftp(sftp) => {
                out.byte(SFTP);
                sftp.pack(out, io);
            }
            _ => return false,
        }
        true
    }

    /// What [`Attached::pack`] packed of a connection with these ends; [`Attached::go_on`] is to be called. Where
    /// it fails the descriptors are nobody's.
    pub fn unpack(
        from: &mut Unpacking<'_>,
        grant: &Grant,
        (client, server): (SocketAddr, SocketAddr),
    ) -> Result<Attached, Malformed> {
        Ok(match from.byte()? {
            PROCESS => {
                let login = Arc::new(Attached::login(grant, client, server));
                Attached::Process(Box::new(Process::unpack(login, from)?))
            }
            FORWARD => Attached::Forward(Box::new(Forward::unpack(from)?)),
            SFTP => {
                let Account { home, name, .. } = &grant.account;
                let sftp = Sftp::unpack(grant.place.root(), (home, name), from)?;
                Attached::Sftp(Box::new(sftp))
            }
            _ => return Err(Malformed::Range),
        })
    }

    /// Our own streams and the server's session.
    pub fn local(stdio: &Stdio, escapes: Option<Escapes>) -> Attached {
        Attached::Local(Box::new(Local::new(stdio, escapes)))
    }

    /// The files of a server that is asked for its sftp subsystem.
    pub fn files(client: SftpClient) -> Attached {
        Attached::SftpClient(Box::new(client))
    }

    /// Those files, if this is them.
    pub fn as_files(&mut self) -> Option<&mut SftpClient> {
        match self {
            Attached::SftpClient(client) => Some(client),
            _ => None,
        }
    }

    /// The session runs: what our standard input has may go.
    pub fn read_locally(&mut self, io: &mut Io<'_>) {
        if let Attached::Local(local) = self {
            local.begin(io);
        }
    }

    /// Starts what runs without being asked for more.
    pub fn begin(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Forward(forward) => forward.begin(io),
            Attached::Guest(guest) => guest.begin(io),
            _ => {}
        }
    }

    /// The channel's type, as ChannelTimeout names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Attached::Process(_)
            | Attached::Sftp(_)
            | Attached::Scp(_)
            | Attached::Local(_)
            | Attached::Guest(_)
            | Attached::SftpClient(_) => "session",
            Attached::Forward(forward) => forward.kind(),
        }
    }

    /// A connection that is still being made.
    pub const fn is_pending(&self) -> bool {
        matches!(self, Attached::Forward(forward) if forward.is_pending())
    }

    /// The channel is gone and something of it is still to be done: [`Service::on_ready`] is called
    /// as before, [`Service::release`] when this is over.
    pub fn lingers(&self) -> bool {
        match self {
            Attached::Forward(forward) => forward.lingers(),
            Attached::Local(local) => local.lingers(),
            Attached::Process(process) => process.lingers(),
            Attached::Sftp(_) | Attached::Scp(_) | Attached::Guest(_) | Attached::SftpClient(_) => {
                false
            }
        }
    }

    /// How much of it there is: bytes of the channel that have not been written.
    pub fn lingering_bytes(&self) -> u32 {
        match self {
            Attached::Forward(forward) if forward.lingers() => forward.unwritten(),
            Attached::Process(process) if process.lingers() => process.unwritten(),
            // Of our own streams there are three.
            _ => 0,
        }
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
            ChannelRequest::EndOfWrite => process.stop_output(io),
            request if request.starts() => return self.start(request, want_reply, grant, io),
            _ => false,
        };
        answer(granted, want_reply, io);
        Noted::Nothing
    }

    /// How the client identified itself, which tells how it speaks SFTP.
    pub fn know_client(&mut self, ident: &[u8]) {
        if let Attached::Sftp(sftp) = self {
            sftp.know_client(ident);
        }
    }

    /// A program is to run for this request, and what is seen of it is recorded.
    pub fn is_recorded(&self, request: &ChannelRequest, grant: &Grant) -> bool {
        let Attached::Process(process) = self else { return false };
        if !grant.rules.record.is_on() || !request.starts() || !process.is_preparing() {
            return false;
        }
        let terminal = process.has_terminal();
        let is_subsystem = matches!(request, ChannelRequest::Subsystem { .. });
        let is_subsystem = is_subsystem && grant.forced_command.is_none();
        // What sessions are told in place of a program is no secret.
        let runs = |start: &Start| !matches!(start.program, Program::Notice(_));
        grant.rules.record.covers(terminal, is_subsystem)
            && matches!(choose(request.clone(), grant, terminal), Chosen::Program(start, _) if runs(&start))
    }

    /// Somebody sits at a terminal, it seems.
    pub const fn has_terminal(&self) -> bool {
        match self {
            Attached::Process(process) => process.has_terminal(),
            _ => false,
        }
    }

    /// How it went, for the log; `None` when nothing was ever started.
    pub fn outcome(&self) -> Option<String> {
        match self {
            Attached::Process(process) => process.outcome(),
            Attached::Sftp(_) => Some("sftp".to_owned()),
            Attached::Scp(scp) => Some(scp.outcome()),
            // It tells by itself.
            Attached::Forward(_)
            | Attached::Local(_)
            | Attached::Guest(_)
            | Attached::SftpClient(_) => None,
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
        match choose(request, grant, process.has_terminal()) {
            Chosen::Program(start, what) => {
                process.start(start, want_reply, io);
                Noted::Started { what }
            }
            Chosen::Scp(command, what) => {
                process.make_way(io);
                answer(true, want_reply, io);
                let scp = Scp::start(*command, grant.place.root(), &grant.account.home, io);
                *self = Attached::Scp(Box::new(scp));
                Noted::Started { what }
            }
            Chosen::Sftp(options) => {
                process.make_way(io);
                let Account { home, name, .. } = &grant.account;
                let mut options = *options;
                if grant.place.has_quota() {
                    options.deny_copies();
                }
                let mut sftp = Sftp::new(grant.place.root(), home, name, options);
                if grant.rules.audited {
                    sftp.watch();
                }
                *self = Attached::Sftp(Box::new(sftp));
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

/// What a client asked to have started.
struct Asked {
    /// As a command line; a shell has none.
    command: Option<Vec<u8>>,
    subsystem: Option<Subsystem>,
    /// For the log.
    what: String,
}

/// `ForceCommand` and `command=` win over everything the client may ask for, subsystems included
/// (sshd_config(5)); `internal-sftp` as the forced command serves SFTP to who asks for it.
fn choose(request: ChannelRequest, grant: &Grant, has_terminal: bool) -> Chosen {
    let asked = match asked(request, grant) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let what = asked.what;
    let confined = !grant.place.is_system();
    if grant.rules.no_login.is_some() && confined {
        return Chosen::Refused(what, "/etc/nologin exists");
    }
    if let Some(text) = &grant.rules.no_login {
        return notice(text, true, NO_LOGIN_STATUS, format!("/etc/nologin for {what}"));
    }
    if let Some(text) = &grant.rules.no_session {
        return match confined {
            true => Chosen::Refused(what, "PAM has opened no session"),
            false => notice(text, false, NO_LOGIN_STATUS, format!("PAM's refusal for {what}")),
        };
    }
    if grant.rules.must_change {
        return new_password(confined, has_terminal, what);
    }
    let is_subsystem = asked.subsystem.is_some();
    let Some(forced) = &grant.forced_command else {
        return match (asked.subsystem, asked.command) {
            (Some(Subsystem::Sftp(line)), _) => sftp(&line, what),
            (Some(Subsystem::Command(command)), _) => {
                run(grant, Some(command.as_bytes()), None, is_subsystem, what)
            }
            (None, command) => {
                let command = command.as_deref();
                match command.and_then(|command| scp(command, grant, has_terminal)) {
                    Some(copy) => {
                        // As the client has written it.
                        let line = what.strip_prefix("command ").unwrap_or(&what);
                        Chosen::Scp(Box::new(copy), line.to_owned())
                    }
                    None => run(grant, command, None, is_subsystem, what),
                }
            }
        };
    };
    let what = format!("forced command for {what}");
    if forced.split_whitespace().next() == Some(INTERNAL_SFTP) {
        return match is_subsystem {
            true => sftp(forced, what),
            false if confined => Chosen::Refused(what, "ForceCommand is internal-sftp"),
            false => notice(SFTP_ONLY, false, SFTP_ONLY_STATUS, what),
        };
    }
    let original = asked.command.and_then(|command| CString::new(command).ok());
    run(grant, Some(forced.as_bytes()), Some(original), is_subsystem, what)
}

fn asked(request: ChannelRequest, grant: &Grant) -> Result<Asked, Chosen> {
    Ok(match request {
        ChannelRequest::Exec { command } => {
            let what = format!("command {}", String::from_utf8_lossy(&command));
            Asked { command: Some(command.into_vec()), subsystem: None, what }
        }
        ChannelRequest::Subsystem { name } => {
            let what = format!("subsystem {name}");
            let Some(subsystem) = grant.subsystem(&name).cloned() else {
                return Err(Chosen::Refused(what, "no Subsystem line names it"));
            };
            let command = match &subsystem {
                Subsystem::Sftp(line) | Subsystem::Command(line) => line.clone(),
            };
            Asked { command: Some(command.into_bytes()), subsystem: Some(subsystem), what }
        }
        _ => Asked { command: None, subsystem: None, what: "shell".to_owned() },
    })
}

/// In process only if the account's shell would do just the same.
fn scp(command: &[u8], grant: &Grant, has_terminal: bool) -> Option<scp::Command> {
    let shell = grant.place.is_files() || scp::is_plain_shell(&grant.account.shell);
    let may = grant.scp && !has_terminal && shell;
    if may { scp::Command::parse(command) } else { None }
}

fn sftp(line: &str, what: String) -> Chosen {
    match Flags::of_internal(line) {
        Ok(flags) => Chosen::Sftp(Box::new(flags.options)),
        // Checked when the line was read; if it changed since, nobody gets more than was meant.
        Err(_) => Chosen::Refused(what, "the options of internal-sftp make no sense"),
    }
}

/// `forced`: it is a forced command, and what the client asked for if that was a command.
fn run(
    grant: &Grant,
    command: Option<&[u8]>,
    forced: Option<Option<CString>>,
    is_subsystem: bool,
    what: String,
) -> Chosen {
    if grant.place.is_files() {
        let why = match is_subsystem {
            true => "this login has files alone: its Subsystem line has to say internal-sftp",
            false => "this login has files alone: sftp and scp",
        };
        return Chosen::Refused(what, why);
    }
    let program = match command.map(CString::new) {
        None => Program::Shell,
        Some(Ok(command)) => Program::Command(command),
        Some(Err(_)) => return Chosen::Refused(what, "the command contains NUL"),
    };
    let rules = &grant.rules;
    // As in sshd: not for subsystems, nor where the administrator says what runs.
    let user_rc = rules.user_rc && !is_subsystem && !rules.forced_by_settings;
    let prelude = match grant.place.is_system() {
        true => {
            let Rules { last_login, motd, .. } = *rules;
            Prelude { last_login, motd, text: true, user_rc, system_rc: true }
        }
        // What shows and runs them is not in there.
        false => Prelude::default(),
    };
    let signals = forced.is_none() && !is_subsystem;
    let original_command = forced.flatten();
    Chosen::Program(Start { program, original_command, signals, prelude }, what)
}

/// As with sshd, nothing but passwd runs until there is a new password.
fn new_password(confined: bool, has_terminal: bool, what: String) -> Chosen {
    let what = format!("a new password for {what}");
    if confined {
        return Chosen::Refused(what, "the password has expired");
    }
    if !has_terminal {
        return notice(EXPIRED, true, EXPIRED_STATUS, what);
    }
    let (program, prelude) = (Program::NewPassword, Prelude::default());
    Chosen::Program(Start { program, original_command: None, signals: false, prelude }, what)
}

fn notice(text: &str, as_error: bool, status: u8, what: String) -> Chosen {
    let Ok(text) = CString::new(text) else { return Chosen::Refused(what, "a NUL in its text") };
    let program = Program::Notice(Notice { text, as_error, status });
    let (original_command, prelude) = (None, Prelude::default());
    Chosen::Program(Start { program, original_command, signals: false, prelude }, what)
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
            Attached::Scp(scp) => scp.on_data(data, extended, io),
            Attached::Forward(forward) => forward.on_data(data, extended, io),
            Attached::Local(local) => local.on_data(data, extended, io),
            Attached::Guest(guest) => guest.on_data(data, extended, io),
            Attached::SftpClient(client) => client.on_data(data, extended, io),
        }
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_eof(io),
            Attached::Sftp(sftp) => sftp.on_eof(io),
            Attached::Scp(scp) => scp.on_eof(io),
            Attached::Forward(forward) => forward.on_eof(io),
            Attached::Local(local) => local.on_eof(io),
            Attached::Guest(guest) => guest.on_eof(io),
            Attached::SftpClient(client) => client.on_eof(io),
        }
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_completion(tag, op, result, io),
            Attached::Sftp(sftp) => sftp.on_completion(tag, op, result, io),
            Attached::Scp(scp) => scp.on_completion(tag, op, result, io),
            Attached::Forward(forward) => forward.on_completion(tag, op, result, io),
            Attached::Local(local) => local.on_completion(tag, op, result, io),
            Attached::Guest(guest) => guest.on_completion(tag, op, result, io),
            Attached::SftpClient(client) => client.on_completion(tag, op, result, io),
        }
    }

    fn on_done(&mut self, tag: u16, done: Done, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_done(tag, done, io),
            Attached::Sftp(sftp) => sftp.on_done(tag, done, io),
            Attached::Scp(scp) => scp.on_done(tag, done, io),
            Attached::Forward(forward) => forward.on_done(tag, done, io),
            Attached::Local(local) => local.on_done(tag, done, io),
            Attached::Guest(guest) => guest.on_done(tag, done, io),
            Attached::SftpClient(client) => client.on_done(tag, done, io),
        }
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_ready(io),
            Attached::Sftp(sftp) => sftp.on_ready(io),
            Attached::Scp(scp) => scp.on_ready(io),
            Attached::Forward(forward) => forward.on_ready(io),
            Attached::Local(local) => local.on_ready(io),
            Attached::Guest(guest) => guest.on_ready(io),
            Attached::SftpClient(client) => client.on_ready(io),
        }
    }

    fn on_turn_over(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_turn_over(io),
            Attached::Forward(forward) => forward.on_turn_over(io),
            Attached::Local(local) => local.on_turn_over(io),
            Attached::Guest(guest) => guest.on_turn_over(io),
            // None of them asks for it.
            Attached::Sftp(_) | Attached::Scp(_) | Attached::SftpClient(_) => {}
        }
    }

    fn yield_memory(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.yield_memory(io),
            Attached::Forward(forward) => forward.yield_memory(io),
            Attached::Local(local) => local.yield_memory(io),
            Attached::Guest(guest) => guest.yield_memory(io),
            // Files are written in the end.
            Attached::Sftp(_) | Attached::Scp(_) | Attached::SftpClient(_) => {}
        }
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.on_close(io),
            Attached::Sftp(sftp) => sftp.on_close(io),
            Attached::Scp(scp) => scp.on_close(io),
            Attached::Forward(forward) => forward.on_close(io),
            Attached::Local(local) => local.on_close(io),
            Attached::Guest(guest) => guest.on_close(io),
            Attached::SftpClient(client) => client.on_close(io),
        }
    }

    fn release(&mut self, io: &mut Io<'_>) {
        match self {
            Attached::Process(process) => process.release(io),
            Attached::Sftp(sftp) => sftp.release(io),
            Attached::Scp(scp) => scp.release(io),
            Attached::Forward(forward) => forward.release(io),
            Attached::Local(local) => local.release(io),
            Attached::Guest(guest) => guest.release(io),
            Attached::SftpClient(client) => client.release(io),
        }
    }
}
