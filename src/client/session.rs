//! What `tidegate ssh` does with a login: one session, its streams, forwarded connections and its end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, stdin};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::background;
use super::config::{RequestTty, SessionType};
use super::forwards::{Asking, Forward, Remote};
use super::stdio::Borrowed;
use super::terminal::{Heard, Raw, size, terminal_request};
use super::voice::harmless;
use super::x11::Display;
use super::{Client, Level, Options, Person, Voice};
use crate::base::escape;
use crate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use crate::gateway::drivers::{self, Opened};
use crate::reactor::Driver;
use crate::services::Attached;
use crate::services::forward::{Forwarding, Note, Place, Target};
use crate::services::local::{Escape, Escapes};
use crate::shard::{ClientLink, News};
use crate::wire::channel::{AGENT_CHANNEL, X11_CHANNEL};

/// What a shell would answer for a program that it could not run; ssh's own for all that is not the
/// remote program's.
const FAILED: u8 = 255;

/// Logs in, runs what is wanted there, and answers its exit status.
///
/// # Errors
/// It could not be done, or not to the end: why, for the user.
pub fn run(options: &Options, voice: &Voice) -> Result<u8> {
    match drivers::open(options.driver)? {
        Opened::Uring(driver) => run_on(driver, options, voice),
        Opened::Mio(driver, why) => {
            if let Some(why) = why {
                voice.debug(format_args!("{why}; going on with mio (epoll)"));
            }
            run_on(driver, options, voice)
        }
    }
}

fn run_on<D: Driver>(driver: D, options: &Options, voice: &Voice) -> Result<u8> {
    let mut client = Client::new(driver);
    let link = client.log_in(options, Person::new(options.batch), voice);
    let outcome = link.and_then(|link| {
        let mut borrowed = Borrowed::default();
        let mut options = options.clone();
        if client.is_doubtful(link) {
            withhold(&mut options, voice)?;
        }
        let mut session = Session::new(&mut client, link, &options, voice)?;
        session.begin(&mut borrowed)?;
        session.run()
    });
    client.finish()?;
    outcome
}

/// Nothing of ours is for a host whose key has changed: it may be somebody in between (ssh_config(5),
/// StrictHostKeyChecking).
fn withhold(options: &mut Options, voice: &Voice) -> Result<()> {
    let mut held = Vec::new();
    if options.forward_agent.take().is_some() {
        held.push("Agent");
    }
    if options.forward_x11.take().is_some() {
        held.push("X11");
    }
    let forwards = [&mut options.local_forwards, &mut options.remote_forwards];
    if forwards.into_iter().map(std::mem::take).any(|list| !list.is_empty()) {
        held.push("Port");
    }
    for what in &held {
        voice.error(format_args!(
            "{what} forwarding is disabled to avoid man-in-the-middle attacks."
        ));
    }
    if options.exit_on_forward_failure && !held.is_empty() {
        bail!("Error: forwarding disabled due to host key check failure");
    }
    Ok(())
}

struct Session<'a, D: Driver> {
    client: &'a mut Client<D>,
    link: ClientLink,
    options: &'a Options,
    voice: &'a Voice,
    signals: Heard,
    socks: Asking,
    /// The one whose streams are ours; `None`: connections are forwarded and nothing else.
    channel: Option<ChannelId>,
    /// Requests about it that are unanswered, oldest first.
    asked: VecDeque<Asked>,
    /// Of the server, in the order in which it was asked, and how many have been answered.
    remotes: Vec<Remote>,
    remotes_answered: usize,
    /// Forwarded connections.
    open: BTreeMap<ChannelId, String>,
    terminal: bool,
    raw: Option<Raw>,
    /// Our X server, if programs there are to reach it.
    display: Option<Display>,
    status: Option<u8>,
    /// The channel is closed, and what it brought is written.
    closed: bool,
    finished: bool,
    /// Somebody here has had enough.
    left: bool,
    /// Somebody waits for us to go to the background.
    awaited: bool,
}

/// What a channel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Terminal,
    Agent,
    X11,
    Start,
}

