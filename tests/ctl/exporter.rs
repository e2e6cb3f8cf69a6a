//! `tidegate ctl metrics --listen`, as Prometheus, curl and others who connect meet it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Site, exposition, is_run_again, metrics, text};
use crate::support::run_ok;

/// A running one.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start(site: &Site, words: &[&str]) -> Exporter {
        let words = [&["metrics", "--listen", "127.0.0.1:0"], words].concat();
        let mut child = site.command(&words).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stderr = child.stderr.as_mut().expect("a pipe");
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        let address = line.trim_end().strip_prefix("tidegate: ctl: metrics are at http://");
        let address = address.and_then(|rest| rest.strip_suffix("/metrics"));
        Exporter { child, address: address.expect(&line).parse().expect("an address") }
    }

    fn curl(&self, words: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.address);
        text(
            run_ok(Command::new("curl").args(["-sS", "-i", "-m", "30"]).args(words).arg(url))
                .stdout,
        )
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        stream
    }

    /// What comes for these bytes, until the end.
    fn answer(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end");
        text(answer)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn scrapers_get_the_metrics_of_all_gateways() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    let exporter = Exporter::start(&site, &[]);
    let none = exporter.curl(&[], "/metrics");
    assert!(none.starts_with("HTTP/1.1 503 ") && none.contains("no gateway answers"), "{none}");
    site.serves(3, "serving");
    site.serves(4, "leaving");
    let (head, body) = {
        let answer = exporter.curl(&[], "/metrics?x=1");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        (head.to_owned(), body.to_owned())
    };
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(head.ends_with("\r\nConnection: close"), "{head}");
    assert_eq!(exposition::check(&body)["tidegate_logins_total"].len(), 2);

    let only_head = exporter.curl(&["-I"], "/metrics");
    assert_eq!(only_head, head + "\r\n\r\n");
    for (words, path, status) in [
        (&[][..], "/", "404 Not Found"),
        (&["-I"], "/x", "404 Not Found"),
        (&["-X", "DELETE"], "/metrics", "405 Method Not Allowed"),
        (&["-d", "x=1"], "/metrics", "405 Method Not Allowed"),
    ] {
        let answer = exporter.curl(words, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
    }
    let named = Exporter::start(&site, &["-p", "4"]);
    assert!(named.curl(&[], "/metrics").ends_with(&metrics(4)));
}

#[test]
fn case_130_whoever_connects_holds_up_nobody_for_long() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    site.serves(3, "serving");
    let exporter = Exporter::start(&site, &[]);
    let answered = |request: &[u8], status: &str| {
        let answer = exporter.answer(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    };
    answered(b"hello\r\n\r\n", "400");
    answered(b"GET /metrics\r\n\r\n", "400");
    answered(b"\xff\xff\xff /metrics HTTP/1.1\r\n\r\n", "405");
    answered(&[b"GET /metrics HTTP/1.1\r\nX: ", &b"x".repeat(20_000)[..]].concat(), "431");
    answered(b"GET /metrics HTTP/1.1\r\n", "408");
    let mut halves = exporter.connect();
    halves.write_all(b"GET /met").expect("sent");
    halves.write_all(b"rics HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    halves.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    // All places are taken by those that say nothing, and others that go away.
    let silent: Vec<TcpStream> = (0..40).map(|_| exporter.connect()).collect();
    for _ in 0..20 {
        drop(exporter.connect());
    }
    assert!(exporter.curl(&[], "/metrics").starts_with("HTTP/1.1 200 OK"));
    drop(silent);
}
