//! Clients other than OpenSSH's, as their users run them.
//!
//! tests/run.sh installs them all. A client that is missing elsewhere is named and left out, unless
//! `TIDEGATE_ALL_CLIENTS` is set: then it is a failure.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::account::Account;
use support::{Gateway, ODD_NAMES, keygen, make_executable, noise, run_ok, sha256};

const PAYLOAD: usize = 64 << 20;
/// What old clients have, and we by configuration alone.
const OLD: &[&str] = &[
    "KexAlgorithms +diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,\
     diffie-hellman-group18-sha512,diffie-hellman-group-exchange-sha256,ecdh-sha2-nistp256,\
     ecdh-sha2-nistp384,ecdh-sha2-nistp521",
    "MACs +hmac-sha1,hmac-sha1-etm@openssh.com",
];

/// Whether a program is there; what installs it, if not.
fn has(program: &str, package: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    present(found.is_ok_and(|output| output.status.success()), program, package)
}

fn has_module(module: &str, package: &str) -> bool {
    let import = format!("import {module}");
    let found = Command::new("/usr/bin/python3").args(["-W", "ignore", "-c", &import]).output();
    present(found.is_ok_and(|output| output.status.success()), module, package)
}

fn present(found: bool, what: &str, package: &str) -> bool {
    let required = std::env::var_os("TIDEGATE_ALL_CLIENTS").is_some();
    assert!(found || !required, "{what} is missing: apt-get install {package}");
    if !found {
        println!("left out: {what} is missing; apt-get install {package}");
    }
    found
}

