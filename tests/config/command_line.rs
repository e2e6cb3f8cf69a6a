//! The same flags before `tidegate sshd` and before the sshd of this machine: how each ends, whether
//! it says anything, and what settings it prints. Without an sshd there is nothing to compare with.

use std::process::{Command, Stdio};

use super::*;

const SSHD: &str = "/usr/sbin/sshd";

/// What flags can change.
const KEYWORDS: [&str; 8] = [
    "addressfamily ",
    "banner ",
    "listenaddress ",
    "logingracetime ",
    "maxauthtries ",
    "maxsessions ",
    "port ",
    "x11forwarding ",
];

/// Words apart by blanks; `@` is the folder, `_` a blank within a word, `%` an empty word.
const ALIKE: &str = "
    -t -f @/main
    -tqf @/main
    -f@/main -t
    -t -f @/main --
    -- -t -f @/main
    -t -f @/main extra
    -t -f
    -tx -f @/main
    -Tf@/main -p2200
    -TDef @/main -p 2200 -p 2300
    -T -f @/main -p ssh
    -T -f @/main -p 0
    -T -f @/main -p 65536
    -T -f @/main -p -1
    -T -f @/main -oPort=1 -oPort=2
    -T -f @/main -oPort=1 -p 2200
    -T -f @/main -p 2200 -oPort=1
    -T -f @/main -o port_5 -oPORT=6 -p7 -o Port=8
    -T -f @/main -o Port=1 -oListenAddress=127.0.0.1
    -T -f @/main -o Port=
    -T -f @/main -o Port
    -T -f @/main -o =1
    -T -f @/main -o Nope=1
    -T -f @/main -o MaxSessions=x
    -T -f @/main -o Include=@/main
    -T -f @/main -oMaxSessions=5 -o MaxSessions=6
    -T -f @/main -oBanner=none -oBanner=/x
    -T -f @/main -4
    -T -f @/main -46
    -T -f @/main -o AddressFamily=inet -6
    -T -f @/main -g 5
    -T -f @/main -g5m
    -T -f @/main -g x
    -T -f @/main -u0 -k 5 -b 99 -r -Q x
    -T -f @/main -u 99
    -T -f @/main -h /none/such
    -T -f @/main -i
    -T -t -f @/main
    -t -T -f @/main -q
    -t -f /none/such
    -T -f /none/such
    -t -f @/bad
    -tq -f @/bad
    -T -f @/bad
    -t -f @/main -o HostKey=/none/such
    -t -f @/none -o HostKey=/none/such
    -t -f @/main -E @/said
    -t -f @/bad -E @/said
    -t -f @/main -E /none/such/file
    -Z
    -V
    -t -f @/main -C user=ann
    -C user=ann -T -f @/main
    -T -f @/main -C user=ann,host=web1,addr=10.1.2.3
    -T -f @/main -C user=ann -C host=web1 -C addr=10.1.2.3
    -T -f @/main -Cuser=bob,addr=192.0.2.1,host=web1
    -T -f @/main -C user=bob -C user=ann
    -T -f @/main -C user=ann,user=bob,addr=10.1.1.1
    -T -f @/main -C addr=10.1.2.3,laddr=127.0.0.9,lport=99,rdomain=x,user=u,host=h
    -T -f @/main -C lport=x
    -T -f @/main -C lport=65536
    -T -f @/main -C lport=
    -T -f @/main -C user=
    -T -f @/main -C user
    -T -f @/main -C nope=1
    -T -f @/main -C USER=ann
    -T -f @/main -C %
    -T -f @/main -C ,
    -T -f @/main -C user=ann,
    -T -f @/main -C user=ann,_addr=10.1.1.1
    -D -f @/main -C user=ann
";

struct Said {
    status: Option<i32>,
    settings: Vec<String>,
    speaks: bool,
}

fn said(command: &mut Command, words: &str, folder: &str) -> Said {
    for word in words.split_whitespace() {
        command.arg(word.replace('@', folder).replace('_', " ").replace('%', ""));
    }
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kept = |line: &&str| KEYWORDS.iter().any(|keyword| line.starts_with(keyword));
    let mut settings: Vec<_> = text.lines().filter(kept).map(str::to_owned).collect();
    settings.sort();
    Said { status: output.status.code(), settings, speaks: !output.stderr.is_empty() }
}

#[test]
fn flags_mean_what_they_mean_to_sshd() {
    if !Path::new(SSHD).exists() || !nix::unistd::geteuid().is_root() {
        eprintln!("no sshd to compare with, or not root");
        return;
    }
    let _ = fs::create_dir("/run/sshd");
    let folder = tempfile::tempdir().expect("a directory");
    let at = folder.path().to_str().expect("UTF-8");
    let private = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let key = folder.path().join("key");
    fs::write(&key, private.to_openssh("test").expect("a file").as_bytes()).expect("write it");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
    let main = format!(
        "HostKey {at}/key\nPidFile none\nUsePAM no\nMatch User ann\nX11Forwarding yes\n\
         Match Address 10.0.0.0/8\nMaxSessions 3\nMatch Host web*\nMaxAuthTries 2\n"
    );
    fs::write(folder.path().join("main"), main).expect("a file");
    fs::write(folder.path().join("bad"), format!("HostKey {at}/key\nNope yes\n")).expect("a file");
    let mut differ = Vec::new();
    for words in ALIKE.lines().map(str::trim).filter(|words| !words.is_empty()) {
        let theirs = said(&mut Command::new(SSHD), words, at);
        let mut ours = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let ours = said(ours.arg("sshd"), words, at);
        if (ours.status, ours.speaks) != (theirs.status, theirs.speaks)
            || ours.settings != theirs.settings
        {
            differ.push(format!(
                "{words}: status {:?} for {:?}, says {} for {}, {:?} for {:?}",
                ours.status,
                theirs.status,
                ours.speaks,
                theirs.speaks,
                ours.settings,
                theirs.settings
            ));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    // A check that has a log file speaks there.
    let logged = fs::read_to_string(folder.path().join("said")).expect("the log");
    assert!(logged.contains("bad:2: Nope: there is no such keyword"), "{logged}");
}
