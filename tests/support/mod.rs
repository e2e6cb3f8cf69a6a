//! A gateway in a folder of its own, and OpenSSH's clients pointed at it.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod account;
pub mod display;
pub mod load;
pub mod openssh;
pub mod processes;
pub mod silent;
pub mod terminal;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{self, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use tempfile::TempDir;

pub const HOST_KEYS: [(&str, &str); 5] =
    [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "3072")];

/// Under ssh, a shell that thinks it is the first reads ~/.bashrc, for a command too: what the one who
/// runs the tests has there can take longer than all the rest of a login.
pub const DEEP: &str = "SetEnv SHLVL=1";

/// How the line begins by which a program tells of a panic.
pub const DEFECT: &str = "A defect of this program";

/// A running gateway; it ends, and its folder goes, with the value.
pub struct Gateway {
    pub child: Child,
    pub port: u16,
    pub folder: TempDir,
    /// The test has made it meet a defect.
    pub met_defects: bool,
}

/// Which driver the gateway under test runs on; the whole suite runs once for each.
pub fn driver() -> Option<String> {
    std::env::var("TIDEGATE_TEST_DRIVER").ok()
}

/// How connections are kept apart where a test does not say; `TIDEGATE_TEST_ISOLATION=per-connection` runs all
/// that it can with processes of their own.
fn isolation(lines: &[&str]) -> Option<String> {
    let isolation = std::env::var("TIDEGATE_TEST_ISOLATION").ok()?;
    let said = lines.iter().any(|line| line.contains("TidegateIsolation"));
    (!said).then(|| format!("TidegateIsolation {isolation}\n"))
}

/// Whether this is the second run, for what no driver has a part in: one is enough of that.
pub fn is_run_again() -> bool {
    let again = driver().is_some();
    if again {
        println!("not run again: the driver has no part in it");
    }
    again
}

pub fn run_ok(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn keygen(path: &Path, kind: &str, bits: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-N", "", "-t", kind, "-C", "test", "-f"]).arg(path);
    if !bits.is_empty() {
        command.args(["-b", bits]);
    }
    run_ok(&mut command);
}

/// The names of the keys that a gateway's folder has.
fn key_names() -> impl Iterator<Item = String> {
    let owned = |(kind, bits)| ["host", "user"].map(|owner| format!("{owner}_{kind}{bits}"));
    HOST_KEYS.into_iter().flat_map(owned)
}

/// Where those keys are: made once for all test programs, for making them is slow.
fn keys() -> &'static Path {
    static KEYS: OnceLock<PathBuf> = OnceLock::new();
    KEYS.get_or_init(|| {
        let name = key_names().collect::<Vec<_>>().join("-");
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if !place.exists() {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            for (name, (kind, bits)) in key_names().zip(HOST_KEYS.iter().flat_map(|key| [key; 2])) {
                keygen(&folder.path().join(name), kind, bits);
            }
            // Another program may have been quicker.
            let _ = fs::rename(folder.path(), &place);
        }
        place
    })
}

/// Puts a key and its public half into a folder.
pub fn put_key(at: &Path, name: &str) {
    for (name, mode) in [(name.to_owned(), 0o600), (format!("{name}.pub"), 0o644)] {
        let content = fs::read(keys().join(&name)).expect("a key file");
        fs::write(at.join(&name), content).expect("a key file");
        fs::set_permissions(at.join(&name), PermissionsExt::from_mode(mode)).expect("a mode");
    }
}

/// A port that nobody listens on, told once a process. It lies below those that the kernel chooses
/// from, so that neither a listener on port 0 nor an outgoing connection of another test takes it
/// before it is used, or while a gateway is restarted on it.
pub fn free_port() -> u16 {
    const PORTS: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(0);
    let Some(start) = end.checked_sub(PORTS).filter(|start| *start >= 10_000) else {
        // The kernel's range leaves none: one that was free a moment ago has to do.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        return listener.local_addr().expect("its address").port();
    };
    // Test programs that run side by side have near numbers and begin far from each other.
    let own = (std::process::id().wrapping_mul(0x9e37_79b1) >> 16) % u32::from(PORTS);
    let own = own as u16;
    loop {
        let place = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if is_unused(start + place) && claim(start + place) {
            return start + place;
        }
    }
}