fn user() -> String {
    let output = run_ok(Command::new("id").arg("-un"));
    text(&output.stdout).trim().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn feed(mut command: Command, input: &Path) -> Output {
    command.stdin(fs::File::open(input).expect("the input"));
    run_ok(&mut command)
}

/// A file of noise and its SHA-256.
fn payload(gateway: &Gateway, len: usize) -> (PathBuf, String) {
    let path = gateway.path("payload");
    fs::write(&path, noise(len, 7)).expect("a file");
    let sum = sha256(&path);
    (path, sum)
}

fn python(gateway: &Gateway, script: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let folder = gateway.path("work");
    fs::create_dir(&folder).expect("a folder");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-W", "ignore"]).arg(script).arg(gateway.port.to_string()).arg(user());
    command.arg(gateway.path("user_ed25519")).arg(folder);
    let other = Other::new(gateway);
    command.arg(&other.name).arg(gateway.path("stranger"));
    let output = command.stdin(Stdio::null()).output().expect("python starts");
    assert!(
        output.status.success(),
        "{}\n{}\nlog:\n{}",
        text(&output.stdout),
        text(&output.stderr),
        gateway.log()
    );
}

/// What ssh-audit fails of a gateway.
fn failed_audits(lines: &[&str]) -> Vec<String> {
    let never_logs_in = ["PerSourcePenalties no"];
    let gateway = Gateway::start(&[&never_logs_in, lines].concat());
    let mut audit = Command::new("ssh-audit");
    let output = audit.args(["-n", "-p", &gateway.port.to_string(), "127.0.0.1"]).output();
    let said = text(&output.expect("ssh-audit starts").stdout);
    assert!(said.contains("(kex) curve25519-sha256 "), "{said}");
    let about = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    said.lines().filter(|line| line.contains("[fail]")).map(about).collect()
}

/// Its keys here are those of sshd, ECDSA among them; a gateway makes none of those for itself.
#[test]
fn auditors_fail_nothing_but_the_curves_of_nist() {
    if !has("ssh-audit", "ssh-audit") {
        return;
    }
    assert_eq!(failed_audits(&["HostKeyAlgorithms -ecdsa*"]), Vec::<String>::new());
    let with_curves = failed_audits(&["KexAlgorithms +ecdh-sha2-nistp256"]);
    let curves = |of: &str| with_curves.iter().any(|failed| failed.starts_with(of));
    assert!(curves("ecdh-sha2-nistp256") && curves("ecdsa-sha2-nistp256"), "{with_curves:?}");
    assert!(with_curves.iter().all(|failed| failed.contains("nistp")), "{with_curves:?}");
}

#[test]
fn dropbear() {
    if !has("dbclient", "dropbear-bin") {
        return;
    }
    let gateway = Gateway::start(OLD);
    let (file, sum) = payload(&gateway, PAYLOAD);
    let dbclient = |key: &str, options: &[&str], what: &str| {
        let mut command = Command::new("dbclient");
        command.args(["-y", "-y", "-i"]).arg(gateway.path(&format!("db_{key}")));
        command.args(["-p", &gateway.port.to_string(), "-l", &user()]);
        command.args(options).args(["127.0.0.1", what]).stdin(Stdio::null());
        command.env("HOME", gateway.folder.path());
        command
    };
    for key in ["user_ed25519", "user_rsa3072", "user_ecdsa256", "user_ecdsa521"] {
        let to = gateway.path(&format!("db_{key}"));
        run_ok(
            Command::new("dropbearconvert")
                .args(["openssh", "dropbear"])
                .args([gateway.path(key), to]),
        );
        let output = dbclient(key, &[], "echo out; exit 7").output().expect("dbclient starts");
        let seen = (text(&output.stdout), output.status.code());
        assert_eq!(seen, ("out\n".to_owned(), Some(7)), "{key}\n{}", gateway.log());
    }
    for cipher in ["aes128-ctr", "aes256-ctr", "chacha20-poly1305@openssh.com"] {
        let output = run_ok(&mut dbclient("user_ed25519", &["-c", cipher], "echo hi"));
        assert_eq!(text(&output.stdout), "hi\n", "{cipher}");
    }
    for mac in ["hmac-sha2-256", "hmac-sha1"] {
        let options = ["-c", "aes128-ctr", "-m", mac];
        let output = run_ok(&mut dbclient("user_ed25519", &options, "echo hi"));
        assert_eq!(text(&output.stdout), "hi\n", "{mac}");
    }
    let output = feed(dbclient("user_ed25519", &[], "sha256sum"), &file);
    assert!(text(&output.stdout).starts_with(&sum));
    // It wants a terminal on its own side too.
    let line = format!(
        "dbclient -y -y -i {} -t -p {} -l {} 127.0.0.1 tty",
        gateway.path("db_user_ed25519").display(),
        gateway.port,
        user()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("HOME", gateway.folder.path());
    let output = run_ok(script.stdin(Stdio::null()));
    assert!(text(&output.stdout).contains("/dev/pts/"), "{}", text(&output.stdout));
    let status =
        |what: &str| dbclient("user_ed25519", &[], what).output().expect("it starts").status;
    assert_eq!(status("no-such-program-at-all").code(), Some(127));
    keygen(&gateway.path("stranger"), "ed25519", "");
    run_ok(
        Command::new("dropbearconvert")
            .args(["openssh", "dropbear"])
            .args([gateway.path("stranger"), gateway.path("db_stranger")]),
    );
    let output = dbclient("stranger", &[], "true").output().expect("it starts");
    let words = text(&output.stderr);
    assert!(!output.status.success() && words.contains("No auth methods"), "{output:?}");
    files_over_dropbear(&gateway, &file, &sum);
}

/// OpenSSH's program for files, over its connection.
fn files_over_dropbear(gateway: &Gateway, file: &Path, sum: &str) {
    let (there, back) = (gateway.path("there"), gateway.path("back"));
    let wrapper = gateway.path("over-dropbear");
    let script = format!(
        "#!/bin/sh\nexec dbclient -y -y -i {} -p {} -l {} 127.0.0.1 -s sftp\n",
        gateway.path("db_user_ed25519").display(),
        gateway.port,
        user()
    );
    fs::write(&wrapper, script).expect("a script");
    make_executable(&wrapper);
    tree(&gateway.path("here"));
    let batch = gateway.path("batch");
    let lines = format!(
        "put {file} {there}\nget {there} {back}\nput -r {here} {copy}\nget -r {copy} {again}\n",
        file = file.display(),
        there = there.display(),
        back = back.display(),
        here = gateway.path("here").display(),
        copy = gateway.path("copy").display(),
        again = gateway.path("again").display(),
    );
    fs::write(&batch, lines).expect("a batch");
    let mut sftp = Command::new("sftp");
    sftp.arg("-q").arg("-S").arg(&wrapper).arg("-b").arg(&batch).arg("127.0.0.1");
    run_ok(sftp.env("HOME", gateway.folder.path()).stdin(Stdio::null()));
    assert_eq!((sha256(&there), sha256(&back)), (sum.to_owned(), sum.to_owned()));
    same(&gateway.path("here"), &gateway.path("again"));
}

/// Lists of its own are in saved sessions, and what stands behind WARN it would ask about. Each choice
/// comes with what is agreed on then.
const PUTTY_CHOICES: [(&str, &[(&str, &str)]); 2] = [
    (
        "KEX",
        &[
            ("ntru-curve25519", "sntrup761x25519-sha512@openssh.com"),
            ("ecdh", "curve25519-sha256"),
            ("dh-gex-sha1", "diffie-hellman-group-exchange-sha256"),
            ("dh-group14-sha1", "diffie-hellman-group14-sha256"),
            ("dh-group16-sha512", "diffie-hellman-group16-sha512"),
            ("dh-group18-sha512", "diffie-hellman-group18-sha512"),
        ],
    ),
    (
        "Cipher",
        &[
            ("aesgcm", "aes128-gcm@openssh.com"),
            ("aes", "aes256-ctr+hmac-sha2-256"),
            ("chacha20", "chacha20-poly1305@openssh.com"),
        ],
    ),
];

fn each_of_putty_s_algorithms(gateway: &Gateway, tool: &dyn Fn(&str) -> Command, at: &str) {
    let sessions = gateway.path(".putty/sessions");
    fs::create_dir_all(&sessions).expect("a folder");
    for (kind, choices) in PUTTY_CHOICES {
        for (choice, name) in choices {
            // What a list lacks, it puts in where it pleases.
            let others = choices.iter().map(|(other, _)| *other).filter(|other| other != choice);
            let rest =
                "dh-group15-sha512,dh-group17-sha512,dh-group1-sha1,rsa,3des,blowfish,des,arcfour";
            let list = [*choice, "WARN"].into_iter().chain(others).collect::<Vec<_>>().join(",");
            let session = format!("{kind}={list},{rest}\nProtocol=ssh\n");
            fs::write(sessions.join(choice), session).expect("a session");
            let before = gateway.log().matches("Key exchange: ").count();
            let output = tool("plink").args(["-load", *choice, at, "echo hi"]).output();
            let output = output.expect("plink starts");
            assert_eq!(text(&output.stdout), "hi\n", "{choice}: {output:?}\n{}", gateway.log());
            let log = gateway.tells_times("Key exchange: ", before + 1);
            let agreed = log.lines().rfind(|line| line.contains("Key exchange: ")).expect("one");
            assert!(agreed.contains(&format!(" {name}")), "{choice}: {agreed}");
        }
    }
}

#[test]
fn putty() {
    if !has("plink", "putty-tools") {
        return;
    }
    // Each cipher is to be agreed on in its turn, also where the client has a faster one.
    let gateway = Gateway::start(&[OLD, &["TidegateCipherSteering no"]].concat());
    let (file, sum) = payload(&gateway, PAYLOAD);
    let key = gateway.path("user.ppk");
    run_ok(
        Command::new("puttygen")
            .arg(gateway.path("user_ed25519"))
            .args(["-O", "private", "-o"])
            .arg(&key),
    );
    let line = run_ok(Command::new("ssh-keygen").arg("-lf").arg(gateway.path("host_ed25519.pub")));
    let line = text(&line.stdout);
    let fingerprint = line.split(' ').nth(1).expect("a fingerprint").to_owned();
    let tool = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-batch", "-hostkey", &fingerprint, "-P", &gateway.port.to_string(), "-i"]);
        command.arg(&key).stdin(Stdio::null()).env("HOME", gateway.folder.path());
        command
    };
    let at = format!("{}@127.0.0.1", user());
    let output = tool("plink").args([&at, "echo out; exit 7"]).output().expect("plink starts");
    assert_eq!((text(&output.stdout), output.status.code()), ("out\n".to_owned(), Some(7)));
    let mut command = tool("plink");
    command.args([&at, "sha256sum"]);
    assert!(text(&feed(command, &file).stdout).starts_with(&sum));
    let output = run_ok(tool("plink").args(["-t", &at, "tty"]));
    assert!(text(&output.stdout).contains("/dev/pts/"), "{}", text(&output.stdout));

    each_of_putty_s_algorithms(&gateway, &tool, &at);
    assert!(!tool("plink").args([&at, "no-such-program"]).status().expect("a status").success());

    let folder = gateway.path("putty");
    fs::create_dir(&folder).expect("a folder");
    tree(&gateway.path("here"));
    let batch = gateway.path("psftp.batch");
    let odd = "odd 'name' ☃";
    let lines = format!(
        "cd {}\nlcd {}\nput payload up\nmkdir \"{odd}\"\ncd \"{odd}\"\nput ../authorized_keys\n\
         cd ..\nchmod 640 up\nmv up moved\nget moved down\nls\nrm moved\nput -r here\n\
         get -r here again\n",
        folder.display(),
        gateway.folder.path().display()
    );
    fs::write(&batch, lines.replace("../authorized_keys", "authorized_keys")).expect("a batch");
    run_ok(tool("psftp").arg("-b").arg(&batch).arg(&at));
    assert_eq!(sha256(&gateway.path("down")), sum);
    assert!(folder.join(odd).join("authorized_keys").exists());
    same(&gateway.path("here"), &folder.join("here"));
    same(&gateway.path("here"), &gateway.path("again"));

    for way in ["-sftp", "-scp"] {
        let (there, back) = (folder.join(way), gateway.path(way));
        let remote = format!("{at}:{}", there.display());
        run_ok(tool("pscp").args([way, "-p"]).arg(&file).arg(&remote));
        run_ok(tool("pscp").args([way, "-p"]).arg(&remote).arg(&back));
        assert_eq!((sha256(&there), sha256(&back)), (sum.clone(), sum.clone()), "{way}");
    }
    let missing = format!("{at}:{}/none", folder.display());
    let output = tool("pscp").arg(missing).arg(gateway.path("none")).output().expect("pscp starts");
    assert!(!output.status.success());
    putty_is_refused(&gateway, &tool, &at);
}

/// What is missing, what is forbidden, and a key that nobody knows.
fn putty_is_refused(gateway: &Gateway, tool: &dyn Fn(&str) -> Command, at: &str) {
    let other = Other::new(gateway);
    let batch = gateway.path("refused.batch");
    for (user, lines, words) in [
        (at, "get /none none\n", "no such file or directory"),
        (&format!("{}@127.0.0.1", other.name), "get /etc/shadow none\n", "permission denied"),
    ] {
        fs::write(&batch, lines).expect("a batch");
        let output = tool("psftp").arg("-b").arg(&batch).arg(user).output().expect("psftp starts");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words}: {output:?}");
    }
    let stranger = gateway.path("stranger.ppk");
    let mut convert = Command::new("puttygen");
    convert.arg(gateway.path("stranger")).args(["-O", "private", "-o"]).arg(&stranger);
    run_ok(&mut convert);
    let output = tool("plink").arg("-i").arg(stranger).args([at, "true"]).output();
    let output = output.expect("plink starts");
    let words = text(&output.stderr);
    assert!(!output.status.success() && words.contains("No supported authentication"), "{words}");
}

