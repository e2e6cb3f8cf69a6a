//! Our X server, for programs at the server (`-X`, `-Y`): they get a cookie of our making, which is
//! worth nothing anywhere else, and what they connect with is changed to the real one here.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Voice;
use crate::base::{Entropy, Instant, unhex};
use crate::connection::{ChannelRequest, X11Request};
use crate::crypto::RandomPool;
use crate::limits::XAUTH_LINE_BYTES_MAX;
use crate::services::Attached;
use crate::services::forward::{Cookies, Target};

/// What is made up where xauth knows nothing.
const USUAL_PROTOCOL: &str = "MIT-MAGIC-COOKIE-1";
const USUAL_COOKIE_BYTES: usize = 16;
/// X servers of this machine.
const SOCKETS: &str = "/tmp/.X11-unix/X";
/// Of display 0.
const FIRST_PORT: u32 = 6000;
/// As ssh: an untrusted cookie outlives our willingness to use it, or the server would fall back to
/// trusting whoever comes without one.
const SLACK: Duration = Duration::from_secs(60);

/// ssh_config(5): ForwardX11 and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardX11 {
    pub trusted: bool,
    /// How long untrusted programs may connect; zero: for ever.
    pub timeout: Duration,
    pub xauth: Option<PathBuf>,
}

/// The X server, as programs at the server are to reach it.
pub struct Display {
    target: Target,
    screen: u32,
    cookies: Cookies,
    /// Nothing connects from then on.
    until: Option<Instant>,
}

impl Display {
    /// Finds out where DISPLAY is and what opens it. `None`: it cannot be forwarded, which has been
    /// said.
    pub fn find(wanted: &ForwardX11, now: Instant, voice: &Voice) -> Option<Display> {
        let Some(name) = std::env::var("DISPLAY").ok().filter(|name| !name.is_empty()) else {
            voice.debug("X11 forwarding requested but DISPLAY not set");
            return None;
        };
        let Some((target, screen)) = parse(&name) else {
            let name = crate::base::escape(name.as_bytes());
            voice.error(format_args!("DISPLAY \"{name}\" invalid; disabling X11 forwarding"));
            return None;
        };
        // What xauth has for this machine it has under the socket's name.
        let entry = match name.strip_prefix("localhost:") {
            Some(number) => format!("unix:{number}"),
            None => name,
        };
        let (known, until) = match (&wanted.xauth, wanted.trusted) {
            (Some(xauth), true) => (list(xauth, None, &entry), None),
            (Some(xauth), false) => {
                let until = (!wanted.timeout.is_zero()).then(|| now.after(wanted.timeout));
                (generate(xauth, &entry, wanted.timeout), until)
            }
            (None, _) => (None, None),
        };
        let (protocol, real) = match known {
            Some(known) => known,
            None if !wanted.trusted => {
                voice.error(
                    "Warning: untrusted X11 forwarding setup failed: xauth key data not generated",
                );
                return None;
            }
            None => {
                voice.info(
                    "Warning: No xauth data; using fake authentication data for X11 forwarding.",
                );
                (USUAL_PROTOCOL.to_owned(), random(USUAL_COOKIE_BYTES))
            }
        };
        let fake = random(real.len()).to_vec().into();
        let cookies = Cookies { protocol: protocol.into(), fake, real };
        Some(Display { target, screen, cookies, until })
    }

    /// `None`: the protocol's name is none that can be asked for.
    pub fn request(&self) -> Option<ChannelRequest> {
        let cookie: String = self.cookies.fake.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut fields = vec![0];
        for part in [self.cookies.protocol.as_bytes(), cookie.as_bytes()] {
            fields.extend((part.len() as u32).to_be_bytes());
            fields.extend_from_slice(part);
        }
        fields.extend(self.screen.to_be_bytes());
        X11Request::new(&fields).map(ChannelRequest::X11Forward)
    }

