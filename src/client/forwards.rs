//! Forwarded connections: what is asked for, where is listened, and where channels lead that the
//! server opens.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result, bail};

use super::Options;
use crate::connection::{ChannelKind, GlobalRequest};
use crate::gateway::names::service_port;
use crate::limits::{ACCEPT_REST, HOST_BYTES_MAX, SOCKS_AT_ONCE_MAX, SOCKS_TIME_MAX};
use crate::reactor::{Fd, Waker};
use crate::services::forward::{
    BIND_MASK, GatewayPorts, ListenSpec, Listening, Outcome, Place, Socks, Step, Target, listen_at,
};

/// One `-L`, `-R` or `-D`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub listen: Listen,
    /// `None`: each connection says where to (SOCKS).
    pub to: Option<Target>,
}

/// Where connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// No address: as GatewayPorts says.
    Tcp {
        address: Option<String>,
        port: u16,
    },
    Path(String),
}

/// What a [`Forward`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// To one place.
    Fixed,
    /// `-D`: to where each connection says, from a port.
    Dynamic,
    /// `-R` in one word: either.
    Either,
}

impl Forward {
    /// `[address:]port:host:port` in one word or two, with paths in place of either end, or
    /// `[address:]port` alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(words: &[String], form: Form) -> Result<Forward, String> {
        let parts: Vec<String> = words.iter().flat_map(|word| split(word)).collect();
        let bad = || {
            let form = if form == Form::Dynamic { "" } else { ":host:port" };
            format!("{:?} is no [address:]port{form}", words.join(" "))
        };
        let named = |text: &str| service_port(text).or_else(|| text.parse::<u16>().ok());
        let port = |text: &str| named(text).ok_or_else(|| format!("{text:?} is no port"));
        // As in ssh: a slash anywhere makes a path of it, which may begin in the working directory.
        let is_path = |text: &str| text.contains('/');
        let (listen, rest) = match parts.as_slice() {
            [path, rest @ ..] if is_path(path) => (Listen::Path(path.clone()), rest),
            [only, rest @ ..]
                if matches!(rest.len(), 0 | 2) || rest.len() == 1 && is_path(&rest[0]) =>
            {
                (Listen::Tcp { address: None, port: port(only)? }, rest)
            }
            [address, at, rest @ ..] if rest.len() <= 2 => {
                (Listen::Tcp { address: Some(address.clone()), port: port(at)? }, rest)
            }
            _ => return Err(bad()),
        };
        let to = match rest {
            // Who speaks SOCKS here comes to a port.
            [] if form == Form::Dynamic && matches!(listen, Listen::Tcp { .. }) => None,
            [] if form == Form::Either => None,
            _ if form == Form::Dynamic => return Err(bad()),
            [path] if is_path(path) => Some(Target::Path(path.as_bytes().into())),
            [host, to] if host.len() <= HOST_BYTES_MAX as usize && !host.is_empty() => {
                let port = port(to)?.into();
                Some(Target::Tcp { host: host.as_str().into(), port })
            }
            _ => return Err(bad()),
        };
        Ok(Forward { listen, to })
    }

    /// Listens here.
    ///
    /// # Errors
    /// Why not.
    pub fn bind(&self, options: &Options) -> Result<Listening> {
        let (place, gateway_ports) = match &self.listen {
            Listen::Path(path) => (Place::Path(path.as_bytes().into()), GatewayPorts::No),
            Listen::Tcp { address, port } => {
                let everywhere = if options.gateway_ports { "" } else { "localhost" };
                let address = address.as_deref().unwrap_or(everywhere);
                let address = address.into();
                let place = Place::Tcp { address, port: u32::from(*port) };
                (place, GatewayPorts::ClientSpecified)
            }
        };
        let (inet, inet6) = (options.ipv4, options.ipv6);
        let mask = options.bind_mask.unwrap_or(BIND_MASK);
        let unlink = options.bind_unlink;
        let spec = ListenSpec { place, gateway_ports, inet, inet6, mask, unlink };
        listen_at(&spec).with_context(|| format!("cannot listen at {self}"))
    }

    /// What the server is asked for, to listen there.
    pub fn request(&self) -> GlobalRequest {
        match &self.listen {
            Listen::Tcp { address, port } => {
                // RFC 4254 §7.1: an empty address is every one; ours is none but the server's own.
                let address = match address.as_deref() {
                    None => "localhost",
                    Some("*") => "",
                    Some(address) => address,
                };
                GlobalRequest::TcpipForward { address: address.into(), port: u32::from(*port) }
            }
            Listen::Path(path) => {
                GlobalRequest::StreamlocalForward { path: path.as_bytes().into() }
            }
        }
    }
}