#[test]
fn paramiko() {
    if has_module("paramiko", "python3-paramiko") {
        python(&Gateway::start(OLD), "paramiko_client.py");
    }
}

#[test]
fn asyncssh() {
    if has_module("asyncssh", "python3-asyncssh") {
        python(&Gateway::start(OLD), "asyncssh_client.py");
        // It makes links the other way round where the server has such a name.
        let named = [OLD, &["TidegateSoftwareVersion OpenSSH_Tidegate"]].concat();
        python(&Gateway::start(&named), "asyncssh_client.py");
    }
}

/// libssh, by a program of our own: Debian has none that uses it.
#[test]
fn libssh() {
    let header = Path::new("/usr/include/libssh/sftp.h").exists();
    if !has("gcc", "gcc") || !present(header, "libssh's header", "libssh-dev") {
        return;
    }
    // Its Diffie-Hellman and the NIST curves are ours only by configuration.
    let finite = "KexAlgorithms +diffie-hellman-group-exchange-sha256,\
                  diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,ecdh-sha2-nistp256,\
                  ecdh-sha2-nistp384,ecdh-sha2-nistp521";
    let gateway = Gateway::start(&[finite]);
    let (file, sum) = payload(&gateway, PAYLOAD);
    fs::write(gateway.path("small"), noise(8 << 20, 8)).expect("a file");
    tree(&gateway.path("here"));
    let other = Other::new(&gateway);
    let program = gateway.path("libssh");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/libssh.c");
    run_ok(
        Command::new("gcc")
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .arg(&program)
            .arg(source)
            .arg("-lssh"),
    );
    let mut command = Command::new(&program);
    command.arg(gateway.port.to_string()).arg(user()).arg(gateway.path("user_ed25519")).arg(file);
    command.arg(gateway.folder.path()).arg(&other.name).stdin(Stdio::null());
    let output = command.env("HOME", gateway.folder.path()).output().expect("it starts");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}\n{}", text(&output.stderr), gateway.log());
    assert!(said.starts_with(&sum), "{said}");
    assert!(said.contains("33 101\r\n/dev/pts/"), "{said}");
    let sums = ["small", "there", "back"].map(|name| sha256(&gateway.path(name)));
    assert!(sums[0] == sums[1] && sums[1] == sums[2], "{sums:?}");
    for copy in ["copy", "again"] {
        same(&gateway.path("here"), &gateway.path(copy));
    }
    gateway.tells_times("Rekeyed", 8);
}

