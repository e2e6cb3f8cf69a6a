//! Accounts that exist in a file of the gateway's alone: files by SFTP and scp, within rights and quotas.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// Of "correct horse", by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";

/// A place with a file of accounts, whose files the service may change.
struct Site {
    folder: tempfile::TempDir,
    service: Account,
}

impl Site {
    fn new() -> Option<Site> {
        let service = Account::new()?;
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        for name in ["drop/in", "mirror/pub"] {
            fs::create_dir_all(folder.path().join(name)).expect("folders");
        }
        for name in ["drop", "drop/in", "mirror", "mirror/pub"] {
            chown(folder.path().join(name), Some(service.uid), None).expect("its owner");
        }
        fs::write(folder.path().join("mirror/pub/image"), noise(200_000, 3)).expect("a file");
        fs::write(folder.path().join("secret"), "outside").expect("a file");
        symlink("../secret", folder.path().join("mirror/up")).expect("a link");
        Some(Site { folder, service })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, text: &str) {
        let at = self.folder.path().display().to_string();
        fs::write(self.at("accounts"), text.replace("PATH", &at)).expect("a file");
        fs::set_permissions(self.at("accounts"), PermissionsExt::from_mode(0o600)).expect("a mode");
    }

    fn lines(&self) -> [String; 2] {
        [
            format!("TidegateAccounts {}", self.at("accounts").display()),
            format!("TidegateAccountsUser {}", self.service.name),
        ]
    }
}

fn start(site: &Site, text: &str, more: &[&str]) -> Gateway {
    site.put("");
    let own = site.lines();
    let lines: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let gateway = root_gateway(&lines, None);
    let types = "#!/bin/sh\necho correct horse\n";
    fs::write(gateway.path("types"), types).expect("a script");
    support::make_executable(&gateway.path("types"));
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    site.put(&text.replace("KEY", key.trim_end()));
    gateway
}