impl std::fmt::Display for Forward {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.listen {
            Listen::Tcp { address: Some(address), port } => write!(out, "{address} port {port}"),
            Listen::Tcp { address: None, port } => write!(out, "port {port}"),
            Listen::Path(path) => out.write_str(path),
        }
    }
}

/// At colons, but not inside brackets, which go.
fn split(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut inside = false;
    for character in word.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            ':' if !inside => parts.push(String::new()),
            other => parts.last_mut().map_or((), |part| part.push(other)),
        }
    }
    parts
}

/// Where a server listens for us, and what is connected to for it.
#[derive(Debug)]
pub struct Remote {
    pub forward: Forward,
    /// The port that it has.
    pub port: u32,
    /// The server has agreed.
    pub granted: bool,
}

impl Remote {
    /// The channel comes of it (SECURITY case 94: a server opens what it was asked for).
    pub fn is_for(&self, kind: &ChannelKind) -> bool {
        match (kind, &self.forward.listen) {
            (ChannelKind::ForwardedTcpip { port, .. }, Listen::Tcp { .. }) => {
                self.granted && *port == self.port
            }
            (ChannelKind::ForwardedStreamlocal { path }, Listen::Path(own)) => {
                self.granted && **path == *own.as_bytes()
            }
            _ => false,
        }
    }
}

/// Connections that say where to (RFC 1928, SOCKS 4 and 4a), each asked by a thread of its own:
/// whoever connects here may take his time, and what he says is a few bytes.
pub struct Asking {
    done: Receiver<Asked>,
    tell: Sender<Asked>,
    waker: Waker,
}

/// One that has said where to.
pub struct Asked {
    pub socket: Fd,
    pub target: Target,
    pub origin: Option<SocketAddr>,
}

impl Asking {
    pub fn new(waker: Waker) -> Asking {
        let (tell, done) = channel();
        Asking { done, tell, waker }
    }

    /// Takes connections at this socket from now on.
    ///
    /// # Errors
    /// There can be no thread for it.
    pub fn serve(&self, socket: OwnedFd) -> Result<()> {
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(false)?;
        let (tell, waker) = (self.tell.clone(), self.waker.clone());
        let ask = move |stream, origin| {
            if let Ok((target, socket)) = converse(stream) {
                let _ = tell.send(Asked { socket, target, origin: Some(origin) });
                waker.wake();
            }
        };
        let accept = move || ask_each(std::iter::repeat_with(|| listener.accept()), &ask);
        thread::Builder::new().name("socks".to_owned()).spawn(accept)?;
        Ok(())
    }

    pub fn next(&self) -> Option<Asked> {
        self.done.try_recv().ok()
    }
}

/// Has everybody who comes asked by a thread of his own. Who finds them all busy is turned away. That
/// nobody could be taken (he has gone again, or descriptors have run out) says nothing of the next.
fn ask_each<A>(comers: impl Iterator<Item = io::Result<(TcpStream, SocketAddr)>>, ask: &A)
where
    A: Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
{
    let busy = Arc::new(AtomicUsize::new(0));
    for comer in comers {
        let Ok((stream, origin)) = comer else {
            thread::sleep(ACCEPT_REST);
            continue;
        };
        let Some(place) = Busy::enter(&busy) else { continue };
        let ask = ask.clone();
        let body = move || {
            ask(stream, origin);
            drop(place);
        };
        // Without a thread he is turned away, and his place goes with him.
        let _ = thread::Builder::new().name("socks".to_owned()).spawn(body);
    }
}

