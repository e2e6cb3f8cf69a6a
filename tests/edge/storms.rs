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
