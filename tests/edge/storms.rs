//! Many connections while the gateway takes another configuration, and while it ends.
//! `TIDEGATE_STORM=20` has twenty times as many: 1,000 sessions.

use super::*;
use crate::support::load::Load;

fn times() -> usize {
    std::env::var("TIDEGATE_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn logins(gateway: &Gateway) -> usize {
    gateway.log().matches(" Accepted publickey ").count()
}

/// SECURITY R20: reloads, good ones and bad ones, beside idle sessions and a stream of logins: no
/// session ends and no login fails.
#[test]
fn r20_reloads_under_load_lose_nothing() {
    let (live, rate) = (50 * times(), 5 * times());
    let gateway = Gateway::start(&[]);
    let config = gateway.path("tidegate_config");
    let first = fs::read_to_string(&config).expect("its configuration");
    let [seconds, stay] = [4, 8].map(|n| (n * times().min(4)).to_string());
    let [count, pace] = [live, rate].map(|n| n.to_string());
    let words = ["--scenario", "idle", "--connections", &count, "--duration", &stay];
    let idle = Load::start(&gateway, &words);
    // The first login of each is to see who answers.
    wait_for("the sessions", || logins(&gateway) > live);
    let words = ["--scenario", "auth", "--rate", &pace, "--duration", &seconds];
    let mut stream = Load::start(&gateway, &words);
    let told = |what: &str| gateway.log().matches(what).count();
    let mut reloads = 0;
    while !stream.is_over() || reloads < 8 {
        reloads += 1;
        let (line, said) = match reloads % 4 {
            0 => ("Frobnicate yes".to_owned(), "The configuration from before stays in force"),
            _ => (format!("SetEnv ROUND={reloads}"), "is in force for new connections"),
        };
        let before = told(said);
        fs::write(&config, format!("{line}\n{first}")).expect("a configuration");
        run_ok(Command::new("kill").args(["-HUP", &gateway.child.id().to_string()]));
        wait_for(said, || told(said) > before);
    }
    println!("{reloads} reloads beside {live} sessions and {rate} logins a second");
    for (what, load) in [("logins", stream), ("sessions", idle)] {
        let run = load.report();
        println!("{what}: {run}");
        assert_eq!(run["errors"], serde_json::json!({}), "{what}: {run}\n{}", gateway.log());
    }
}

/// SECURITY R19: the gateway is told to end while many sessions are open and files are on their way. It
/// accepts no more at once, the files arrive whole, and who stays to the end hears why.
#[test]
fn r19_an_end_cuts_no_transfer_short() {
    let (live, copies) = (50 * times(), (4 * times()).min(50));
    // Many clients take a while to start.
    let longer = 1 + times() / 5;
    let mut gateway = Gateway::start(&[&format!("TidegateDrainTime {}", 6 * longer)]);
    let size = longer << 20;
    let bytes = support::noise(size, 11);
    fs::write(gateway.path("big"), &bytes).expect("a file");
    let count = live.to_string();
    let words = ["--scenario", "idle", "--connections", &count, "--duration", "600"];
    let idle = Load::start(&gateway, &words);
    wait_for("the sessions", || logins(&gateway) > live);
    let transfers: Vec<Child> = (0..copies)
        .map(|n| {
            let batch = gateway.path(&format!("batch{n}"));
            let [from, to] = ["big", &format!("copy{n}")].map(|name| gateway.path(name));
            let words = format!("get {} {}\n", from.display(), to.display());
            fs::write(&batch, words).expect("a batch");
            let mut sftp = gateway.client(std::path::Path::new("sftp"), &[QUICK]);
            // Two seconds for a MiB, however fast the machine.
            sftp.args(["-l", "4096", "-b"]).arg(batch).arg("127.0.0.1");
            let streams = sftp.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            streams.spawn().expect("sftp starts")
        })
        .collect();
    let begun = |n: usize| gateway.path(&format!("copy{n}")).metadata().is_ok_and(|m| m.len() > 0);
    wait_for("the transfers", || (0..copies).all(begun));
    let told_at = Instant::now();
    terminate(&gateway);
    wait_for("it to accept no more", || is_closed(gateway.address()));
    println!("{live} sessions, {copies} transfers; closed after {:?}", told_at.elapsed());
    for (n, child) in transfers.into_iter().enumerate() {
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{output:?}\n{}", gateway.log());
        assert!(fs::read(gateway.path(&format!("copy{n}"))).expect("a copy") == bytes);
    }
    assert!(gateway.child.try_wait().expect("its status").is_none(), "sessions are open");
    let run = idle.report();
    println!("{run}");
    let errors = run["errors"].as_object().expect("errors by phase and reason");
    let told: u64 = errors
        .iter()
        .filter(|(reason, _)| reason.contains("server shutting down"))
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    assert_eq!(told, live as u64, "{run}");
    wait_for("the gateway to end", || gateway.child.try_wait().expect("a status").is_some());
    println!("ended after {:?} of {longer} x 6 s", told_at.elapsed());
}

/// Anonymous memory, descriptors and threads of all processes.
fn holdings(gateway: &Gateway) -> [u64; 3] {
    let mut sum = [0; 3];
    for pid in gateway.all_processes() {
        // The edge may just have been replaced.
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let found = [field("RssAnon:") << 10, open as u64, field("Threads:")];
        sum.iter_mut().zip(found).for_each(|(sum, one)| *sum += one);
    }
    sum
}

/// Some of everything: logins, sessions, files, forwarded connections, refusals, clients that vanish.
fn everything(gateway: &Gateway) {
    for words in [
        &["--scenario", "auth", "--connections", "24", "--concurrent", "8"][..],
        &["--scenario", "exec", "--connections", "12", "--concurrent", "6"],
        &["--scenario", "sftp", "--connections", "12", "--messages", "20"],
        &["--scenario", "forward", "--connections", "12"],
        &["--scenario", "connect", "--connections", "12"],
    ] {
        let run = Load::start(gateway, words).report();
        assert_eq!(run["errors"], serde_json::json!({}), "{words:?}: {run}\n{}", gateway.log());
    }
    let [from, to, back] = ["from", "to", "back"].map(|name| gateway.path(name));
    let batch = format!("put {0} {1}\nget {1} {2}\n", from.display(), to.display(), back.display());
    let output = gateway.sftp(&["RekeyLimit=1M"], &batch);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&back).expect("a file") == fs::read(&from).expect("a file"));
    let refused = gateway.ssh(&["User=no-such-user"], &["true"]).output();
    assert_eq!(refused.expect("ssh").status.code(), Some(255));
    let mut vanishes = gateway.ssh(&[], &["cat /dev/zero"]);
    let mut vanishes = vanishes.stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut some = [0; 4096];
    vanishes.stdout.as_mut().expect("output").read_exact(&mut some).expect("bytes");
    vanishes.kill().expect("it is there");
    vanishes.wait().expect("its end");
    drop(gateway.connect());
}