fn batch(gateway: &Gateway, user: &str, lines: &str) -> (bool, String) {
    let output = gateway.sftp(&[&format!("User={user}")], lines);
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// The first example of the manual: whoever brings something sees nothing of what others brought.
#[test]
fn a_drop_box_takes_what_fits_and_shows_nothing() {
    let Some(site) = Site::new() else { return };
    let accounts = "Account bringer\n  Key KEY\n  Home PATH/drop\n  Rights / list\n  \
                    Rights /in write\n  QuotaBytes 500K\n  QuotaFiles 4\n";
    let gateway = start(&site, accounts, &[]);
    let payload = gateway.path("payload");
    fs::write(&payload, noise(200_000, 1)).expect("a file");
    let put =
        |name: &str| batch(&gateway, "bringer", &format!("put {} in/{name}\n", payload.display()));
    let (done, said) = put("one");
    assert!(done, "{said}\n{}", gateway.log());
    let made = fs::metadata(site.at("drop/in/one")).expect("the upload");
    assert_eq!((made.uid(), made.len()), (site.service.uid, 200_000));
    assert!(put("two").0);
    // The third does not fit: what fitted of it is there, and no byte more than the quota.
    let (done, said) = put("three");
    assert!(!done && said.contains("Failure"), "{said}");
    let sum: u64 = ["one", "two", "three"]
        .iter()
        .map(|name| fs::metadata(site.at("drop/in").join(name)).map_or(0, |file| file.len()))
        .sum();
    assert!(sum <= 500 << 10, "{sum}");
    for (lines, why) in [
        ("ls in\n", "no listing"),
        ("get in/one /dev/null\n", "nor reading"),
        ("put /etc/hostname in/one\n", "nor writing over it"),
        ("rm in/one\n", "nor removing it"),
        ("rename in/one in/x\n", "nor moving it"),
        ("put /etc/hostname top\n", "nor elsewhere"),
        ("cd ..\nget ../secret /dev/null\n", "nor out of it"),
    ] {
        let (done, said) = batch(&gateway, "bringer", lines);
        assert!(!done, "{why}: {said}");
    }
    // scp's own protocol has the same rights and quota.
    let copy = |to: &str| {
        let mut copy = gateway.client(Path::new("scp"), &["User=bringer"]);
        copy.arg("-O").arg("/etc/hostname").arg(format!("127.0.0.1:{to}"));
        copy.output().expect("scp").status.success()
    };
    assert!(!copy("/in/one") && !copy("/top"));
    // Nothing runs, and no socket of the system is reached.
    for words in [&["id"][..], &[]] {
        let output = ssh(&gateway, "bringer", &["RequestTTY=force"], words).output().expect("ssh");
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let output = ssh(
        &gateway,
        "bringer",
        &["ExitOnForwardFailure=yes", "RemoteForward=/tmp/x /tmp/y"],
        &["-N"],
    );
    let mut output = output;
    assert!(!output.output().expect("ssh").status.success());
    let [pid] = site.service.delegates()[..] else { panic!("one process\n{}", gateway.log()) };
    let groups = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let second = nix::unistd::Group::from_name(&site.service.second_group());
    let second = second.expect("groups").expect("the group").gid.to_string();
    let groups = groups.lines().find(|line| line.starts_with("Groups:")).expect("groups");
    assert!(groups.split_whitespace().any(|group| group == second), "{groups}");
}

/// The same for somebody who types what he is asked for.
fn typed(gateway: &Gateway, user: &str, method: &str, lines: &str) -> (bool, String) {
    fs::write(gateway.path("batch"), lines).expect("a batch");
    let (user, method) = (format!("User={user}"), format!("PreferredAuthentications={method}"));
    let options = [&*user, "BatchMode=no", &method, "NumberOfPasswordPrompts=1"];
    let mut sftp = gateway.client(Path::new("sftp"), &options);
    sftp.env("SSH_ASKPASS", gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
    sftp.arg("-oBatchMode=no").arg("-b").arg(gateway.path("batch")).arg("127.0.0.1");
    let output = sftp.output().expect("sftp");
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// The second one: everybody reads, by password or by key, nobody changes anything; -T tells.
#[test]
fn a_mirror_is_read_and_not_written() {
    let Some(site) = Site::new() else { return };
    let hash = hashed(Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("passwd"));
    let accounts = format!(
        "Account reader\n  PasswordHash {hash}\n  Home PATH/mirror\n  ReadOnly yes\nAccount late\n  \
         Key KEY\n  Home PATH/mirror\n  Expires 20200101Z\nAccount far\n  Key KEY\n  Home \
         PATH/mirror\n  From 192.0.2.0/24\nAccount deep\n  Key KEY\n  Home PATH/mirror\n"
    );
    let more = [
        "PasswordAuthentication yes",
        "Match User deep",
        "ForceCommand internal-sftp -d /pub",
        "Match all",
    ];
    let gateway = start(&site, &accounts, &more);
    let got = gateway.path("got");
    let typed = |lines: &str| typed(&gateway, "reader", "password", lines);
    let (done, said) = typed(&format!("ls -l pub\nget pub/image {}\n", got.display()));
    assert!(done, "{said}\n{}", gateway.log());
    assert_eq!(sha256(&got), sha256(&site.at("mirror/pub/image")));
    for lines in [
        "put /etc/hostname x\n",
        "rm pub/image\n",
        "mkdir x\n",
        "chmod 600 pub/image\n",
        "get up /dev/null\n",
    ] {
        let (done, said) = typed(lines);
        assert!(!done, "{lines}: {said}");
    }
    assert!(!batch(&gateway, "late", "ls\n").0 && !batch(&gateway, "far", "ls\n").0);
    for why in ["the account has expired", "From does not list"] {
        gateway.tells(why);
    }
    let (done, said) = batch(&gateway, "deep", "pwd\nput /etc/hostname new\nrm new\n");
    assert!(done && said.contains("Remote working directory: /pub\n"), "{said}\n{}", gateway.log());
    let config = gateway.path("tidegate_config");
    let mut shown = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    shown.args(["serve", "-T", "-f"]).arg(config).args(["-C", "user=reader,addr=127.0.0.1"]);
    let shown = text(&run_ok(&mut shown).stdout);
    assert!(
        shown.contains("# account reader of ") && shown.contains("#   Rights / read,list\n"),
        "{shown}"
    );
}

/// Who has a secret types a code as well; who has none may say anything there.
#[test]
fn passwords_take_a_code_where_there_is_a_secret() {
    let Some(site) = Site::new() else { return };
    let accounts = format!(
        "Account typist\n  PasswordHash {HASH}\n  TotpSecret {}\n  Home PATH/mirror\nAccount plain\n  \
         PasswordHash {HASH}\n  Home PATH/mirror\n",
        support::TOTP_SECRET.1
    );
    let both = ["KbdInteractiveAuthentication yes", "PasswordAuthentication yes"];
    let gateway = start(&site, &accounts, &both);
    let with = |user: &str, method: &str, code: &str| {
        let says = format!("case \"$1\" in *code*) echo {code};; *) echo correct horse;; esac");
        fs::write(gateway.path("types"), format!("#!/bin/sh\n{says}\n")).expect("a script");
        typed(&gateway, user, method, "ls pub\n").0
    };
    let asked = "keyboard-interactive";
    let (used, next) = (support::totp(0), support::totp(1));
    let wrong = if used == "000000" || next == "000000" { "000001" } else { "000000" };
    assert!(!with("typist", asked, wrong));
    assert!(with("typist", asked, &used), "{}", gateway.log());
    assert!(!with("typist", asked, &used), "again");
    assert!(!with("typist", "password", ""), "a password alone");
    assert!(with("typist", asked, &next), "{}", gateway.log());
    assert!(with("plain", asked, "anything") && with("plain", "password", ""), "{}", gateway.log());
}

fn hashed(command: &mut Command) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("input").write_all(b"correct horse\n").expect("room");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success());
    text(&output.stdout).trim_end().to_owned()
}

/// Who exists in the file is as hidden from strangers as anybody.
#[test]
fn case_65_who_is_in_the_file_is_not_told() {
    let Some(site) = Site::new() else { return };
    let accounts = format!("Account known\n  PasswordHash {HASH}\n  Home PATH/mirror\n");
    let gateway = start(&site, &accounts, &["PasswordAuthentication yes"]);
    let heard = |user: &str| {
        let output = ssh(&gateway, user, &["LogLevel=DEBUG3"], &["true"]).output().expect("ssh");
        assert_eq!(output.status.code(), Some(255));
        super::from_the_server(&output.stderr, user)
    };
    let known = heard("known");
    assert!(known.iter().any(|line| line.contains("receive packet: type 51")), "{known:?}");
    assert_eq!(heard("nobody-of-that-name"), known);
}

#[test]
fn files_that_make_no_sense_are_told_before_anything_is_served() {
    let Some(site) = Site::new() else { return };
    let check = |text: &str, lines: &[String]| {
        site.put(text);
        fs::write(site.at("config"), lines.join("\n")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output =
            command.args(["serve", "-t", "-f"]).arg(site.at("config")).output().expect("it runs");
        (output.status.success(), self::text(&output.stderr))
    };
    let good = "Account ann\nHome /srv/ann\nPasswordHash *\n";
    let lines = site.lines();
    assert_eq!(check(good, &lines), (true, String::new()));
    let (fine, said) = check(&format!("{good}Hom /x\n"), &lines);
    let place = format!(
        "{}:4: there is no keyword \"Hom\"; did you mean Home?",
        site.at("accounts").display()
    );
    assert!(!fine && said.contains(&place), "{said}");
    for (lines, why) in [
        (vec![lines[0].clone()], "needs TidegateAccountsUser"),
        (vec![lines[0].clone(), "TidegateAccountsUser root".to_owned()], "root's rights"),
        (vec![lines[0].clone(), "TidegateAccountsUser no-such-user".to_owned()], "no such user"),
    ] {
        let (fine, said) = check(good, &lines);
        assert!(!fine && said.contains(why), "{said}");
    }
}

/// With a process for each connection nobody counts what two of them add: accounts with a quota do not
/// get in, and a gateway does not start with one.
#[test]
fn quotas_take_one_process() {
    let Some(site) = Site::new() else { return };
    let account = "Account one\n  Key KEY\n  Home PATH/mirror\n  ReadOnly yes\n";
    let mut gateway = start(&site, account, &["TidegateIsolation per-connection"]);
    let list = |gateway: &Gateway, user: &str| batch(gateway, user, "ls pub\n");
    assert!(list(&gateway, "one").0, "{}", gateway.log());
    let mut ssh = gateway.client(Path::new("sftp"), &["User=one"]);
    let ssh = ssh.arg("127.0.0.1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut held = ssh.spawn().expect("sftp starts");
    wait_for("its process", || site.service.delegates().len() == 1);
    assert!(list(&gateway, "one").0);
    gateway.tells_times("Started process", 3);
    held.kill().and_then(|()| held.wait()).expect("its end");
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    let limited = format!("{account}  QuotaFiles 9\n").replace("KEY", key.trim_end());
    site.put(&limited);
    let (done, said) = list(&gateway, "one");
    assert!(!done && said.contains("Permission denied"), "{said}");
    let why = "QuotaBytes and QuotaFiles are counted in one process";
    gateway.tells(why);
    gateway.child.kill().and_then(|()| gateway.child.wait()).expect("its end");
    let serve = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "-t", "-f"])
        .arg(gateway.path("tidegate_config"))
        .output()
        .expect("it starts");
    let said = text(&serve.stderr);
    assert!(!serve.status.success() && said.contains(why), "{said}");
}
