//! Programs that cannot take the place of the one that serves: it goes on.

use super::*;

/// Upgrades in vain; the log says why.
fn fails(site: &Site, why: &str) {
    let (before, told) = (site.now(), site.told("The upgrade has come to nothing"));
    kill("-USR2", before);
    wait_for("the end of it", || site.told("The upgrade has come to nothing") > told);
    let log = site.gateway.log();
    let line = log.lines().rfind(|line| line.contains("The upgrade has come to nothing"));
    assert!(line.is_some_and(|line| line.contains(why)), "{why}: {line:?}\n{log}");
    assert_eq!(site.now(), before);
    site.assert_serves();
}

/// A configuration that is no good, or none that can be put to work.
fn configurations(site: &Site) {
    let config = site.gateway.path("tidegate_config");
    let good = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, format!("PermitTTY yes\nFrobnicate yes\n{good}")).expect("a configuration");
    fails(site, &format!("{}:2: Frobnicate", config.display()));
    // What is well to read, and cannot be had.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    fs::write(&config, format!("ListenAddress {address}\n{good}")).expect("a configuration");
    fails(site, &format!("cannot listen on {address}"));
    fs::write(&config, &good).expect("a configuration");
}

#[test]
fn programs_that_are_no_good_leave_the_one_that_serves() {
    let site = Site::start(&[], None, &[("TIDEGATE_TEST_UPGRADE_TIME", "2000")]);
    let mut session = site.session();
    let first = site.now();
    let parts = below(&[first]).len();
    configurations(&site);
    site.lay(Path::new("/nonexistent/program"));
    fails(&site, "cannot start");
    site.lay(Path::new("/bin/false"));
    fails(&site, "its check of the configuration ended with exit status: 1");
    let checks = "for word; do [ \"$word\" = -t ] && exit 0; done";
    for (script, why) in [
        (format!("{checks}; exit 0"), "it has ended"),
        (format!("{checks}; exec 3>&-; exec sleep 1000"), "it has ended"),
        (format!("{checks}; exec sleep 1000"), "it does not begin to serve"),
        ("exec sleep 1000".to_owned(), "the check of its configuration does not end"),
    ] {
        site.lay_script(&script);
        fails(&site, why);
    }
    session.assert_well(2000);
    assert_eq!(below(&[first]).len(), parts, "nothing is left of them");
    let all = Command::new("pgrep").args(["-f", "^sleep 1000$"]).output().expect("pgrep");
    let left = String::from_utf8_lossy(&all.stdout).into_owned();
    let ours = |pid: &&str| pid.parse().is_ok_and(|pid| stat(pid, 1) == stat(first, 1));
    assert_eq!(left.lines().find(ours), None);
}

#[test]
fn a_program_that_is_no_good_leaves_one_process_too() {
    let Some(account) = Account::new() else { return };
    let site = Site::of(&account, &[]);
    configurations(&site);
    site.lay_script("for word; do [ \"$word\" = -t ] && exit 0; done; exit 1");
    fails(&site, "it has ended");
}

/// Signals that come meanwhile are not lost.
#[test]
fn signals_during_an_upgrade_are_heard() {
    let site = Site::new(&[]);
    let first = site.now();
    site.lay_script("exec sleep 1000");
    kill("-USR2", first);
    wait_for("an upgrade", || site.told("upgrading to") > 0);
    kill("-USR2", first);
    wait_for("a refusal", || site.told("an upgrade is under way already") > 0);
    let mut session = site.session();
    kill("-HUP", first);
    session.assert_well(1);
    kill("-TERM", first);
    wait_for_the_end_of(first);
}

/// SECURITY R21: the old program's word that its place is the new one's comes too late: that one has left.
#[test]
fn r21_a_word_that_comes_too_late_leaves_one_program() {
    let site = Site::start(&[], None, &[("TIDEGATE_TEST_UPGRADE_TIME", "5000")]);
    let mut session = site.session();
    let first = site.now();
    let parts = below(&[first]).len();
    // It stops when it was told all, and before it says anything.
    let program = env!("CARGO_BIN_EXE_tidegate");
    let checks = "for word; do [ \"$word\" = -t ] && exit 0; done";
    site.lay_script(&format!("{checks}; sleep 0.5; kill -STOP $$; exec {program} \"$@\""));
    kill("-USR2", first);
    let mark = format!("TIDEGATE_UPGRADE={first}\0");
    let is_heir = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_stopped = stat(*pid, 0).is_some_and(|state| state == "T");
        is_stopped && String::from_utf8_lossy(&environment).contains(&mark)
    };
    let mut heir = None;
    wait_for("another program", || {
        heir = below(&[std::process::id()]).into_iter().find(is_heir);
        heir.is_some()
    });
    let heir = heir.expect("it is there");
    kill("-STOP", first);
    kill("-CONT", heir);
    wait_for("the new one to give up", || !is_there(heir));
    kill("-CONT", first);
    let failed = || site.told("The upgrade has come to nothing");
    wait_for("the old one to find that out", || failed() == 1);
    assert_eq!(site.now(), first);
    site.assert_serves();
    session.assert_well(100);
    wait_for("nothing to be left of it", || below(&[first]).len() == parts);
    site.lay(Path::new(program));
    kill("-USR2", first);
    wait_for("another program", || site.pid().is_some_and(|pid| pid != first));
    assert_eq!(failed(), 1);
    site.assert_serves();
    session.assert_well(100);
    session.end();
    wait_for_the_end_of(first);
}

/// A process that serves one connection has no place that another could take.
#[test]
fn one_connection_is_not_upgraded() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["host", "user"] {
        support::keygen(&at(name), "ed25519", "");
    }
    fs::copy(at("user.pub"), at("authorized_keys")).expect("a copy");
    let config = format!(
        "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\n\
         PermitRootLogin yes\n{1}\n",
        folder.path().display(),
        support::DEEP
    );
    fs::write(at("config"), config).expect("a configuration");
    let program = env!("CARGO_BIN_EXE_tidegate");
    let proxy =
        format!("{program} sshd -i -f {} -E {}", at("config").display(), at("log").display());
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "/dev/null", "-o", &format!("ProxyCommand={proxy}")]);
    for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
        ssh.args(["-o", option]);
    }
    ssh.arg("-i").arg(at("user")).args(["here", "cat"]);
    let mut session = Session::begin(ssh);
    session.assert_well(1);
    let config = at("config").display().to_string();
    let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let child = below(&[session.0.id()]);
    let pid = child.iter().find(|pid| words(pid).contains(&config)).expect("the gateway");
    kill("-USR2", *pid);
    wait_for("a refusal", || {
        let log = fs::read_to_string(at("log")).unwrap_or_default();
        log.contains("only a process that takes new connections can be upgraded")
    });
    session.assert_well(100);
    session.end();
}