impl<'a, D: Driver> Session<'a, D> {
    fn new(
        client: &'a mut Client<D>,
        link: ClientLink,
        options: &'a Options,
        voice: &'a Voice,
    ) -> Result<Session<'a, D>> {
        let waker = client.shard().driver().waker();
        let signals = Heard::listen(waker.clone()).context("signals")?;
        Ok(Session {
            client,
            link,
            options,
            voice,
            signals,
            socks: Asking::new(waker),
            channel: None,
            asked: VecDeque::new(),
            remotes: Vec::new(),
            remotes_answered: 0,
            open: BTreeMap::new(),
            terminal: false,
            raw: None,
            display: None,
            status: None,
            closed: false,
            finished: false,
            left: false,
            awaited: options.background && background::is_it(),
        })
    }

    /// Listens, asks the server to, and opens what our streams belong to.
    fn begin(&mut self, borrowed: &mut Borrowed) -> Result<()> {
        for forward in &self.options.local_forwards {
            let bound = self.listen(forward);
            self.judge_forward(bound)?;
        }
        for forward in &self.options.remote_forwards {
            let request = forward.request();
            if !self.client.shard().ask_server(self.link, &request) {
                let why = "too many requests are under way";
                self.judge_forward(Err(anyhow::anyhow!("remote forwarding of {forward}: {why}")))?;
                continue;
            }
            let port = match request {
                crate::connection::GlobalRequest::TcpipForward { port, .. } => port,
                _ => 0,
            };
            self.remotes.push(Remote { forward: forward.clone(), port, granted: false });
        }
        let kind = match &self.options.stdio_forward {
            Some(Target::Tcp { host, port }) => ChannelKind::DirectTcpip {
                host: host.clone(),
                port: *port,
                origin_host: "127.0.0.1".into(),
                origin_port: 65_535,
            },
            Some(Target::Path(path)) => ChannelKind::DirectStreamlocal { path: path.clone() },
            None if self.options.session == SessionType::None => return Ok(()),
            None => ChannelKind::Session,
        };
        self.terminal = kind == ChannelKind::Session && self.wants_terminal();
        if let Some(wanted) =
            self.options.forward_x11.as_ref().filter(|_| kind == ChannelKind::Session)
        {
            self.display = Display::find(wanted, self.client.now(), self.voice);
        }
        let at_keyboard = self.terminal && stdin().is_terminal() && !self.options.stdin_null;
        let escapes = at_keyboard.then(|| Escapes::new(self.options.escape));
        let stdio = borrowed.streams(!self.options.stdin_null).context("our standard streams")?;
        let service = Attached::local(&stdio, escapes);
        let channel = self.client.shard().open_channel(self.link, &kind, Some(service));
        self.channel = Some(channel.context("no session can be asked for")?);
        Ok(())
    }

    /// There is an agent that the server is to be lent; one that is named and not there is told of.
    fn lends_agent(&self) -> bool {
        let Some(path) = &self.options.forward_agent else { return false };
        let Err(why) = UnixStream::connect(path) else { return true };
        let name = escape(path.as_os_str().as_encoded_bytes());
        let told = format_args!("Cannot forward agent socket path \"{name}\": {why}");
        let usual = self.options.agent.as_ref() == Some(path);
        self.voice.say(if usual { Level::Debug1 } else { Level::Error }, told);
        false
    }

    fn wants_terminal(&self) -> bool {
        let here = stdin().is_terminal() && !self.options.stdin_null;
        match self.options.request_tty {
            RequestTty::No => false,
            RequestTty::Force => true,
            RequestTty::Auto if self.options.command.is_some() => false,
            RequestTty::Auto | RequestTty::Yes if here => true,
            RequestTty::Auto | RequestTty::Yes => {
                self.voice
                    .info("Pseudo-terminal will not be allocated because stdin is not a terminal.");
                false
            }
        }
    }

    fn listen(&mut self, forward: &Forward) -> Result<()> {
        let listening = forward.bind(self.options)?;
        if let Some(refused) = &listening.refused {
            self.voice.error(format_args!("Warning: cannot listen at {refused}"));
        }
        self.voice.debug(format_args!("Local connections to {forward} forwarded"));
        for socket in listening.sockets {
            match &forward.to {
                Some(target) => {
                    let place = Place::Near(target.clone());
                    self.client.shard().listen_near(self.link, socket, listening.port, place);
                }
                None => self.socks.serve(socket)?,
            }
        }
        Ok(())
    }

    fn judge_forward(&self, made: Result<()>) -> Result<()> {
        match made {
            Err(why) if self.options.exit_on_forward_failure => Err(why),
            Err(why) => {
                self.voice.error(format_args!("Warning: {why:#}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn run(&mut self) -> Result<u8> {
        while !self.is_over() {
            // With ExitOnForwardFailure they are to be there before.
            let settled = self.remotes_answered >= self.remotes.len();
            if self.awaited && (settled || !self.options.exit_on_forward_failure) {
                self.awaited = false;
                background::go(self.voice.level() >= Level::Debug1)?;
            }
            self.client.turn(None)?;
            while let Some((link, news)) = self.client.next_news() {
                let news = self.client.learn(link, news, self.voice);
                if let Some(news) = news.filter(|_| link == self.link) {
                    self.hear(news)?;
                }
            }
            while let Some(signal) = self.signals.next() {
                self.caught(signal);
            }
            while let Some(asked) = self.socks.next() {
                let (link, shard) = (self.link, self.client.shard());
                shard.send_on(link, asked.socket, &asked.target, asked.origin);
            }
        }
        let at_terminal = self.raw.take().is_some();
        self.voice.set_raw(false);
        if at_terminal {
            self.voice.info(format_args!("Connection to {} closed.", self.options.host_name));
        }
        if !self.left {
            self.client.learn_last(self.voice)?;
        }
        self.client.leave(self.link, "disconnected by user");
        if self.options.stdio_forward.is_some() && !self.left {
            return Ok(0);
        }
        let silent = self.status.is_none() && !self.left && self.options.command.is_some();
        if silent && self.channel.is_some() {
            // A shell that somebody has left may end so, on devices; a command has a status.
            let host = &self.options.host_name;
            self.voice.error(format_args!("{host} has closed the session without an exit status"));
        }
        Ok(self.status.filter(|_| !self.left).unwrap_or(FAILED))
    }

    fn is_over(&self) -> bool {
        let ended = self.channel.is_some() && self.closed && self.finished;
        self.left || ended && self.open.is_empty()
    }

    fn caught(&mut self, signal: Signal) {
        match (signal, self.channel) {
            (Signal::SIGWINCH, Some(channel)) if self.terminal => {
                let request = ChannelRequest::WindowChange(size());
                self.client.shard().ask_channel(self.link, channel, &request, false);
            }
            (Signal::SIGWINCH, _) => {}
            (signal, _) => {
                let told = format_args!("Killed by signal {}.", signal as i32);
                self.voice.say(Level::Verbose, told);
                self.left = true;
            }
        }
    }

    // ---- What the server and our services tell ------------------------------------------------

    fn hear(&mut self, news: News) -> Result<()> {
        match news {
            News::Heard(event) => self.event(event)?,
            News::Identified => {}
            News::Told { id, note } => self.told(id, note),
            News::Finished(id) => {
                self.open.remove(&id);
                self.finished |= Some(id) == self.channel;
            }
            News::Ended { .. } if self.closed => self.open.clear(),
            News::Ended { reason } => {
                self.raw = None;
                self.voice.set_raw(false);
                let host = &self.options.host_name;
                bail!("Connection to {host} is lost: {reason}");
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> Result<()> {
        let own = |id: ChannelId| Some(id) == self.channel;
        match event {
            Event::Opened { id } if own(id) => self.start(id),
            Event::OpenFailed { id, text, .. } if own(id) => {
                let what = if self.options.stdio_forward.is_some() {
                    "stdio forwarding failed"
                } else {
                    "the server opens no session"
                };
                bail!("{}: {what}: {}", self.options.host_name, harmless(&text))
            }
            Event::OpenFailed { id, text, .. } => {
                self.open.remove(&id);
                self.voice.error(format_args!("channel open failed: {}", harmless(&text)));
            }
            Event::RequestDone { id, ok } if own(id) => self.answered(id, ok)?,
            Event::Request { id, request, .. } if own(id) => self.ended(&request),
            Event::PeerClosed(id) | Event::Closed(id) if own(id) => self.closed = true,
            Event::Open { id, kind } => self.asked_for(id, &kind),
            Event::GlobalDone { ok, port } => self.remote_answered(ok, port)?,
            Event::KeyExchanged { first: false } => self.voice.debug("New keys are in use"),
            _ => {}
        }
        Ok(())
    }

    fn told(&mut self, id: ChannelId, note: Note) {
        match note {
            Note::Opened { what } => {
                // Of a connection by SOCKS it is whoever speaks there that names the host.
                let what = harmless(&what);
                self.voice.debug(format_args!("forwarding {what}"));
                self.open.insert(id, what);
            }
            Note::Failed { what, why } => {
                self.voice.info(format_args!("{}: {}", harmless(&what), harmless(&why)));
            }
            Note::Ended { what, bytes_in, bytes_out, reason } => {
                let what = harmless(&what);
                self.voice.debug(format_args!(
                    "forwarded {what}: {bytes_in} bytes from the server, {bytes_out} to it; {reason}"
                ));
            }
            Note::Typed(typed) => self.typed(typed),
            // Nothing of ours is attached as a guest.
            Note::Reached => {}
            // `tidegate cp` alone opens such channels.
            Note::Sftp(_) => {}
            // Nobody audits us.
            Note::File(_) => {}
            Note::Deaf => {
                let request = ChannelRequest::EndOfWrite;
                self.client.shard().ask_channel(self.link, id, &request, false);
            }
        }
    }

    /// The channel is open: what is to run there?
    fn start(&mut self, id: ChannelId) {
        if self.options.stdio_forward.is_some() {
            self.read_on(id);
            return;
        }
        let lends_agent = self.lends_agent();
        let mut ask = |request: &ChannelRequest, asked: Option<Asked>| {
            let (shard, wanted) = (self.client.shard(), asked.is_some());
            if shard.ask_channel(self.link, id, request, wanted) {
                self.asked.extend(asked);
            }
        };
        if let Some(request) = self.display.as_ref().and_then(Display::request) {
            self.voice.debug("Requesting X11 forwarding with authentication spoofing.");
            ask(&request, Some(Asked::X11));
        }
        if lends_agent {
            ask(&ChannelRequest::AgentForward, Some(Asked::Agent));
        }
        if self.terminal {
            ask(&terminal_request(), Some(Asked::Terminal));
        }
        for (name, value) in &self.options.variables {
            let (name, value) = (name.as_str().into(), value.as_bytes().into());
            ask(&ChannelRequest::Env { name, value }, None);
        }
        let start = match (&self.options.command, self.options.session) {
            (Some(name), SessionType::Subsystem) => {
                ChannelRequest::Subsystem { name: String::from_utf8_lossy(name).into() }
            }
            (Some(command), _) => ChannelRequest::Exec { command: command.clone().into() },
            (None, _) => ChannelRequest::Shell,
        };
        ask(&start, Some(Asked::Start));
    }

    fn answered(&mut self, id: ChannelId, ok: bool) -> Result<()> {
        match self.asked.pop_front() {
            Some(Asked::Terminal) if !ok => {
                self.terminal = false;
                self.voice.info("PTY allocation request failed: the server gives no terminal");
            }
            Some(Asked::X11) if !ok => {
                self.display = None;
                self.voice.info("X11 forwarding request failed: the server does not forward it");
            }
            Some(Asked::Agent) if !ok => {
                self.voice.info("the server does not forward the agent");
            }
            Some(Asked::Start) if !ok => {
                let what = match (&self.options.command, self.options.session) {
                    (_, SessionType::Subsystem) => "subsystem",
                    (Some(_), _) => "exec",
                    (None, _) => "shell",
                };
                let host = &self.options.host_name;
                bail!("{host}: {what} request failed: the server does not start it");
            }
            Some(Asked::Start) => {
                if self.terminal && stdin().is_terminal() && !self.options.stdin_null {
                    self.raw = Raw::enter().ok();
                    self.voice.set_raw(self.raw.is_some());
                }
                self.read_on(id);
            }
            _ => {}
        }
        Ok(())
    }

    fn read_on(&mut self, id: ChannelId) {
        let link = self.link;
        self.client.shard().with_channel(link, id, |service, io| service.read_locally(io));
    }

    /// How the program has ended.
    fn ended(&mut self, request: &ChannelRequest) {
        match request {
            ChannelRequest::ExitStatus { code } => self.status = Some(*code as u8),
            ChannelRequest::ExitSignal { name, core_dumped, text } => {
                let (name, text) = (escape(name.as_bytes()), harmless(text));
                let core = if *core_dumped { " (core dumped)" } else { "" };
                let told = format_args!("Killed by signal {name}{core} there. {text}");
                self.voice.say(Level::Verbose, told);
                self.status = Some(FAILED);
            }
            _ => {}
        }
    }

    // ---- Forwarded connections ----------------------------------------------------------------

    fn remote_answered(&mut self, ok: bool, port: Option<u32>) -> Result<()> {
        let Some(remote) = self.remotes.get_mut(self.remotes_answered) else { return Ok(()) };
        self.remotes_answered += 1;
        remote.granted = ok;
        let forward = remote.forward.clone();
        if !ok {
            let why = anyhow::anyhow!("remote port forwarding failed for listen {forward}");
            return self.judge_forward(Err(why));
        }
        // Some servers tell the port that they were asked for.
        if let Some(port) = port.filter(|_| remote.port == 0) {
            remote.port = port;
            let to = match &remote.forward.to {
                Some(target) => format!(" to {target}"),
                None => String::new(),
            };
            self.voice.info(format_args!("Allocated port {port} for remote forward{to}"));
        }
        self.voice.debug(format_args!("remote forward success for: listen {forward}"));
        Ok(())
    }

    /// The server opens a channel: only what it was asked for leads anywhere (SECURITY case 94).
    fn asked_for(&mut self, id: ChannelId, kind: &ChannelKind) {
        if matches!(kind, ChannelKind::Other { name, .. } if &**name == X11_CHANNEL) {
            self.x11_asked_for(id);
            return;
        }
        let agent = match kind {
            ChannelKind::Other { name, .. } if &**name == AGENT_CHANNEL => {
                self.options.forward_agent.as_ref()
            }
            _ => None,
        };
        let service = match agent {
            Some(path) => self
                .client
                .lend(self.link)
                .map(|bind| Attached::agent(path.as_os_str().as_encoded_bytes().into(), bind)),
            None => {
                let remote = self.remotes.iter().find(|remote| remote.is_for(kind));
                remote.map(|remote| match &remote.forward.to {
                    Some(target) => Attached::forward(target.clone(), &Forwarding::default()),
                    None => Attached::socks(self.options.remote_open.clone()),
                })
            }
        };
        let (link, shard) = (self.link, self.client.shard());
        match service {
            Some(service) => shard.serve_channel(link, id, service),
            None => {
                self.voice.info("the server opens a channel that it was not asked for; refused");
                shard.refuse_channel(link, id, "not asked for");
            }
        }
    }

    /// A program there wants to reach our X server.
    fn x11_asked_for(&mut self, id: ChannelId) {
        let (link, now) = (self.link, self.client.now());
        match self.display.as_ref().map(|display| display.serve(now)) {
            Some(Some(service)) => self.client.shard().serve_channel(link, id, service),
            Some(None) => {
                let told = "Rejected X11 connection after ForwardX11Timeout expired";
                self.voice.say(Level::Verbose, told);
                self.client.shard().refuse_channel(link, id, "too late");
            }
            None => {
                self.voice.error(
                    "Warning: ssh server tried X11 forwarding.\n\
                     Warning: this is probably a break-in attempt by a malicious server.",
                );
                self.client.shard().refuse_channel(link, id, "not asked for");
            }
        }
    }

    // ---- The keyboard -------------------------------------------------------------------------

    fn set_level(&self, level: Level) {
        self.voice.set_level(level);
        self.voice.answer(format_args!("[LogLevel {}]", level.name()));
    }

    fn typed(&mut self, escape: Escape) {
        let character = self.options.escape.unwrap_or(b'~') as char;
        self.voice.answer(format_args!("{character}{}", escape.letter()));
        match escape {
            Escape::Leave => self.left = true,
            Escape::Suspend => {
                if let Some(raw) = &self.raw {
                    raw.suspend();
                    // It may have another size by now.
                    self.caught(Signal::SIGWINCH);
                }
            }
            Escape::Break => {
                if let Some(channel) = self.channel {
                    let request = ChannelRequest::Break { milliseconds: 1000 };
                    self.client.shard().ask_channel(self.link, channel, &request, false);
                }
            }
            Escape::Rekey => self.client.shard().renew_keys(self.link),
            Escape::Quieter => self.set_level(self.voice.level().quieter()),
            Escape::Louder => self.set_level(self.voice.level().louder()),
            Escape::List => {
                let mut text = "The following connections are open:".to_owned();
                let own = self.channel.map(|_| "client-session");
                let open = own.into_iter().chain(self.open.values().map(String::as_str));
                for (number, what) in open.enumerate() {
                    text.push_str(&format!("\n  #{number} {what}"));
                }
                self.voice.answer(text);
            }
            Escape::Help => self.voice.answer(help(character)),
            Escape::Background | Escape::CommandLine => {
                self.voice.answer("there is no such command here");
            }
        }
    }
}

fn help(character: char) -> String {
    let c = character;
    format!(
        "Supported escape sequences:\n {c}.   - terminate connection\n \
         {c}B   - send a BREAK to the remote system\n {c}R   - request rekey\n \
         {c}V/v - decrease/increase verbosity (LogLevel)\n {c}^Z  - suspend\n \
         {c}#   - list forwarded connections\n {c}?   - this message\n \
         {c}{c}   - send the escape character by typing it twice\n\
         (Note that escapes are only recognized immediately after newline.)"
    )
}