/// One of the few who are asked at a time, for as long as this lasts.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn enter(count: &Arc<AtomicUsize>) -> Option<Busy> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let place = Busy(Arc::clone(count));
        (before < SOCKS_AT_ONCE_MAX).then_some(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears where a connection is to go. It is told that it is there before that is so: where it is not,
/// it ends.
fn converse(mut stream: TcpStream) -> Result<(Target, Fd)> {
    stream.set_read_timeout(Some(SOCKS_TIME_MAX))?;
    let (mut socks, mut some) = (Socks::default(), Vec::new());
    let mut heard: &[u8] = &[];
    let (target, version) = loop {
        match socks.take(&mut heard) {
            Ok(Step::Wait(need)) => {
                // No more than that: what follows goes on to the server.
                some.resize(need, 0);
                stream.read_exact(&mut some)?;
                heard = &some;
            }
            Ok(Step::Say(words)) => stream.write_all(words)?,
            Ok(Step::Asked(target, version)) => break (target, version),
            Err(refused) => {
                stream.write_all(refused.say)?;
                bail!(refused.why);
            }
        }
    };
    stream.write_all(version.answer(Outcome::Connected))?;
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok((target, Fd(stream.into_raw_fd())))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn parse(text: &str, form: Form) -> Result<Forward, String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Forward::parse(&words, form)
    }

    #[test]
    fn forwards_are_written_in_several_ways() {
        let tcp = |address: Option<&str>, port, host: &str, to| Forward {
            listen: Listen::Tcp { address: address.map(str::to_owned), port },
            to: Some(Target::Tcp { host: host.into(), port: to }),
        };
        assert_eq!(parse("80:web:8080", Form::Fixed), Ok(tcp(None, 80, "web", 8080)));
        assert_eq!(parse("80 web:8080", Form::Fixed), Ok(tcp(None, 80, "web", 8080)));
        let expected = tcp(Some("::1"), 80, "2001:db8::1", 81);
        assert_eq!(parse("[::1]:80:[2001:db8::1]:81", Form::Fixed), Ok(expected));
        assert_eq!(parse("*:80:web:81", Form::Fixed), Ok(tcp(Some("*"), 80, "web", 81)));
        let path = parse("/a/b:web:81", Form::Fixed).expect("a path");
        assert_eq!(path.listen, Listen::Path("/a/b".to_owned()));
        let both = parse("/a:/b", Form::Fixed).expect("paths");
        assert_eq!(both.to, Some(Target::Path((*b"/b").into())));
        let path = parse("80:/b", Form::Fixed).expect("a path");
        assert_eq!(path.to, Some(Target::Path((*b"/b").into())));
        for form in [Form::Dynamic, Form::Either] {
            assert_eq!(parse("1080", form).map(|f| f.to), Ok(None));
            let bound = parse("[::1]:1080", form).expect("an address and a port");
            assert_eq!(
                (bound.to, bound.listen),
                (None, parse("[::1]:1080:h:1", Form::Fixed).expect("it").listen)
            );
            assert!(parse("::1:1080", form).is_err());
        }
        assert_eq!(parse("80:web:8080", Form::Either), Ok(tcp(None, 80, "web", 8080)));
        assert_eq!(parse("/a", Form::Either).map(|f| f.to), Ok(None));
        for bad in ["80:web:81", "/a", "/a:/b", "80:/b"] {
            assert!(parse(bad, Form::Dynamic).is_err(), "{bad}");
        }
        for bad in ["80", "80:web", "x:web:1", "80:web:x", "80:web:99999", "1:2:3:4:5", ""] {
            assert!(parse(bad, Form::Fixed).is_err(), "{bad}");
        }
    }

    fn comer(listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("taken");
        let (far, origin) = listener.accept().expect("somebody");
        (near, far, origin)
    }

    #[test]
    fn who_cannot_be_taken_does_not_end_the_port() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let (_near, far, origin) = comer(&listener);
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        let comers = [failed(libc::EMFILE), failed(libc::ECONNABORTED), Ok((far, origin))];
        let (tell, told) = channel();
        ask_each(comers.into_iter(), &move |_, origin| tell.send(origin).expect("heard"));
        assert_eq!(told.recv(), Ok(origin));
    }

    #[test]
    fn places_are_given_back_and_bounded() {
        let count = Arc::new(AtomicUsize::new(0));
        let all: Vec<Busy> = (0..SOCKS_AT_ONCE_MAX).filter_map(|_| Busy::enter(&count)).collect();
        assert_eq!(all.len(), SOCKS_AT_ONCE_MAX);
        assert!(Busy::enter(&count).is_none() && Busy::enter(&count).is_none());
        // As when a thread could not be started: what it was to do goes, and the place with it.
        let place = all.into_iter().next().expect("one");
        let body = move || drop(place);
        drop(body);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert!(Busy::enter(&count).is_some());
    }
}
