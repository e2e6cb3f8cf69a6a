//! What moving bytes through a whole gateway costs, in counts: allocations, copies, operations,
//! system calls. OpenSSH's clients talk to a gateway in this process; what two sizes of the same
//! transfer differ by is what its middle costs, whatever its beginning and its end do.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "support/allocations.rs"]
mod allocations;
mod support;

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use support::openssh::Sshd;
use support::{keygen, noise, wait_for};
use tempfile::TempDir;

use tidegate::base::tally::{self, Cost};
use tidegate::gateway::audit::{Audit, Outlet};
use tidegate::gateway::config;
use tidegate::gateway::generation::{Generation, Plan};
use tidegate::gateway::listen::Listeners;
use tidegate::gateway::serve::{self, KeyRules};

/// Counts are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A gateway with one reactor in this process.
struct Host {
    running: Option<Generation>,
    /// Which writes to the file `audit`, if it is asked to.
    _audit: Option<Arc<Audit>>,
    port: u16,
    driver: String,
    folder: TempDir,
    /// Where its logins go on, if they do.
    _behind: Option<Sshd>,
    _alone: MutexGuard<'static, ()>,
}

impl Host {
    fn start(driver: &str) -> Host {
        Host::start_before(driver, |_| (None, String::new()))
    }

    fn start_audited(driver: &str) -> Host {
        let lines = |at: &Path| format!("TidegateAuditLog {}/audit\n", at.display());
        Host::start_before(driver, |at| (None, lines(at)))
    }

    /// One whose logins go on at an sshd behind it.
    fn start_before_sshd(driver: &str) -> Host {
        Host::start_before(driver, |at| {
            let (user, host) = (at.join("user.pub"), at.join("host.pub"));
            fs::copy(user, at.join("authorized_keys")).expect("the key is there");
            let sshd = Sshd::start(at, &format!("HostKey {}/host", at.display()));
            let key = fs::read_to_string(host).expect("its host key");
            let known = format!("[127.0.0.1]:{} {key}", sshd.port);
            fs::write(at.join("known"), known).expect("a file");
            let lines = format!(
                "TidegateUpstream 127.0.0.1:{}\nTidegateUpstreamIdentity {1}/user\n\
                 TidegateUpstreamKnownHosts {1}/known\nCiphers aes256-gcm@openssh.com\n",
                sshd.port,
                at.display()
            );
            (Some(sshd), lines)
        })
    }

