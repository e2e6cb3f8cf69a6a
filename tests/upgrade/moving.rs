//! Live connections go on in the program that has come, and the one before ends: sessions of every kind, and
//! what OpenSSH's clients do with them behind an upgrade.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::*;
use crate::support::{noise, terminal};

/// As root, where each account has a process, and as one process.
pub fn on_each(lines: &[&str], test: impl Fn(&Site)) {
    test(&Site::new(lines));
    if let Some(account) = Account::new() {
        test(&Site::of(&account, lines));
    }
}

/// Bytes without end one way, which come back the other way.
pub struct Bulk {
    over: Arc<AtomicBool>,
    back: Arc<AtomicU64>,
    writer: JoinHandle<u64>,
    reader: JoinHandle<u64>,
}

/// Of no size that anything else has, so that what is lost or comes twice does not fit.
const BLOCK: usize = 100_003;

impl Bulk {
    /// `end` says that no more comes.
    pub fn begin<W: Write + Send + 'static>(
        mut to: W,
        mut from: impl Read + Send + 'static,
        end: impl FnOnce(W) + Send + 'static,
    ) -> Bulk {
        let (over, back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, came) = (Arc::clone(&over), Arc::clone(&back));
        let writer = move || {
            let (block, mut count) = (noise(BLOCK, 9), 0);
            while !is_over.load(Ordering::Relaxed) {
                to.write_all(&block).expect("taken");
                count += BLOCK as u64;
            }
            end(to);
            count
        };
        let reader = move || {
            let (block, mut count) = (noise(BLOCK, 9), 0);
            let mut bytes = vec![0; 64 * 1024];
            loop {
                let len = from.read(&mut bytes).expect("bytes");
                if len == 0 {
                    return count;
                }
                let mut rest = &bytes[..len];
                while !rest.is_empty() {
                    let at = (count % BLOCK as u64) as usize;
                    let some = rest.len().min(BLOCK - at);
                    assert!(rest[..some] == block[at..at + some], "other bytes at {count}");
                    (rest, count) = (&rest[some..], count + some as u64);
                }
                came.store(count, Ordering::Relaxed);
            }
        };
        let thread = thread::Builder::new();
        let writer = thread.name("writer".to_owned()).spawn(writer).expect("a thread");
        let thread = thread::Builder::new();
        let reader = thread.name("reader".to_owned()).spawn(reader).expect("a thread");
        Bulk { over, back, writer, reader }
    }

    pub fn of(child: &mut std::process::Child) -> Bulk {
        let input: ChildStdin = child.stdin.take().expect("input");
        let output: ChildStdout = child.stdout.take().expect("output");
        Bulk::begin(input, output, drop)
    }

    /// It is under way.
    pub fn wait_for_more(&self) {
        let before = self.back.load(Ordering::Relaxed);
        wait_for("more bytes", || self.back.load(Ordering::Relaxed) > before + (1 << 20));
    }

    /// All that was sent has come back.
    pub fn finish(self) {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.writer.join().expect("written");
        assert_eq!(self.reader.join().expect("read"), sent);
    }
}