/// Nobody listens on it. Nor do we, for a moment: a process that another thread starts just then would
/// have the listener too, until it has become another program.
fn is_unused(port: u16) -> bool {
    let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let socket = socket::socket(kind.0, kind.1, kind.2, None).expect("a socket");
    socket::setsockopt(&socket, socket::sockopt::ReuseAddr, &true).expect("an option");
    socket::bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).is_ok()
}

/// It is this test program's until its end, whichever others run beside it.
fn claim(port: u16) -> bool {
    static CLAIMS: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let name = net::SocketAddr::from_abstract_name(format!("tidegate-test-port-{port}"));
    let Ok(claim) = UnixDatagram::bind_addr(&name.expect("a short name")) else { return false };
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
    true
}

/// How long a test waits for what takes moments, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

#[allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A log once it has this so many times; what it has instead is told.
#[allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]
pub fn log_with(what: &str, times: usize, log: impl Fn() -> String) -> String {
    let start = Instant::now();
    loop {
        let log = log();
        let found = log.matches(what).count();
        if found >= times {
            return log;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{found} times, not {times}, in the log: {what}\n{log}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Gateway {
    /// Starts a gateway that lets in every test key, with more lines of configuration first.
    pub fn start(lines: &[&str]) -> Gateway {
        Gateway::start_with(lines, |_| {})
    }

    /// The same with a change to how the gateway is run.
    pub fn start_with(lines: &[&str], change: impl FnOnce(&mut Command)) -> Gateway {
        Gateway::start_on(driver().as_deref(), lines, change)
    }

    /// The same on a driver of the caller's choice, or of the gateway's.
    pub fn start_on(
        driver: Option<&str>,
        lines: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        key_names().for_each(|name| put_key(at, &name));
        let mut authorized = String::new();
        for (kind, bits) in HOST_KEYS {
            let path = at.join(format!("user_{kind}{bits}.pub"));
            authorized += &fs::read_to_string(path).expect("a public key");
        }
        fs::write(at.join("authorized_keys"), authorized).expect("authorized_keys");
        Gateway::run_in(folder, driver, lines, change)
    }

    /// Starts in a folder that already holds keys.
    pub fn start_in(folder: TempDir, lines: &[&str]) -> Gateway {
        Gateway::run_in(folder, driver().as_deref(), lines, |_| {})
    }

    fn run_in(
        folder: TempDir,
        driver: Option<&str>,
        lines: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Gateway {
        let port = free_port();
        let at = folder.path();
        let mut config = isolation(lines).unwrap_or_default() + &lines.join("\n");
        config += &format!(
            "\nListenAddress 127.0.0.1:{port}\nAuthorizedKeysFile {}/authorized_keys\n\
             StrictModes no\nPermitRootLogin yes\nMaxStartups 1000:30:2000\n\
             PerSourcePenalties no\n\
             Subsystem sftp internal-sftp\nLogLevel DEBUG\n{DEEP}\n",
            at.display()
        );
        for (kind, bits) in HOST_KEYS {
            config += &format!("HostKey {}/host_{kind}{bits}\n", at.display());
        }
        fs::write(at.join("tidegate_config"), config).expect("the configuration");
        let child = spawn(at, driver, change);
        let mut gateway = Gateway { child, port, folder, met_defects: false };
        gateway.wait_until_it_listens();
        gateway
    }

    /// Starts another in the place of one that has ended.
    pub fn run_again(&mut self) {
        self.child = spawn(self.folder.path(), driver().as_deref(), |_| {});
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        wait_for("the gateway to listen", || {
            if let Some(status) = self.child.try_wait().expect("its status") {
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            self.connect().is_ok()
        });
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A bare connection, time-limited both ways.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The log once it has this. Its lines come a moment after what they tell of, so that what a client
    /// has seen need not be there yet.
    pub fn tells(&self, what: &str) -> String {
        self.tells_times(what, 1)
    }

    /// The same once it has this so many times.
    pub fn tells_times(&self, what: &str, times: usize) -> String {
        log_with(what, times, || self.log())
    }

    /// One of OpenSSH's programs with everything set but what to do; `options` come first.
    pub fn client(&self, program: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "/dev/null"]);
        for option in options {
            command.args(["-o", option]);
        }
        let defaults = [
            format!("Port={}", self.port),
            format!("IdentityFile={}", self.path("user_ed25519").display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            format!("UserKnownHostsFile={}", self.path("known_hosts").display()),
            "LogLevel=ERROR".to_owned(),
            "BatchMode=yes".to_owned(),
            "ConnectTimeout=20".to_owned(),
            // What it would choose by itself costs it 70 ms a login (sntrup761 in OpenSSH 9.2).
            "KexAlgorithms=curve25519-sha256".to_owned(),
        ];
        for option in defaults {
            command.args(["-o", &option]);
        }
        command.stdin(Stdio::null());
        command
    }

    pub fn ssh(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.client(Path::new("ssh"), options);
        command.arg("127.0.0.1").args(words);
        command
    }

    /// The public key of a file of the gateway's folder: its type and itself.
    pub fn public_key(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).expect("a public key");
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Writes what the clients know of the gateway: these keys.
    pub fn know(&self, keys: &[&str]) {
        let line = |key: &&str| format!("[127.0.0.1]:{} {key}\n", self.port);
        fs::write(self.path("known_hosts"), keys.iter().map(line).collect::<String>())
            .expect("a file");
    }

    pub fn known(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.path("known_hosts")).expect("a file");
        let key = |line: &str| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        text.lines().map(key).collect()
    }

    /// A session of this client, until the file of known hosts has these keys and no others.
    pub fn assert_learns(&self, client: &mut Command, keys: &[&str]) {
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = client.spawn().expect("the client starts");
        let wanted: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        wait_for("the keys to be learned", || self.known() == wanted);
        drop(child.stdin.take());
        assert!(child.wait().expect("an end").success(), "{}", self.log());
    }

    /// Runs sftp on a batch of commands.
    pub fn sftp(&self, options: &[&str], batch: &str) -> Output {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("batch{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(self.path(&name), batch).expect("a batch");
        let mut command = self.client(Path::new("sftp"), options);
        command.arg("-b").arg(self.path(&name)).arg("127.0.0.1");
        command.output().expect("sftp starts")
    }

    /// Descriptors the gateway's processes hold.
    pub fn descriptors(&self) -> usize {
        let count = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.all_processes().into_iter().map(count).sum()
    }

    /// The gateway's processes: the one that was started, and, as root, the edge, the signer, the relay if there
    /// is one, and those of accounts.
    pub fn processes(&self) -> Vec<u32> {
        let own = self.child.id();
        let parts = ["edge", "signer", "relay", "delegate"].map(|part| self.parts(part));
        std::iter::once(own).chain(parts.into_iter().flatten()).collect()
    }

    /// The same once there is one for the account that runs the tests: for whoever compares what they
    /// hold before and after.
    pub fn all_processes(&self) -> Vec<u32> {
        if !self.parts("edge").is_empty() && self.own_delegate().is_none() {
            self.assert_alive();
        }
        self.processes()
    }

    /// The process that serves the account that runs the tests.
    pub fn serving(&self) -> u32 {
        self.own_delegate().unwrap_or(self.child.id())
    }

    fn own_delegate(&self) -> Option<u32> {
        let uid = nix::unistd::getuid().to_string();
        let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline"));
        let is_ours = |pid: &u32| words(pid).is_ok_and(|w| w.contains(&format!("--uid\0{uid}\0")));
        self.parts("delegate").into_iter().find(is_ours)
    }

    /// Processes that the gateway has started to do this part of the work.
    pub fn parts(&self, part: &str) -> Vec<u32> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let file = |pid: &u32, name| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let does = |pid: &u32| {
            file(pid, "status").is_ok_and(|status| status.contains(&parent))
                && file(pid, "cmdline").is_ok_and(|words| words.split('\0').nth(1) == Some(part))
        };
        pids.filter(does).collect()
    }

    /// The gateway still serves: a new login runs a command.
    pub fn assert_alive(&self) {
        let output = run_ok(&mut self.ssh(&[], &["echo alive"]));
        assert_eq!(output.stdout, b"alive\n", "log:\n{}", self.log());
    }
}

fn spawn(at: &Path, driver: Option<&str>, change: impl FnOnce(&mut Command)) -> Child {
    let log = fs::File::options().create(true).append(true).open(at.join("log")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("-f").arg(at.join("tidegate_config")).args(["--reactors", "2"]);
    if let Some(driver) = driver {
        command.args(["--driver", driver]);
    }
    // There are no records in it, so none are written to this machine's.
    command.env("TIDEGATE_TEST_LOGINS", at);
    change(&mut command);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the gateway starts")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let ended = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.log();
        let places =
            log.lines().filter_map(|line| line.split_once("Listening on ")?.1.split(' ').next());
        let ports = places.filter_map(|place| place.rsplit_once(':')?.1.parse().ok());
        ports.chain([self.port]).for_each(end_programs_of);
        // A connection that ends for one may be what the test wanted to see end.
        if !std::thread::panicking() && !self.met_defects {
            let log = self.log();
            assert!(!log.contains(DEFECT), "{log}");
        }
    }
}

/// Programs without a terminal outlive the server that started them. They know its port.
pub fn end_programs_of(port: u16) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let end = format!(" {port}");
    // Whoever runs the tests may have come over SSH.
    let tester = std::env::var_os("SSH_CONNECTION").unwrap_or_default();
    for process in processes.flatten() {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let own = environment
            .split(|byte| *byte == 0)
            .filter_map(|word| word.strip_prefix(b"SSH_CONNECTION="))
            .any(|ends| ends.ends_with(end.as_bytes()) && ends != tester.as_encoded_bytes());
        if own {
            let _ = Command::new("kill").arg("-9").arg(process.file_name()).status();
        }
    }
}

/// As in a container whose seccomp profile forbids a system call: the program is told `errno`.
pub fn forbid(command: &mut Command, call: libc::c_long, errno: i32) {
    let statement = |code, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: numbers, and a program that lives during the call.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
                    == 0
        };
        if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec two system calls are made, on memory prepared before.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, install) };
}