/// SECURITY R27: rounds of everything take nothing along: memory, descriptors and threads are what they
/// were after the first. `TIDEGATE_SOAK=1440` goes on for so many minutes, of which the first quarter, an
/// hour at most, is for what grows up to a bound: sessions that are remembered, pools, the allocator's own.
#[test]
fn r27_rounds_of_everything_leave_nothing() {
    const WARM: usize = 10;
    /// What one table that doubles or one arena of the allocator's takes, and what an hour may add.
    const STEP_BYTES_MAX: u64 = 4 << 20;
    const HOUR_BYTES_MAX: u64 = 1 << 20;
    let minutes = std::env::var("TIDEGATE_SOAK").ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(60 * minutes.unwrap_or(0));
    let gateway = Gateway::start(&[]);
    fs::write(gateway.path("from"), support::noise(3 << 20, 27)).expect("a file");
    let (begun, mut rounds) = (Instant::now(), 0);
    let (mut base, mut since) = ([0; 3], begun);
    while rounds < WARM + 5 || begun.elapsed() < time {
        everything(&gateway);
        rounds += 1;
        if rounds <= WARM {
            // Pools, threads and what is made when it is first needed are there in the end.
            base = holdings(&gateway);
        }
        wait_for("nothing to be left open", || holdings(&gateway)[1] <= base[1]);
        wait_for("no thread to be left", || holdings(&gateway)[2] <= base[2]);
        let held = holdings(&gateway);
        if begun.elapsed() < (time / 4).min(Duration::from_secs(3600)) {
            (base[0], since) = (held[0], Instant::now());
        }
        let (grown, hours) = (held[0].saturating_sub(base[0]), since.elapsed().as_secs() / 3600);
        println!("round {rounds} after {:?}: {held:?}, {} KiB more", begun.elapsed(), grown >> 10);
        assert!(
            grown <= STEP_BYTES_MAX + hours * HOUR_BYTES_MAX,
            "{grown} bytes after {rounds} rounds"
        );
    }
}
