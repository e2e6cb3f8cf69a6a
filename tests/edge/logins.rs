//! What a login takes that can be counted from outside: what is sent to the client, and who is woken.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use crate::support::account::Account;
use crate::support::load::Load;
use crate::support::{Gateway, run_ok, wait_for};

/// `tcpi_data_segs_in` of the kernel's tcp_info: segments that have brought data to this socket. On the
/// loopback each send is one.
fn segments_in(stream: &TcpStream) -> u32 {
    const AT: usize = 152;
    let mut info = [0_u8; 192];
    let mut len = info.len() as libc::socklen_t;
    let (fd, level) = (stream.as_raw_fd(), libc::IPPROTO_TCP);
    // SAFETY: the option writes no more than `len` bytes to where it is told.
    let got = unsafe {
        libc::getsockopt(fd, level, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    assert!(got == 0 && len as usize >= AT + 4, "the kernel counts segments");
    u32::from_ne_bytes(info[AT..AT + 4].try_into().expect("four bytes"))
}

/// What the gateway sends to a client that logs in and then waits, in sends, up to its host keys.
fn sends_of_a_login(gateway: &Gateway) -> u32 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = format!("Port={}", listener.local_addr().expect("its address").port());
    let mut client = gateway.ssh(&[&port, "LogLevel=DEBUG1"], &["-N"]);
    let mut client = client.stderr(Stdio::piped()).spawn().expect("ssh starts");
    let (near, _) = listener.accept().expect("a client");
    let far = gateway.connect().expect("a connection");
    let pass = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().expect("it"), to.try_clone().expect("it"));
        thread::spawn(move || drop(std::io::copy(&mut from, &mut to)))
    };
    let passing = [pass(&near, &far), pass(&far, &near)];
    let said = BufReader::new(client.stderr.take().expect("its errors"));
    let told = said.lines().map_while(Result::ok).any(|line| line.contains("hostkeys-00"));
    let sends = segments_in(&far);
    let _ = client.kill();
    let _ = client.wait();
    for end in [&near, &far] {
        let _ = end.shutdown(Shutdown::Both);
    }
    for thread in passing {
        thread.join().expect("no panic");
    }
    assert!(told, "the client hears of host keys; log:\n{}", gateway.log());
    sends
}

/// How often the threads of a process whose names begin so have waited, together.
fn waits_of(pid: u32, threads: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let read = |task: &fs::DirEntry, file| fs::read_to_string(task.path().join(file));
    let named =
        |task: &fs::DirEntry| read(task, "comm").is_ok_and(|name| name.trim().starts_with(threads));
    let waits = |task: fs::DirEntry| -> u64 {
        let status = read(&task, "status").expect("its counts");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse().expect("a number")
    };
    let found: Vec<u64> = tasks.flatten().filter(named).map(waits).collect();
    assert!(!found.is_empty(), "no thread is called {threads}");
    found.into_iter().sum()
}

/// The same of the gateway's first process.
fn waits(gateway: &Gateway, threads: &str) -> u64 {
    waits_of(gateway.child.id(), threads)
}

/// Identification, KEXINIT, the reply with NEWKEYS, then an answer to each of the client's requests: for
/// the service, with no method, about the key, with its signature. The last is sent with the host keys,
/// by the process of the account, which is passed the connection without the broker.
#[test]
fn a_login_takes_no_more_sends_and_wake_ups_than_it_must() {
    let gateway = Gateway::start(&[]);
    gateway.assert_alive();
    let separated = !gateway.parts("edge").is_empty();
    let before = separated.then(|| waits(&gateway, "broker"));
    for _ in 0..3 {
        assert_eq!(sends_of_a_login(&gateway), 7, "log:\n{}", gateway.log());
    }
    if let Some(before) = before {
        // It may still have been about to wait after the first login, for which it has started a process.
        let waited = waits(&gateway, "broker") - before;
        assert!(waited <= 1, "the broker was woken {waited} times for three logins");
    }
}

/// So many logins by one light program, all of them with success.
fn log_in(gateway: &Gateway, logins: u64) {
    log_in_at(gateway, "127.0.0.1", logins);
}

/// The same at a target that names the user.
fn log_in_at(gateway: &Gateway, target: &str, logins: u64) {
    let count = logins.to_string();
    let words = ["--scenario", "auth", "--connections", &count, "--concurrent", "4"];
    let report = Load::start_at(gateway, target, &words).report();
    assert_eq!(report["completed"], logins, "{report}");
}

/// Each shard of the edge hears its answers by itself, and that of the account's process its connections: their
/// first threads are woken for what is said to the processes as a whole, which is now and then.
#[test]
fn a_login_wakes_shards_alone() {
    const LOGINS: u64 = 32;
    let gateway = Gateway::start(&[]);
    if gateway.parts("edge").is_empty() {
        return println!("not run: nothing is separated without root");
    }
    log_in(&gateway, 1);
    let parts = || [gateway.parts("edge"), gateway.parts("delegate")].concat();
    let woken = || parts().into_iter().map(|pid| waits_of(pid, "tidegate")).sum::<u64>();
    assert_eq!(parts().len(), 2, "log:\n{}", gateway.log());
    let (before, begun) = (woken(), std::time::Instant::now());
    log_in(&gateway, LOGINS);
    let moments = begun.elapsed().as_secs() + 2;
    let waited = woken() - before;
    assert!(waited <= 2 * moments, "they were woken {waited} times in {moments} s");
    assert!(2 * moments < LOGINS, "{LOGINS} logins took {moments} s: too slow to tell");
}

/// Of logins in a row with one key, the first of a moment has the key's file read by a worker; the others'
/// key is found by the thread that hears the edge.
#[test]
fn logins_in_a_row_wake_no_worker_each() {
    let gateway = Gateway::start(&[]);
    if gateway.parts("edge").is_empty() {
        return println!("not run: nothing is separated without root");
    }
    assert_no_worker_each(&gateway, "127.0.0.1");
}

/// In one process it is found by the reactor that has the login.
#[test]
fn logins_in_a_row_in_one_process_wake_no_worker_each() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start_with(&[], |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let folder = Path::new(&config).parent().expect("a folder").to_owned();
        run_ok(Command::new("chown").args(["-R", &account.name]).arg(&folder));
        command.uid(account.uid).gid(account.uid);
    });
    assert_no_worker_each(&gateway, &format!("{}@127.0.0.1", account.name));
}

fn assert_no_worker_each(gateway: &Gateway, target: &str) {
    const LOGINS: u64 = 64;
    let keys = fs::metadata(gateway.path("authorized_keys")).expect("a file");
    wait_for("the file to have rested", || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        now.as_secs() > keys.ctime() as u64 + 1
    });
    log_in_at(gateway, target, 4);
    let before = waits(gateway, "worker-");
    let begun = std::time::Instant::now();
    log_in_at(gateway, target, LOGINS);
    // A moment is a second, and of four logins at once each may be its first.
    let moments = begun.elapsed().as_secs() + 2;
    let waited = waits(gateway, "worker-") - before;
    assert!(waited <= 4 * moments, "workers were woken {waited} times in {moments} s");
    assert!(4 * moments < LOGINS, "{LOGINS} logins took {moments} s: too slow to tell");
}