    fn start_before(driver: &str, behind: impl Fn(&Path) -> (Option<Sshd>, String)) -> Host {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        tidegate::services::prepare().expect("programs can be started");
        let folder = tempfile::tempdir_in(memory()).expect("a folder");
        let at = folder.path();
        keygen(&at.join("host"), "ed25519", "");
        keygen(&at.join("user"), "ed25519", "");
        let (behind, lines) = behind(at);
        let text = format!(
            "{lines}HostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nStrictModes no\nUseDNS no\n\
             PermitRootLogin yes\nPrintMotd no\nSubsystem sftp internal-sftp\n\
             LogLevel QUIET\nTidegateDriver {driver}\n",
            at.display()
        );
        let config = Arc::new(config::parse(text.as_bytes()).expect("a configuration"));
        let keys = serve::load_keys(&config, &KeyRules::All { state: None }).expect("a host key");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let listeners = Listeners::given(vec![listener.into()]).expect("a listener");
        let (log, facility) = (&config.global.audit_log, config.global.syslog_facility);
        let outlet =
            (*log != config::AuditLog::None).then(|| Outlet::open(log, facility).expect("a file"));
        let audit = outlet.map(|outlet| Audit::start(outlet).expect("a thread"));
        // Whoever runs the tests: what is counted has to happen in this process.
        let running = Generation::start_alone(Plan {
            config,
            keys,
            listeners: listeners.sockets(),
            reactors: 1,
            number: 0,
            idle_time: Duration::from_secs(1),
            edge_time: Duration::MAX,
            open_files: None,
            log: |reports| while reports.next().is_some() {},
            syslog: None,
            logbook: None,
            audit: audit.clone(),
            renews: false,
            standings: Vec::new(),
        });
        let running = Some(running.expect("a gateway"));
        Host {
            running,
            _audit: audit,
            port,
            driver: driver.to_owned(),
            folder,
            _behind: behind,
            _alone: alone,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "/dev/null", "-q"]);
        for option in [
            format!("Port={}", self.port),
            format!("IdentityFile={}", self.path("user").display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            "UserKnownHostsFile=/dev/null".to_owned(),
            "BatchMode=yes".to_owned(),
            "KexAlgorithms=curve25519-sha256".to_owned(),
            "Ciphers=aes256-gcm@openssh.com".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

/// Where files lie in memory, so that nothing depends on a disk.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

/// Bytes of the two transfers that are compared.
const SHORT: usize = 16 << 20;
const LONG: usize = 48 << 20;

#[derive(Clone, Copy, Debug)]
enum Flow {
    SftpGet,
    SftpPut,
    ScpDown,
    ScpUp,
    ExecDown,
    ExecUp,
    /// By our own client, in this process: what both ends take.
    CpGet,
    CpPut,
    ForwardDown,
    ForwardUp,
}

/// What a mebibyte may cost between its arrival and its departure.
struct Price {
    flow: Flow,
    /// Clients at once, which share the bytes.
    clients: usize,
    /// Bytes copied in user space.
    copied: u64,
    /// Operations asked of the driver, those that send to the connection among them.
    operations: u64,
    sends: u64,
}

/// A file or pipe is read in pieces of 255 or 256 KiB and each leaves in one send. Uploads are
/// received in pieces of up to 264 KiB; the packet that the end of one cuts is copied: an eighth at
/// most, and none where all packets are alike. A quiet machine needs a third to a half of this.
const PRICES: [Price; 8] = [
    Price { flow: Flow::SftpGet, clients: 1, copied: 4 << 10, operations: 20, sends: 8 },
    Price { flow: Flow::SftpPut, clients: 1, copied: 128 << 10, operations: 24, sends: 4 },
    Price { flow: Flow::ScpDown, clients: 1, copied: 1 << 10, operations: 20, sends: 8 },
    Price { flow: Flow::ScpUp, clients: 1, copied: 128 << 10, operations: 24, sends: 4 },
    Price { flow: Flow::ExecDown, clients: 1, copied: 1 << 10, operations: 30, sends: 12 },
    Price { flow: Flow::ExecUp, clients: 1, copied: 16 << 10, operations: 60, sends: 16 },
    Price { flow: Flow::SftpGet, clients: 8, copied: 4 << 10, operations: 30, sends: 12 },
    Price { flow: Flow::SftpPut, clients: 8, copied: 128 << 10, operations: 48, sends: 16 },
];

/// Both ends: READs leave four at a time, windows are granted twice a mebibyte, and receives fill their leases. It
/// takes three quarters of this.
const OWN: [Price; 2] = [
    Price { flow: Flow::CpGet, clients: 1, copied: 132 << 10, operations: 26, sends: 8 },
    Price { flow: Flow::CpPut, clients: 1, copied: 132 << 10, operations: 26, sends: 8 },
];

/// Through a host behind: what is received is sent, with a window for it now and then, all of which comes
/// in pieces of several packets.
const RELAYED: [Price; 2] = [
    Price { flow: Flow::ExecDown, clients: 1, copied: 16 << 10, operations: 48, sends: 24 },
    Price { flow: Flow::ExecUp, clients: 1, copied: 16 << 10, operations: 48, sends: 24 },
];

/// To and from a socket behind the gateway: what is received is written at once, what is read is sent at
/// once, and beside either goes a window now and then.
const FORWARDED: [Price; 2] = [
    Price { flow: Flow::ForwardDown, clients: 1, copied: 1 << 10, operations: 11, sends: 6 },
    Price { flow: Flow::ForwardUp, clients: 1, copied: 16 << 10, operations: 30, sends: 2 },
];

/// System calls that an operation takes at most: the operation itself, one that was tried in vain,
/// and one to wait. With a ring one call does for all that were asked for.
const CALLS_AN_OPERATION: u64 = 3;
/// Packets between two draws from the generator, at least.
const PACKETS_A_DRAW: u64 = 100;
/// A slow moment of the machine makes pieces small, and none makes them larger.
const TRIES: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Counts {
    allocations: u64,
    costs: [u64; 7],
}

const COSTS: [Cost; 7] = [
    Cost::Copied,
    Cost::Draws,
    Cost::Turns,
    Cost::Operations,
    Cost::Sends,
    Cost::Enters,
    Cost::Requests,
];

impl Counts {
    fn now() -> Counts {
        let allocations = allocations::allocations_of_all();
        Counts { allocations, costs: COSTS.map(tally::total) }
    }

    /// What is more in `self`.
    fn beyond(self, other: Counts) -> Counts {
        let mut costs = self.costs;
        costs.iter_mut().zip(other.costs).for_each(|(of, less)| *of = of.saturating_sub(less));
        Counts { allocations: self.allocations.saturating_sub(other.allocations), costs }
    }

    fn of(&self, cost: Cost) -> u64 {
        COSTS.iter().zip(self.costs).find(|(of, _)| **of == cost).map_or(0, |(_, count)| count)
    }

    /// What `mebibytes` cost too much.
    fn excess(&self, price: &Price, links: u64, mebibytes: u64) -> Vec<String> {
        let calls = self.of(Cost::Enters) + self.of(Cost::Requests);
        let packets = 32 * mebibytes;
        // Logins at once take as many turns as they happen to be apart: nothing follows from those.
        let turns = if price.clients == 1 { links * self.of(Cost::Turns) } else { u64::MAX };
        let bounds = [
            ("bytes copied", self.of(Cost::Copied), price.copied * mebibytes),
            ("operations", self.of(Cost::Operations), price.operations * mebibytes),
            ("sends", self.of(Cost::Sends), price.sends * mebibytes),
            ("sends, with one a link and turn", self.of(Cost::Sends), turns),
            ("system calls", calls, CALLS_AN_OPERATION * self.of(Cost::Operations)),
            ("draws", self.of(Cost::Draws), packets / PACKETS_A_DRAW),
            // None for a packet, and none for an operation: what is left is not the reactor's. Now and
            // then what is known about the account has become too old and is asked for again.
            ("allocations", self.allocations, 2 * mebibytes),
        ];
        let over = bounds.iter().filter(|(_, count, most)| count > most);
        over.map(|(what, count, most)| format!("{count} {what}, at most {most}")).collect()
    }
}

fn command(gateway: &Host, flow: Flow, source: &Path, target: &Path) -> Command {
    let batch = target.with_extension("batch");
    let (from, to) = (source.display().to_string(), target.display().to_string());
    match flow {
        Flow::SftpGet | Flow::SftpPut => {
            let verb = if matches!(flow, Flow::SftpGet) { "get" } else { "put" };
            fs::write(&batch, format!("{verb} {from} {to}\n")).expect("a batch");
            let mut command = gateway.client("sftp");
            command.arg("-b").arg(&batch).arg("127.0.0.1").stdout(Stdio::null());
            command
        }
        Flow::ScpDown | Flow::ScpUp => {
            let mut command = gateway.client("scp");
            let far = |path| format!("127.0.0.1:{path}");
            let down = matches!(flow, Flow::ScpDown);
            let ends = if down { [far(from), to] } else { [from, far(to)] };
            command.arg("-O").args(ends);
            command
        }
        Flow::ExecDown => {
            let mut command = gateway.client("ssh");
            command.arg("127.0.0.1").arg(format!("cat {from}"));
            command.stdout(fs::File::create(target).expect("a file"));
            command
        }
        Flow::ExecUp => {
            let mut command = gateway.client("ssh");
            command.arg("127.0.0.1").arg(format!("cat > {to}"));
            command.stdin(fs::File::open(source).expect("a file"));
            command
        }
        Flow::CpGet | Flow::CpPut => {
            let mut command = gateway.client("tidegate");
            let far = |path| format!("127.0.0.1:{path}");
            let down = matches!(flow, Flow::CpGet);
            let ends = if down { [far(from), to] } else { [from, far(to)] };
            command.arg("-o").arg(format!("TidegateDriver={}", gateway.driver)).args(ends);
            command
        }
        Flow::ForwardDown => {
            let mut command = forwarding(gateway, Way::From(source.to_owned()));
            command.stdout(fs::File::create(target).expect("a file"));
            command
        }
        Flow::ForwardUp => {
            let mut command = forwarding(gateway, Way::To(target.to_owned()));
            command.stdin(fs::File::open(source).expect("a file"));
            command
        }
    }
}

/// A client at work.
enum Running {
    Program(Child),
    /// In this process.
    Thread(JoinHandle<ExitCode>),
}

impl Running {
    fn start(flow: Flow, mut command: Command) -> Running {
        if !matches!(flow, Flow::CpGet | Flow::CpPut) {
            return Running::Program(command.spawn().expect("the client starts"));
        }
        let mut words: Vec<OsString> = vec!["tidegate".into(), "cp".into()];
        words.extend(command.get_args().map(OsString::from));
        let client = thread::Builder::new().name("client".to_owned());
        Running::Thread(client.spawn(|| tidegate::cli::run(words)).expect("a thread"))
    }

    fn succeeds(self) -> bool {
        match self {
            Running::Program(mut client) => client.wait().expect("its status").success(),
            Running::Thread(client) => client.join().expect("its end") == ExitCode::SUCCESS,
        }
    }
}

/// What a place behind the gateway sends, or where it puts what comes.
enum Way {
    From(PathBuf),
    To(PathBuf),
}

/// A client that is connected to such a place.
fn forwarding(gateway: &Host, way: Way) -> Command {
    let place = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let there = place.local_addr().expect("its address");
    let serve = move || {
        let (mut socket, _) = place.accept().expect("a connection");
        match way {
            Way::From(file) => {
                let bytes = fs::read(file).expect("a file");
                socket.write_all(&bytes).expect("it is taken");
            }
            Way::To(file) => {
                let mut file = fs::File::create(file).expect("a file");
                std::io::copy(&mut socket, &mut file).expect("room");
            }
        }
    };
    thread::Builder::new().spawn(serve).expect("a thread");
    let mut command = gateway.client("ssh");
    command.arg("-W").arg(there.to_string()).arg("127.0.0.1");
    command
}

/// No link, and no lease but those that are nobody's.
fn wait_for_rest(what: &str) {
    wait_for(what, || tally::total(Cost::Leases) == 0);
}

/// Moves `bytes`, as many by each client, all clients at once.
fn transfer(gateway: &Host, flow: Flow, bytes: usize, clients: usize) -> Counts {
    let source = gateway.path(&format!("source{}", bytes / clients));
    if !source.exists() {
        fs::write(&source, noise(bytes / clients, 1)).expect("a file");
    }
    let targets: Vec<PathBuf> = (0..clients).map(|n| gateway.path(&format!("target{n}"))).collect();
    let prepared = targets.iter().map(|target| {
        let _ = fs::remove_file(target);
        command(gateway, flow, &source, target)
    });
    let prepared: Vec<Command> = prepared.collect();
    wait_for_rest("the gateway to be idle");
    let before = Counts::now();
    let running: Vec<Running> =
        prepared.into_iter().map(|command| Running::start(flow, command)).collect();
    for client in running {
        assert!(client.succeeds(), "{flow:?}");
    }
    wait_for_rest("the links to end");
    let counts = Counts::now().beyond(before);
    let sent = fs::read(&source).expect("a file");
    for target in targets {
        assert!(sent == fs::read(target).expect("a file"), "{flow:?}");
    }
    counts
}

fn moves_at_its_price(driver: &str) {
    let host = Host::start(driver);
    holds(&host, driver, &PRICES, 1);
    holds(&host, driver, &FORWARDED, 2);
    holds(&host, &format!("{driver}, both ends"), &OWN, 2);
    drop(host);
    if Sshd::is_here() {
        holds(&Host::start_before_sshd(driver), &format!("{driver}, relayed"), &RELAYED, 2);
    }
}

/// Each client has so many links.
fn holds(gateway: &Host, driver: &str, prices: &[Price], links: u64) {
    for price in prices {
        // What is slow to grow grows.
        transfer(gateway, price.flow, LONG, price.clients);
        let mebibytes = ((LONG - SHORT) >> 20) as u64;
        let what = format!("{driver}, {:?} by {}, {mebibytes} MiB", price.flow, price.clients);
        let mut excess = Vec::new();
        for _ in 0..TRIES {
            let short = transfer(gateway, price.flow, SHORT, price.clients);
            let middle = transfer(gateway, price.flow, LONG, price.clients).beyond(short);
            println!("{what}: {middle:?}");
            excess = middle.excess(price, links, mebibytes);
            if excess.is_empty() {
                break;
            }
        }
        assert!(excess.is_empty(), "{what}: {excess:?}");
    }
}

#[test]
fn bytes_move_at_their_price_on_io_uring() {
    moves_at_its_price("uring");
}

#[test]
fn bytes_move_at_their_price_on_mio() {
    moves_at_its_price("mio");
}

/// The threads of this process that write audits.
fn audit_threads() -> Vec<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten().map(|task| task.path());
    let name = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.filter(|task| name(task).trim() == "audit").collect()
}

/// What a thread has done: system calls that write, and times it went to sleep.
fn work_of(task: &Path) -> (u64, u64) {
    let field = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(task.join(file)).expect("its counts");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        line.trim().parse().expect("a number")
    };
    (field("io", "syscw:"), field("status", "voluntary_ctxt_switches:"))
}

/// Lines that an audit gets of one connection: its begin, keys, login, session and end; of files one when
/// they are opened and one when they are closed.
const AUDITED: [(Flow, &[&str]); 6] = [
    (Flow::SftpGet, &["open_read", "close"]),
    (Flow::SftpPut, &["open_write", "close"]),
    (Flow::ScpDown, &[]),
    (Flow::ScpUp, &[]),
    (Flow::ExecDown, &[]),
    (Flow::ExecUp, &[]),
];
const AROUND: [&str; 6] = ["connect", "kex", "auth", "session_start", "session_end", "disconnect"];

/// An audit costs a write for some lines, and lines are few: however many bytes move, none more, and the
/// bytes move at the price they have without it.
fn an_audit_takes_nothing_of_a_byte(driver: &str) {
    let gateway = Host::start_audited(driver);
    // Those of gateways before it may still be about to end.
    wait_for("one thread", || audit_threads().len() == 1);
    let writer = audit_threads().remove(0);
    let lines = || fs::read_to_string(gateway.path("audit")).expect("its lines");
    for (flow, files) in AUDITED {
        for bytes in [SHORT, LONG] {
            let (before, work) = (lines().len(), work_of(&writer));
            transfer(&gateway, flow, bytes, 1);
            wait_for("the last line", || lines()[before..].contains("\"disconnect\""));
            let (writes, sleeps) = work_of(&writer);
            let (writes, sleeps) = (writes - work.0, sleeps - work.1);
            let told = lines()[before..].to_owned();
            let what = format!("{driver}, {flow:?}, {bytes} bytes");
            let mut names: Vec<String> = told.lines().map(name_of).collect();
            println!("{what}: {} lines, {writes} writes, {sleeps} sleeps", names.len());
            names.retain(|name| name != "denied");
            let mut expected: Vec<&str> = [&AROUND[..], files].concat();
            names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(names, expected, "{what}\n{told}");
            let count = told.lines().count() as u64;
            assert!(writes >= 1 && writes <= count, "{what}: {writes} writes of {count} lines");
            // It waits for a line, then rests a moment, in which others gather.
            let most = 2 * (count + 1);
            assert!(sleeps <= most, "{what}: {sleeps} sleeps for {count} lines");
        }
    }
    holds(&gateway, &format!("{driver}, audited"), &PRICES[..2], 1);
}

/// The event of a line, or what was done to a file.
fn name_of(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).expect("an object");
    let name = line.get("operation").unwrap_or(&line["event"]);
    name.as_str().expect("a text").to_owned()
}