    /// What a program's connection is attached to; `None`: it comes too late.
    pub fn serve(&self, now: Instant) -> Option<Attached> {
        let late = self.until.is_some_and(|until| now >= until);
        (!late).then(|| Attached::display(self.target.clone(), self.cookies.clone()))
    }
}

/// `host:number.screen`; this machine's without a host, or with the host `unix`.
fn parse(display: &str) -> Option<(Target, u32)> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/.-_".contains(c);
    let (host, number) = display.rsplit_once(':').filter(|_| display.chars().all(plain))?;
    let (number, screen) = number.split_once('.').unwrap_or((number, "0"));
    let (number, screen) = (number.parse::<u16>().ok()?, screen.parse().ok()?);
    let target = match host {
        "" | "unix" => Target::Path(format!("{SOCKETS}{number}").into_bytes().into()),
        host => Target::Tcp { host: host.into(), port: FIRST_PORT + u32::from(number) },
    };
    Some((target, screen))
}

type Known = (String, Zeroizing<Vec<u8>>);

/// What xauth knows, in this file or its usual one.
fn list(xauth: &Path, file: Option<&Path>, display: &str) -> Option<Known> {
    let mut command = Command::new(xauth);
    if let Some(file) = file {
        command.arg("-f").arg(file);
    }
    command.args(["list", display]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let mut text = Zeroizing::new(String::new());
    let read = child.stdout.take()?.take(XAUTH_LINE_BYTES_MAX).read_to_string(&mut text);
    let _ = child.kill();
    let _ = child.wait();
    read.ok()?;
    let mut words = text.lines().next()?.split_whitespace().skip(1);
    let (protocol, cookie) = (words.next()?, words.next()?);
    Some((protocol.to_owned(), cookie_of(cookie)?))
}

/// Has the X server make a cookie that lets little be done.
fn generate(xauth: &Path, display: &str, timeout: Duration) -> Option<Known> {
    // What mkdtemp(3) puts letters of its own in the place of.
    let name = format!("ssh-{}", "X".repeat(6));
    let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join(name)).ok()?;
    let file = folder.join("xauthfile");
    let mut command = Command::new(xauth);
    command.arg("-f").arg(&file).args(["generate", display, USUAL_PROTOCOL, "untrusted"]);
    if !timeout.is_zero() {
        command.args(["timeout", &timeout.saturating_add(SLACK).as_secs().to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let made = command.status().is_ok_and(|status| status.success());
    let known = if made { list(xauth, Some(&file), display) } else { None };
    let _ = std::fs::remove_dir_all(&folder);
    known
}

fn cookie_of(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let whole = !text.is_empty() && text.len().is_multiple_of(2);
    unhex(text).filter(|_| whole).map(Zeroizing::new)
}

fn random(len: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; len]);
    RandomPool::secure().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_sockets_or_ports() {
        let path = |number: u16| Target::Path(format!("{SOCKETS}{number}").into_bytes().into());
        let tcp = |host: &str, port| Target::Tcp { host: host.into(), port };
        assert_eq!(parse(":0"), Some((path(0), 0)));
        assert_eq!(parse("unix:12.1"), Some((path(12), 1)));
        assert_eq!(parse("localhost:10.0"), Some((tcp("localhost", 6010), 0)));
        assert_eq!(parse("x.example.org:1"), Some((tcp("x.example.org", 6001), 0)));
        assert_eq!(parse("::1:3"), Some((tcp("::1", 6003), 0)));
        for bad in ["", "0", ":", ":x", ":0.x", ":70000", "a b:0", "$(x):0", ":0;x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn cookies_are_hexadecimal() {
        assert_eq!(cookie_of("00fF10").as_deref(), Some(&vec![0, 255, 16]));
        for bad in ["", "0", "abc", "zz", "0x", "éé"] {
            assert_eq!(cookie_of(bad), None, "{bad}");
        }
    }
}