/// Input and output in bulk, with each kind of cipher, and with keys that change meanwhile.
fn bulk(site: &Site, choices: &[&[&str]]) {
    let begin = |options: &&[&str]| {
        let mut command = site.ssh(options, &["cat; exit 7"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("ssh starts");
        let bulk = Bulk::of(&mut child);
        (child, bulk)
    };
    let all: Vec<_> = choices.iter().map(begin).collect();
    for _ in 0..2 {
        all.iter().for_each(|(_, bulk)| bulk.wait_for_more());
        site.moves();
    }
    all.iter().for_each(|(_, bulk)| bulk.wait_for_more());
    for (mut child, bulk) in all {
        bulk.finish();
        assert_eq!(child.wait().expect("its end").code(), Some(7), "{}", site.gateway.log());
    }
}

const CIPHERS: [&[&str]; 4] = [
    &["Ciphers=chacha20-poly1305@openssh.com"],
    &["Ciphers=aes128-gcm@openssh.com", "RekeyLimit=1M"],
    &["Ciphers=aes256-ctr", "MACs=hmac-sha2-256-etm@openssh.com"],
    &["Ciphers=aes128-ctr", "MACs=hmac-sha2-512"],
];

#[test]
fn bulk_goes_on_elsewhere_byte_by_byte() {
    bulk(&Site::new(&["TidegateCipherSteering no"]), &CIPHERS);
}

#[test]
fn bulk_of_one_process_goes_on_elsewhere_byte_by_byte() {
    let Some(account) = Account::new() else { return };
    bulk(&Site::of(&account, &["TidegateCipherSteering no"]), &CIPHERS);
}

#[test]
fn bulk_of_a_process_for_each_connection_goes_on_elsewhere() {
    if nix::unistd::geteuid().is_root() {
        bulk(&Site::new(&["TidegateIsolation per-connection"]), &CIPHERS[..2]);
    }
}

/// A session of a script, once it has said that it runs.
pub struct Script {
    child: std::process::Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Script {
    pub fn begin(site: &Site, options: &[&str], script: &str) -> Script {
        Script::start(site.ssh(options, &[&format!("echo runs; {script}")]))
    }

    /// With any client: the script says `runs` first.
    pub fn start(mut command: Command) -> Script {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let input = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        let mut script = Script { child, input, output };
        assert_eq!(script.line(), "runs\n");
        script
    }

    pub fn say(&mut self, text: &str) {
        self.input.as_mut().expect("input").write_all(text.as_bytes()).expect("typed");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().expect("output").read_line(&mut line).expect("a line");
        line
    }

    /// What it still says, and how the client ends.
    pub fn end(&mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.output.as_mut().expect("output").read_to_string(&mut rest).expect("the rest");
        (rest, self.child.wait().expect("its end").code())
    }

    /// Its input is over, and it ends so.
    pub fn finish(&mut self, status: i32) {
        drop(self.input.take());
        assert_eq!(self.end(), (String::new(), Some(status)));
    }

    pub fn assert_echoes(&mut self, text: &str) {
        self.say(&format!("{text}\n"));
        assert_eq!(self.line(), format!("{text}\n"));
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How programs end, what they still say, and what they are still told.
#[test]
fn programs_that_move_are_heard_to_their_end() {
    // Clients of OpenSSH say that they read no more to their own servers alone.
    on_each(&["TidegateSoftwareVersion OpenSSH_Tidegate"], |site| {
        let begin = |script: &str| Script::begin(site, &[], script);
        let mut exits = begin("read x; echo heard $x; exit 7");
        let mut killed = begin("read x; kill -TERM $$");
        let mut counts = begin("wc -c; exit 4");
        let mut says_no_more = begin("exec >&-; read x; exit 3");
        // The ends of these are told already, and their output is open.
        let mark = site.folder.path().join("may");
        let waits = format!("while [ ! -e {} ]; do sleep 0.1; done", mark.display());
        let mut left = begin(&format!("({waits}; echo late) & exit 5"));
        let mut held = begin("sleep 1000 & echo $!; exit 6");
        let sleeper: u32 = held.line().trim().parse().expect("a number");
        counts.say(&"x".repeat(100_000));
        for _ in 0..2 {
            site.moves();
        }
        exits.say("it\n");
        assert_eq!(exits.end(), ("heard it\n".to_owned(), Some(7)));
        killed.say("\n");
        assert_eq!(killed.end(), (String::new(), Some(255)));
        site.gateway.tells("ended by signal TERM");
        counts.say(&"x".repeat(50_000));
        drop(counts.input.take());
        assert_eq!(counts.end(), ("150000\n".to_owned(), Some(4)));
        says_no_more.say("\n");
        assert_eq!(says_no_more.end(), (String::new(), Some(3)));
        fs::write(&mark, "").expect("a file");
        assert_eq!(left.end(), ("late\n".to_owned(), Some(5)));
        fs::remove_file(&mark).expect("gone");
        assert!(held.child.try_wait().expect("its status").is_none(), "its output is open");
        kill("-KILL", sleeper);
        assert_eq!(held.end(), (String::new(), Some(6)));
    });
}

/// A client at a terminal of its own.
struct Typist {
    child: std::process::Child,
    master: File,
    _slave: OwnedFd,
    seen: String,
}

impl Typist {
    fn begin(site: &Site) -> Typist {
        let mut command = site.ssh(&["RequestTTY=force"], &["exec sh"]);
        command.env("TERM", "xterm");
        let (child, master, slave) = terminal::start(command, (24, 80));
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(flags)).expect("flags");
        let mut typist = Typist { child, master, _slave: slave, seen: String::new() };
        typist.computes(1);
        typist
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("it is typed");
    }

    /// Until this is shown; what comes up to its end is forgotten.
    fn expect(&mut self, text: &str) {
        self.until(text);
    }

    /// What comes before it.
    fn until(&mut self, text: &str) -> String {
        wait_for(text, || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = self.master.read(&mut bytes) {
                self.seen += &String::from_utf8_lossy(&bytes[..count]);
            }
            self.seen.contains(text)
        });
        let at = self.seen.find(text).expect("it is there");
        let before = self.seen[..at].to_owned();
        self.seen.drain(..at + text.len());
        before
    }

    /// What is computed is no echo.
    fn computes(&mut self, number: u32) {
        self.type_in(&format!("echo $(({number} + 1000))th\n"));
        self.expect(&format!("{}th", number + 1000));
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn terminals_move_with_all_that_belongs_to_them() {
    on_each(&[], terminals);
}

fn terminals(site: &Site) {
    let mut typist = Typist::begin(site);
    typist.type_in("echo it is $$.\n");
    typist.expect("it is $$.");
    typist.expect("it is ");
    let shell = typist.until(".").parse().expect("a number");
    for n in 3..5 {
        site.moves();
        typist.computes(n);
    }
    terminal::resize(&typist.master, (31, 97));
    // The client hears of it in its own time.
    typist.type_in("while :; do stty size; sleep 0.1; done\n");
    typist.expect("31 97");
    typist.type_in("\x03");
    typist.computes(20);
    // What it runs hears of the hang-up, which is not its end otherwise.
    typist.type_in("sleep 1000; sleep 1000\n");
    typist.expect("sleep 1000\r\n");
    assert!(is_there(shell));
    let _ = typist.child.kill();
    wait_for("the hang-up", || !is_there(shell));
}

/// One connection of many sessions, some of which come later.
#[test]
fn sessions_of_one_connection_move_together() {
    on_each(&["MaxSessions 3", "ClientAliveInterval 1"], |site| {
        let socket = site.gateway.path("master");
        let path = format!("ControlPath={}", socket.display());
        let mut master = site.ssh(&["ControlMaster=yes", &path, "RekeyLimit=64K"], &[]);
        let master = Session::begin({
            master.arg("-N");
            master
        });
        wait_for("the client", || socket.exists());
        let begin = |script| Script::begin(site, &[&path, "ProxyCommand=false"], script);
        // It has no channels yet, and none again in the end.
        site.moves();
        let mut all: BTreeMap<u32, Script> = (0..2).map(|n| (n, begin("cat; exit 9"))).collect();
        site.moves();
        all.insert(2, begin("cat; exit 9"));
        site.moves();
        let beyond = site.ssh(&[&path, "ProxyCommand=false"], &["true"]).output().expect("ssh");
        assert!(!beyond.status.success(), "{beyond:?}");
        site.gateway.tells("MaxSessions permits no more");
        for (n, script) in &mut all {
            script.assert_echoes(&format!("{n}").repeat(50_000));
        }
        for (_, mut script) in all {
            script.finish(9);
        }
        site.moves();
        assert_eq!(begin("exit 8").end(), (String::new(), Some(8)));
        drop(master);
    });
}

/// A client that hears nothing for a while has all of it later.
#[test]
fn what_a_slow_client_has_not_read_moves_with_it() {
    on_each(&[], |site| {
        let script = "read x; seq 1 1000000; echo done; exit 2";
        let mut slow = Script::begin(site, &[], script);
        kill("-STOP", slow.child.id());
        slow.say("\n");
        // It is in nobody's way, even if its own connection cannot move before it reads again.
        let first = site.upgrade();
        site.assert_serves();
        kill("-CONT", slow.child.id());
        for n in 1..=1_000_000 {
            assert_eq!(slow.line(), format!("{n}\n"));
        }
        assert_eq!(slow.line(), "done\n");
        assert_eq!(slow.end(), (String::new(), Some(2)));
        wait_for_the_end_of(first);
    });
}

/// Times that a connection or its channels have go on where they move to.
#[test]
fn times_go_on_elsewhere() {
    let lines = ["ChannelTimeout session:*=6s", "ClientAliveInterval 1", "ClientAliveCountMax 2"];
    on_each(&lines, |site| {
        let mut idle = Script::begin(site, &[], "cat");
        let mut silent = Script::begin(site, &[], "while sleep 0.2; do echo on; done");
        site.moves();
        // Whoever answers nothing is not there any more.
        kill("-STOP", silent.child.id());
        let ended = || site.told("Session ended") + site.told("Connection closed");
        let before = ended();
        wait_for("the end of both", || ended() >= before + 2);
        kill("-CONT", silent.child.id());
        assert_eq!(idle.end().1, Some(255), "{}", site.gateway.log());
        let _ = silent.child.kill();
    });
}

/// An account with a root of its own.
#[test]
fn sessions_in_a_root_of_their_own_move() {
    let Some(account) = Account::new() else { return };
    let cage = tempfile::tempdir_in("/var").expect("a folder");
    fs::set_permissions(cage.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    for program in ["/bin/bash", "/bin/cat"] {
        let linked = run_ok(Command::new("ldd").arg(program)).stdout;
        let linked = String::from_utf8_lossy(&linked).into_owned();
        let files = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for file in files.chain([program]) {
            let to = cage.path().join(&file[1..]);
            fs::create_dir_all(to.parent().expect("a folder")).expect("folders");
            fs::copy(file, &to).expect("a copy");
        }
    }
    let of = format!("Match User {}", account.name);
    let root = format!("ChrootDirectory {}", cage.path().display());
    let site = Site::new(&[&of, &root, "Match all"]);
    let user = format!("User={}", account.name);
    let begin = |script| Script::start(site.gateway.ssh(&[&user], &[script]));
    let mut session = begin("echo runs; echo /*; cat; exit 5");
    assert_eq!(session.line(), "/bin /lib /lib64\n");
    for n in 0..2 {
        site.moves();
        session.assert_echoes(&format!("{n}").repeat(10_000));
    }
    let mut later = begin("echo runs; echo /*");
    assert_eq!(later.end(), ("/bin /lib /lib64\n".to_owned(), Some(0)));
    session.finish(5);
}

/// What is left of programs and sessions behind many upgrades: nothing.
#[test]
fn nothing_is_left_behind_connections_that_move() {
    on_each(&[], |site| {
        let mut scripts: Vec<Script> =
            (0..4).map(|_| Script::begin(site, &[], "cat; exit 1")).collect();
        let mut typist = Typist::begin(site);
        let serving = |site: &Site| {
            let all = [vec![site.now()], below(&[site.now()])].concat();
            all.iter().map(|pid| descriptors(*pid)).sum::<usize>()
        };
        site.moves();
        scripts.iter_mut().for_each(|script| script.assert_echoes("first"));
        site.assert_serves();
        let at_first = serving(site);
        for n in 0..5 {
            site.moves();
            scripts.iter_mut().for_each(|script| script.assert_echoes("again"));
            typist.computes(n);
        }
        site.assert_serves();
        wait_for("descriptors to be closed", || serving(site) <= at_first);
        for mut script in scripts {
            drop(script.input.take());
            assert_eq!(script.end().1, Some(1));
        }
    });
}

/// What has come from the program before ends with the one that has it, and neither keeps the port. As root,
/// processes of accounts have their sessions to the end of those.
#[test]
fn a_program_that_is_killed_has_what_came_to_it() {
    on_each(&[], |site| {
        let mut session = Script::begin(site, &[], "cat; exit 3");
        site.moves();
        session.assert_echoes("moved");
        let port = site.gateway.port;
        kill("-KILL", site.now());
        wait_for("the port", || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
        match &*site.user {
            "root" => {
                session.assert_echoes(&"x".repeat(10_000));
                session.finish(3);
            }
            _ => assert_eq!(session.end(), (String::new(), Some(255))),
        }
    });
}
