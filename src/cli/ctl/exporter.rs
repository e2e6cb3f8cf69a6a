//! `ctl metrics --listen`: the least of HTTP/1.1 (RFC 9112) that Prometheus needs. Each connection is answered
//! once and closed.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::flags::Which;
use super::metrics;
use crate::base::Instant;
use crate::cli::complain;
use crate::limits::{
    EXPORTER_ANSWER_TIME, EXPORTER_CONNECTIONS_MAX, EXPORTER_DRAIN_TIME,
    EXPORTER_REQUEST_BYTES_MAX, EXPORTER_REQUEST_TIME,
};
use crate::reactor::now;

/// Between two tries to take a connection where the system refuses.
const PAUSE: Duration = Duration::from_millis(100);

/// An answer: its status, a header where it needs one, and its text.
struct Answer {
    status: &'static str,
    header: &'static str,
    text: String,
}

const TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";
const METRICS: &str = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
const METHODS: &str = "Content-Type: text/plain; charset=utf-8\r\nAllow: GET, HEAD\r\n";

/// Answers scrapers until it is killed.
///
/// # Errors
/// The address cannot be listened at.
pub fn serve(which: &Which, address: SocketAddr) -> Result<ExitCode, String> {
    let listener = TcpListener::bind(address).map_err(|why| format!("{address}: {why}"))?;
    let address = listener.local_addr().map_err(|why| why.to_string())?;
    complain(&format!("ctl: metrics are at http://{address}/metrics\n"));
    thread::scope(|scope| {
        // As many threads as connections: what comes beyond them waits to be accepted.
        for _ in 1..EXPORTER_CONNECTIONS_MAX {
            let body = || answer_all(which, &listener);
            let thread = thread::Builder::new().name("exporter".to_owned());
            thread.spawn_scoped(scope, body).map_err(|why| why.to_string())?;
        }
        match answer_all(which, &listener) {}
    })
}

fn answer_all(which: &Which, listener: &TcpListener) -> Infallible {
    loop {
        match listener.accept() {
            // A scraper that has gone away misses nothing.
            Ok((stream, _)) => drop(answer_one(which, stream)),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn answer_one(which: &Which, mut stream: TcpStream) -> io::Result<()> {
    let until = now().after(EXPORTER_REQUEST_TIME);
    let (answer, has_body) = match read_request(&mut stream, until)? {
        Ok(request) => answer_to(&request, which),
        Err(status) => (plain(status), true),
    };
    let Answer { status, header, text } = answer;
    let length = text.len();
    let mut reply = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if has_body {
        reply += &text;
    }
    let until = now().after(EXPORTER_ANSWER_TIME);
    write_by(&mut stream, reply.as_bytes(), until)?;
    stream.shutdown(Shutdown::Write)?;
    drain(&mut stream, now().after(EXPORTER_DRAIN_TIME))
}

/// The request with its headers; what is wrong with it is a status.
fn read_request(
    stream: &mut TcpStream,
    until: Instant,
) -> io::Result<Result<Vec<u8>, &'static str>> {
    let (mut request, mut piece) = (Vec::new(), [0; 2048]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= EXPORTER_REQUEST_BYTES_MAX {
            return Ok(Err("431 Request Header Fields Too Large"));
        }
        match read_by(stream, &mut piece, until)? {
            None => return Ok(Err("408 Request Timeout")),
            Some(0) => return Ok(Err("400 Bad Request")),
            Some(len) => request.extend_from_slice(piece.get(..len).unwrap_or_default()),
        }
    }
    Ok(Ok(request))
}

/// The answer, and whether its text is wanted.
fn answer_to(request: &[u8], which: &Which) -> (Answer, bool) {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let is_http = version.is_some_and(|version| version.starts_with("HTTP/1."));
    let (Some(method), Some(target), true) = (method, target, is_http) else {
        return (plain("400 Bad Request"), true);
    };
    let has_body = method != "HEAD";
    let path = target.split('?').next().unwrap_or_default();
    let answer = match (method, path) {
        ("GET" | "HEAD", "/metrics") => figures(which),
        (_, "/metrics") => Answer { header: METHODS, ..plain("405 Method Not Allowed") },
        _ => plain("404 Not Found"),
    };
    (answer, has_body)
}

fn plain(status: &'static str) -> Answer {
    Answer { status, header: TEXT, text: format!("{status}\n") }
}

/// Gateways have few places for callers: those who scrape take one together, and an administrator has the others.
fn figures(which: &Which) -> Answer {
    static ASKING: Mutex<()> = Mutex::new(());
    let _one = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    match metrics(which) {
        Ok((text, _)) if !text.is_empty() => Answer { status: "200 OK", header: METRICS, text },
        Ok(_) => plain("503 Service Unavailable"),
        Err(why) => Answer { text: format!("{why}\n"), ..plain("503 Service Unavailable") },
    }
}

/// `None`: the time is over.
fn read_by(stream: &mut TcpStream, piece: &mut [u8], until: Instant) -> io::Result<Option<usize>> {
    loop {
        let left = until.since(now());
        if left.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(piece) {
            Ok(len) => return Ok(Some(len)),
            Err(why) if is_early(why.kind()) => {}
            Err(why) => return Err(why),
        }
    }
}

fn write_by(stream: &mut TcpStream, mut rest: &[u8], until: Instant) -> io::Result<()> {
    while !rest.is_empty() {
        let left = until.since(now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(why) if is_early(why.kind()) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

const fn is_early(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Takes what still comes, for a moment: a close before that would reset the connection, and the answer be lost.
fn drain(stream: &mut TcpStream, until: Instant) -> io::Result<()> {
    let mut piece = [0; 2048];
    while read_by(stream, &mut piece, until)?.is_some_and(|len| len > 0) {}
    Ok(())
}