/// The program sees the one path in the place of the other, and nobody else does.
pub fn mount_over(command: &mut Command, path: &Path, place: &Path) {
    let name = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let (path, place) = (name(path), name(place));
    let mount = move || {
        let none = std::ptr::null();
        let apart = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: texts that live during the calls.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, apart, none.cast()) == 0
                && libc::mount(path.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
        };
        if mounted { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec three system calls are made, on memory prepared before.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, mount) };
}

/// What codes are made of, and the same in base32.
pub const TOTP_SECRET: (&[u8], &str) =
    (b"12345678901234567890", "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");

/// The code (RFC 6238) of the step that lies `ahead` of now's.
#[allow(clippy::disallowed_methods, reason = "codes depend on the real clock")]
pub fn totp(ahead: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
    let step = (now / 30) as i64 + ahead;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, TOTP_SECRET.0);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let at = usize::from(tag.as_ref()[19] & 15);
    let word = u32::from_be_bytes(tag.as_ref()[at..at + 4].try_into().expect("four bytes"));
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

/// `len` bytes that do not compress and differ from seed to seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    for chunk in bytes.chunks_mut(8) {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (state ^ (state >> 29)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}

/// What files may be called.
pub const ODD_NAMES: [&[u8]; 7] = [
    b"quote'\"",
    b"-dash",
    b"a\nline",
    b"tab\there",
    b"*?[x]",
    b"back\\slash",
    b"caf\xe9 \xff\xfe",
];

/// SHA-256 by the system's own program, so that no code of ours judges itself.
pub fn sha256(path: &Path) -> String {
    let output = run_ok(Command::new("sha256sum").arg(path));
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

pub fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// Everything a stream still brings, until its end or the time limit.
pub fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// The client of a newer OpenSSH, where `tests/clients/newer-openssh.sh` has unpacked one.
pub fn newer_openssh() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("TIDEGATE_NEWER_OPENSSH")?);
    folder.join("bin/ssh").exists().then_some(folder.join("bin"))
}