#[test]
fn an_audit_takes_nothing_of_a_byte_on_io_uring() {
    an_audit_takes_nothing_of_a_byte("uring");
}

#[test]
fn an_audit_takes_nothing_of_a_byte_on_mio() {
    an_audit_takes_nothing_of_a_byte("mio");
}

/// A session that rests holds no lease, whatever it did before.
#[test]
fn idle_links_own_no_lease() {
    for driver in ["uring", "mio"] {
        let gateway = Host::start(driver);
        let mut sessions: Vec<Child> = Vec::new();
        for words in [&["-N", "127.0.0.1"][..], &["127.0.0.1", "cat"], &["-s", "127.0.0.1", "sftp"]]
        {
            let mut command = gateway.client("ssh");
            command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
            sessions.push(command.spawn().expect("ssh starts"));
        }
        let [_, cat, sftp] = &mut sessions[..] else { unreachable!() };
        // More than fits the small buffers, both ways.
        let text = noise(3 << 20, 2);
        let mut input = cat.stdin.take().expect("a pipe");
        let output = cat.stdout.as_mut().expect("a pipe");
        std::thread::scope(|scope| {
            scope.spawn(|| input.write_all(&text).expect("room"));
            let mut echoed = vec![0; text.len()];
            output.read_exact(&mut echoed).expect("an echo");
            assert!(echoed == text);
        });
        // INIT, and the answer.
        let init = [0, 0, 0, 5, 1, 0, 0, 0, 3];
        sftp.stdin.as_mut().expect("a pipe").write_all(&init).expect("room");
        sftp.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 9]).expect("VERSION");
        wait_for_rest("three idle links to own nothing");
        drop(input);
        for session in &mut sessions {
            assert!(session.try_wait().expect("its status").is_none() || session.stdin.is_none());
            let _ = session.kill();
            let _ = session.wait();
        }
    }
}