/// libssh2, through curl.
#[test]
fn curl() {
    let speaks = |output: Output| text(&output.stdout).contains(" sftp");
    let found = Command::new("curl").arg("-V").output().is_ok_and(speaks);
    if !present(found, "curl with SFTP", "curl") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let (file, sum) = payload(&gateway, 20 << 20);
    // libssh2 signs with RSA keys by SHA-1 alone before its release 1.11.
    let curl = |words: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--insecure", "--max-time", "60", "-u", &format!("{}:", user())]);
        command.arg("--key").arg(gateway.path("user_ecdsa256"));
        command.arg("--pubkey").arg(gateway.path("user_ecdsa256.pub")).args(words);
        command.stdin(Stdio::null());
        command
    };
    let folder = gateway.folder.path().display().to_string();
    let url = |path: &str| format!("sftp://127.0.0.1:{}{folder}/{path}", gateway.port);
    let path = file.display().to_string();
    run_ok(&mut curl(&["--ftp-create-dirs", "-T", &path, &url("curl/sub/up")]));
    assert_eq!(sha256(&gateway.path("curl/sub/up")), sum);
    let back = gateway.path("back").display().to_string();
    run_ok(&mut curl(&["-o", &back, &url("curl/sub/up")]));
    assert_eq!(sha256(&gateway.path("back")), sum);
    let half = (10 << 20).to_string();
    fs::OpenOptions::new()
        .write(true)
        .open(gateway.path("back"))
        .and_then(|file| file.set_len(10 << 20))
        .expect("half a file");
    run_ok(&mut curl(&["-C", &half, "-o", &back, &url("curl/sub/up")]));
    assert_eq!(sha256(&gateway.path("back")), sum, "a download that goes on");
    let listing = run_ok(&mut curl(&["-l", &url("curl/sub/")]));
    assert!(text(&listing.stdout).lines().any(|name| name == "up"));
    let rename = format!("rename {folder}/curl/sub/up {folder}/curl/sub/moved");
    run_ok(&mut curl(&["-Q", &rename, "-l", &url("curl/sub/")]));
    assert!(gateway.path("curl/sub/moved").exists());
    // Several files on one connection, with names that a URL has to escape.
    tree(&gateway.path("here"));
    let odd = gateway.path("here/ümläut 'quoted' & ☃").display().to_string();
    let escaped = "curl/%C3%BCml%C3%A4ut%20%27quoted%27%20%26%20%E2%98%83";
    run_ok(&mut curl(&["-T", &odd, &url(escaped)]));
    let there = gateway.path("curl/ümläut 'quoted' & ☃");
    assert_eq!(fs::read(&there).expect("the copy"), b"odd");
    assert_eq!(run_ok(&mut curl(&[&url(escaped)])).stdout, b"odd");
    let small = format!("{}/{{{}}}", gateway.path("here/a folder/sub").display(), numbers(100));
    run_ok(&mut curl(&["-T", &small, &url("curl/")]));
    let all = format!("{}[0-99]", url("curl/"));
    let seen = run_ok(&mut curl(&[&all])).stdout;
    assert_eq!(text(&seen).lines().count(), 100, "{}", text(&seen));
    // A name that is no text, and one with a line's end.
    for (escaped, name) in [("caf%E9%20%FF%FE", &b"caf\xe9 \xff\xfe"[..]), ("a%0Aline", b"a\nline")]
    {
        run_ok(&mut curl(&["-T", &odd, &url(&format!("curl/{escaped}"))]));
        let there = gateway.path("curl").join(OsStr::from_bytes(name));
        assert_eq!(fs::read(&there).expect("the copy"), b"odd");
    }
    let other = Other::new(&gateway);
    let secret = format!("sftp://127.0.0.1:{}/etc/shadow", gateway.port);
    let stranger = gateway.path("stranger").display().to_string();
    let public = format!("{stranger}.pub");
    for (words, code, what) in [
        (&[&*url("curl/none")][..], 78, "remote file not found"),
        (&["-u", &format!("{}:", other.name), &secret], 9, "access denied"),
        (&["--key", &stranger, "--pubkey", &public, &url("large")], 67, "login denied"),
    ] {
        let output = curl(&[&["-o", "/dev/null"], words].concat()).output().expect("curl starts");
        assert_eq!(output.status.code(), Some(code), "{what}: {output:?}");
    }
}

/// Two levels of folders, small files, odd names, an empty file.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("a folder/sub")).expect("folders");
    for n in 0..150 {
        fs::write(at.join(format!("a folder/sub/{n}")), format!("{n}\n")).expect("a file");
    }
    fs::write(at.join("large"), noise(5_000_001, 3)).expect("a file");
    fs::write(at.join("empty"), "").expect("a file");
    fs::write(at.join("ümläut 'quoted' & ☃"), "odd").expect("a file");
    for name in ODD_NAMES {
        fs::write(at.join(OsStr::from_bytes(name)), name).expect("a file");
    }
}

/// A user who may not read what is root's, and a key that nobody knows.
struct Other {
    name: String,
    _account: Option<Account>,
}

impl Other {
    fn new(gateway: &Gateway) -> Other {
        use std::os::unix::fs::PermissionsExt;
        keygen(&gateway.path("stranger"), "ed25519", "");
        // It has to find the keys that let it in.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(gateway.folder.path(), open).expect("permissions");
        let account = nix::unistd::geteuid().is_root().then(Account::new).flatten();
        Other {
            name: account.as_ref().map_or_else(user, |own| own.name.clone()),
            _account: account,
        }
    }
}

/// `0,1,2` and so on.
fn numbers(count: usize) -> String {
    (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

fn same(left: &Path, right: &Path) {
    run_ok(Command::new("diff").arg("-r").arg(left).arg(right));
}

#[test]
fn lftp() {
    if !has("lftp", "lftp") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let (here, there, back) = (gateway.path("here"), gateway.path("there"), gateway.path("back"));
    tree(&here);
    let ssh = format!(
        "ssh -F /dev/null -a -x -p {} -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile={} -o LogLevel=ERROR",
        gateway.port,
        gateway.path("user_ed25519").display(),
        gateway.path("known").display()
    );
    let script = format!(
        "set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 20; \
         set sftp:connect-program \"{ssh}\"; open sftp://{}:@127.0.0.1; \
         mirror -R --parallel=3 {here} {there}; mirror --parallel=3 {there} {back}; \
         mv {there}/large {there}/moved; rm {there}/moved; bye",
        user(),
        here = here.display(),
        there = there.display(),
        back = back.display()
    );
    let mut command = Command::new("lftp");
    command.args(["--norc", "-c", &script]).env("HOME", gateway.folder.path()).stdin(Stdio::null());
    run_ok(&mut command);
    let missing = script.replace("mirror -R --parallel=3", "get /none; mirror -R");
    let mut command = Command::new("lftp");
    command.args(["--norc", "-c", &missing]).env("HOME", gateway.folder.path());
    let output = command.stdin(Stdio::null()).output().expect("lftp starts");
    assert!(text(&output.stderr).contains("No such file"), "{output:?}");
    let other = Other::new(&gateway);
    let (key, stranger) = (gateway.path("user_ed25519"), gateway.path("stranger"));
    let at = |user: &str| script.replace(&format!("//{}:@", self::user()), &format!("//{user}:@"));
    let secret = at(&other.name).replace("mirror -R --parallel=3", "get /etc/shadow; mirror -R");
    let unknown = script.replace(&*key.to_string_lossy(), &stranger.to_string_lossy());
    for (script, words) in
        [(secret, "Permission denied"), (unknown, "Permission denied (publickey)")]
    {
        let mut command = Command::new("lftp");
        command.args(["--norc", "-c", &script]).env("HOME", gateway.folder.path());
        let output = command.stdin(Stdio::null()).output().expect("lftp starts");
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
    }
    same(&here, &back);
    assert!(!there.join("large").exists() && !there.join("moved").exists());
}

/// Go's x/crypto/ssh and pkg/sftp, through rclone.
#[test]
fn rclone() {
    if !has("rclone", "rclone") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let (here, there, back) = (gateway.path("here"), gateway.path("there"), gateway.path("back"));
    tree(&here);
    let remote = format!(
        ":sftp,host=127.0.0.1,port={},user={},key_file='{}':{}",
        gateway.port,
        user(),
        gateway.path("user_ed25519").display(),
        there.display()
    );
    let rclone = |words: &[&str]| {
        let mut command = Command::new("rclone");
        command.args(["--config", "/dev/null", "--retries", "1", "--transfers", "4"]).args(words);
        command.env("HOME", gateway.folder.path()).stdin(Stdio::null());
        command
    };
    let (here_name, back_name) = (here.display().to_string(), back.display().to_string());
    run_ok(&mut rclone(&["copy", &here_name, &remote]));
    // It writes control characters as pictures of them, and back again.
    for (picture, name) in [("a␊line", "a\nline"), ("tab␉here", "tab\there")] {
        fs::rename(there.join(picture), there.join(name)).expect("the picture");
        fs::rename(there.join(name), there.join(picture)).expect("the name");
    }
    run_ok(&mut rclone(&["check", &here_name, &remote]));
    run_ok(&mut rclone(&["copy", &remote, &back_name]));
    same(&here, &back);
    run_ok(&mut rclone(&["purge", &remote]));
    assert!(!there.exists());
    let output = rclone(&["copy", &remote, &back_name]).output().expect("rclone starts");
    assert!(text(&output.stderr).contains("directory not found"), "{output:?}");
    let other = Other::new(&gateway);
    let at = remote.replace(&*there.to_string_lossy(), "/etc/ssl/private/none");
    let forbidden = at.replace(&format!("user={}", user()), &format!("user={}", other.name));
    let unknown = remote.replace("user_ed25519", "stranger");
    for (remote, words) in [(forbidden, "permission denied"), (unknown, "unable to authenticate")] {
        let output = rclone(&["copy", &here_name, &remote]).output().expect("rclone starts");
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
    }
}

#[test]
fn ansible() {
    if !has("ansible", "ansible-core") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let (file, sum) = payload(&gateway, 3 << 20);
    let inventory = format!(
        "gate ansible_host=127.0.0.1 ansible_port={} ansible_user={} \
         ansible_ssh_private_key_file={} ansible_python_interpreter=/usr/bin/python3 \
         ansible_ssh_common_args='-F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile={}'\n",
        gateway.port,
        user(),
        gateway.path("user_ed25519").display(),
        gateway.path("known").display()
    );
    fs::write(gateway.path("inventory"), inventory).expect("an inventory");
    let copied = gateway.path("copied");
    let copy = format!("src={} dest={}", file.display(), copied.display());
    tree(&gateway.path("here"));
    let many =
        format!("src={}/ dest={}", gateway.path("here").display(), gateway.path("there").display());
    let fetch =
        format!("src={} dest={} flat=yes", copied.display(), gateway.path("back").display());
    let run = |words: &[&str]| {
        let mut command = Command::new("ansible");
        command.arg("all").arg("-i").arg(gateway.path("inventory")).args(words);
        command.env("HOME", gateway.folder.path()).env("ANSIBLE_HOST_KEY_CHECKING", "False");
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.output().expect("ansible starts")
    };
    for words in [
        &["-m", "ping"][..],
        &["-m", "copy", "-a", &copy],
        &["-m", "fetch", "-a", &fetch],
        &["-m", "shell", "-a", "echo hi"],
        &["-m", "raw", "-a", "tty"],
    ] {
        let output = run(words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", gateway.log());
    }
    assert_eq!((sha256(&copied), sha256(&gateway.path("back"))), (sum.clone(), sum));
    let output = run(&["-m", "shell", "-a", "exit 7"]);
    assert!(output.status.code() == Some(2) && text(&output.stdout).contains("rc=7"), "{output:?}");
    keygen(&gateway.path("stranger"), "ed25519", "");
    // Not over the connection that is there.
    let stranger = format!(
        "{{\"ansible_ssh_private_key_file\": \"{}\", \"ansible_ssh_args\": \"-o ControlPath=none\"}}",
        gateway.path("stranger").display()
    );
    for (words, code, what) in [
        (&["-m", "fetch", "-a", "src=/none dest=. fail_on_missing=yes"][..], 2, "does not exist"),
        (&["-m", "raw", "-a", "true", "-e", &stranger], 4, "Permission denied (publickey)"),
    ] {
        let output = run(words);
        let said = text(&output.stdout);
        assert!(output.status.code() == Some(code) && said.contains(what), "{what}: {output:?}");
    }
    fs::remove_dir_all(gateway.path("here/a folder")).expect("few files: each is a module's run");
    // It puts names into text.
    fs::remove_file(gateway.path("here").join(OsStr::from_bytes(ODD_NAMES[6]))).expect("a file");
    let output = run(&["-m", "copy", "-a", &many]);
    assert!(output.status.success(), "{output:?}");
    same(&gateway.path("here"), &gateway.path("there"));
}
