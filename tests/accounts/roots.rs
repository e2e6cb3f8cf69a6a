//! Logins that have a part of the file system alone: ChrootDirectory, by OpenSSH's own clients.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

/// A directory that only root can change, all the way up; temporary ones are below everybody's.
fn site() -> TempDir {
    let site = tempfile::tempdir_in("/var").expect("a folder");
    fs::set_permissions(site.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    site
}

/// The root of an account: what OpenSSH's manual asks for, and a folder that the account may write to.
fn root_for(account: &Account, site: &TempDir) -> PathBuf {
    let root = site.path().join(&account.name);
    fs::create_dir_all(root.join("in")).expect("folders");
    fs::write(root.join("note"), "inside\n").expect("a file");
    std::os::unix::fs::chown(root.join("in"), Some(account.uid), None).expect("its folder");
    root
}

/// Copies programs, and what they are linked to, to where they are below `root`.
fn install(root: &Path, programs: &[&str]) {
    for program in programs {
        let linked = text(&run_ok(Command::new("ldd").arg(program)).stdout);
        let files = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for file in files.chain([*program]) {
            let to = root.join(&file[1..]);
            fs::create_dir_all(to.parent().expect("a folder")).expect("folders");
            fs::copy(file, &to).expect("a copy");
        }
    }
}

/// What a batch of sftp says, standard error behind standard output.
fn batch(gateway: &Gateway, account: &Account, lines: &str) -> (bool, String) {
    let output = sftp(gateway, account, &[], lines);
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// The words of sftp for a status and for what a listing does not have.
fn is_missing(said: &str) -> bool {
    said.contains("not found") || said.contains("No such file")
}

/// The example that most sites have: files alone, each user in a directory of its own.
#[test]
fn cases_108_109_113_sftp_has_the_root_and_nothing_else() {
    let (Some(account), Some(other)) = (Account::new(), Account::new()) else { return };
    let site = site();
    let (root, others) = (root_for(&account, &site), root_for(&other, &site));
    symlink("/etc/passwd", root.join("in/absolute")).expect("a link");
    symlink("../../../../etc/passwd", root.join("in/relative")).expect("a link");
    symlink("/note", root.join("in/inner")).expect("a link");
    let root_line = format!("ChrootDirectory {}/%u", site.path().display());
    let match_line = format!("Match User {},{}", account.name, other.name);
    let lines = [
        &*match_line,
        &root_line,
        "ForceCommand internal-sftp -d /in -u 027",
        "AllowTcpForwarding no",
        "Match all",
    ];
    let gateway = root_gateway(&lines, None);
    let payload = gateway.path("payload");
    fs::write(&payload, noise(300_000, 1)).expect("a file");
    let got = gateway.path("got");
    let script = format!(
        "pwd\nput {0} up\nget up {1}\nget inner {1}.inner\nls -n /\nrename up down\nmkdir new\nsymlink \
         /note soft\nln down hard\n",
        payload.display(),
        got.display()
    );
    let (done, said) = batch(&gateway, &account, &script);
    assert!(done, "{said}\n{}", gateway.log());
    assert!(said.contains("Remote working directory: /in\n"), "{said}");
    assert_eq!(sha256(&payload), sha256(&got));
    assert_eq!(fs::read(gateway.path("got.inner")).expect("a file"), b"inside\n");
    let made = fs::metadata(root.join("in/down")).expect("the upload");
    assert_eq!((made.uid(), made.mode() & 0o777), (account.uid, 0o640), "-u");
    assert_eq!(made.nlink(), 2);
    // Out by name, by links, and by the other's directory: as if nothing were there.
    for path in ["/../../etc/passwd", "absolute", "relative", "/etc/passwd", "../../../etc/passwd"]
    {
        let (done, said) = batch(&gateway, &account, &format!("get {path} {}\n", got.display()));
        assert!(!done && is_missing(&said), "{path}: {said}");
    }
    let there = format!("ls {}", others.display());
    let missing = format!("ls {}/none", site.path().display());
    let words = |said: String| {
        said.replace(&*others.to_string_lossy(), "X")
            .replace(&format!("{}/none", site.path().display()), "X")
    };
    assert_eq!(
        words(batch(&gateway, &account, &there).1),
        words(batch(&gateway, &account, &missing).1)
    );
    let (done, _) = batch(&gateway, &account, &format!("rename down {}/in/x\n", others.display()));
    assert!(!done && !others.join("in/x").exists(), "from one root to another");
    // What stands in the root is root's.
    let (done, said) = batch(&gateway, &account, "put /etc/hostname /top\n");
    assert!(!done && said.contains("ermission denied"), "{said}");
    // Nothing but sftp, and the scp that is sftp.
    let output = ssh(&gateway, &account.name, &[], &["id"]).output().expect("ssh");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let mut copy = gateway.client(Path::new("scp"), &[&format!("User={}", account.name)]);
    run_ok(copy.arg("127.0.0.1:/note").arg(&got));
    assert_eq!(fs::read(&got).expect("a copy"), b"inside\n");
    let mut copy = gateway.client(Path::new("scp"), &[&format!("User={}", account.name)]);
    assert!(
        !copy.arg("-O").arg("127.0.0.1:/note").arg(&got).output().expect("scp").status.success()
    );
    // Each root has a process of its own, whose root it is.
    batch(&gateway, &other, "ls\n");
    for (account, root) in [(&account, &root), (&other, &others)] {
        let [pid] = account.delegates()[..] else { panic!("one process\n{}", gateway.log()) };
        let seen = fs::read_link(format!("/proc/{pid}/root")).expect("its root");
        assert_eq!(seen, *root);
    }
}

/// Programs in a root: a shell, rsync, scp's own protocol, terminals, sockets.
#[test]
fn programs_run_in_the_root_that_has_them() {
    let Some(account) = Account::new() else { return };
    let site = site();
    let root = root_for(&account, &site);
    install(&root, &["/usr/bin/rsync", "/usr/bin/tty", "/usr/bin/id", "/bin/ls", "/bin/bash"]);
    fs::create_dir(root.join("dev")).expect("a folder");
    let null = root.join("dev/null");
    run_ok(Command::new("mknod").args(["-m", "666"]).arg(&null).args(["c", "1", "3"]));
    let line = format!("ChrootDirectory {}", root.display());
    let gateway = root_gateway(&[&line], None);
    let output = ssh(&gateway, &account.name, &[], &["pwd; ls /; id -u; echo \"$HOME\""]).output();
    let output = output.expect("ssh");
    let said = text(&output.stdout);
    let home = account.home.path().display();
    assert!(said.starts_with("/\n") && said.contains("note\n"), "{output:?}\n{}", gateway.log());
    assert!(
        said.ends_with(&format!("{}\n{home}\n", account.uid)) && !said.contains("etc"),
        "{said}"
    );
    let warned = text(&output.stderr);
    assert!(warned.contains("Could not chdir to home directory"), "as sshd: {warned}");
    // A terminal of the system's, which the root has no names for.
    let mut terminal = ssh(&gateway, &account.name, &["RequestTTY=force"], &["id -u; test -t 0"]);
    let output = terminal.output().expect("ssh");
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    assert!(text(&output.stdout).ends_with(&format!("\r\n{}\r\n", account.uid)), "{output:?}");
    let from = tempfile::tempdir().expect("a folder");
    fs::create_dir(from.path().join("deep")).expect("a folder");
    fs::write(from.path().join("deep/file"), noise(100_000, 2)).expect("a file");
    let user = format!("User={}", account.name);
    let shell = gateway.client(Path::new("ssh"), &[&user]);
    let words: Vec<_> = shell.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut rsync = Command::new("rsync");
    rsync.arg("-a").arg("-e").arg(format!("ssh {}", words.join(" ")));
    rsync.arg(from.path().join("deep")).arg("127.0.0.1:/in/");
    run_ok(&mut rsync);
    assert_eq!(sha256(&from.path().join("deep/file")), sha256(&root.join("in/deep/file")));
    for flags in [&["-O"][..], &[]] {
        let mut copy = gateway.client(Path::new("scp"), &[&user]);
        copy.args(flags).arg(from.path().join("deep/file")).arg("127.0.0.1:/in/copied");
        run_ok(&mut copy);
        assert_eq!(sha256(&from.path().join("deep/file")), sha256(&root.join("in/copied")));
        fs::remove_file(root.join("in/copied")).expect("it was there");
        let mut copy = gateway.client(Path::new("scp"), &[&user]);
        copy.args(flags).arg("127.0.0.1:/etc/passwd").arg(gateway.path("passwd"));
        assert!(!copy.output().expect("scp").status.success(), "{flags:?}");
    }
    sockets_are_those_of_the_root(&gateway, &account, &root);
}

fn sockets_are_those_of_the_root(gateway: &Gateway, account: &Account, root: &Path) {
    let inside = UnixListener::bind(root.join("in/socket")).expect("a socket");
    fs::set_permissions(root.join("in/socket"), PermissionsExt::from_mode(0o777)).expect("a mode");
    let outside = account.at_home("socket");
    let _outside = UnixListener::bind(&outside).expect("a socket");
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o777)).expect("a mode");
    let reach = |path: &str| {
        let ours = gateway.path("forwarded");
        let _ = fs::remove_file(&ours);
        let forward = format!("LocalForward={} {path}", ours.display());
        let mut command = ssh(gateway, &account.name, &[&forward], &["echo up; read -r line"]);
        let mut session =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
        let mut up = [0; 3];
        session.stdout.as_mut().expect("output").read_exact(&mut up).expect("it is up");
        let mut stream = std::os::unix::net::UnixStream::connect(&ours).expect("ours");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        (session, stream.write_all(b"x").map(|()| stream))
    };
    let (mut session, stream) = reach("/in/socket");
    let (mut taken, _) = inside.accept().expect("a connection");
    let mut byte = [0];
    taken.read_exact(&mut byte).expect("a byte");
    assert_eq!(&byte, b"x");
    // ssh stays as long as a connection does.
    drop((stream, taken, session.stdin.take()));
    session.wait().expect("its end");
    let (mut session, stream) = reach(&outside.to_string_lossy());
    let ended = stream.and_then(|mut stream| stream.read(&mut byte));
    assert!(ended.map_or(true, |count| count == 0), "there is no such socket in there");
    drop(session.stdin.take());
    session.wait().expect("its end");
}

/// Whoever could change the root could be anybody in it.
#[test]
fn roots_that_others_can_change_let_nobody_in() {
    let Some(account) = Account::new() else { return };
    let site = site();
    let root = root_for(&account, &site);
    let line = format!("ChrootDirectory {}/%u", site.path().display());
    let gateway = root_gateway(&[&line], None);
    let refused = || !batch(&gateway, &account, "ls\n").0;
    assert!(!refused(), "{}", gateway.log());
    fs::set_permissions(&root, PermissionsExt::from_mode(0o775)).expect("a mode");
    assert!(refused());
    let said = format!("bad ownership or modes for chroot \"{}\"", root.display());
    gateway.tells(&said);
    fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).expect("a mode");
    fs::set_permissions(site.path(), PermissionsExt::from_mode(0o757)).expect("a mode");
    assert!(refused());
    let said = format!("chroot directory component \"{}\"", site.path().display());
    gateway.tells(&said);
    fs::set_permissions(site.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    std::os::unix::fs::chown(&root, Some(account.uid), None).expect("given away");
    assert!(refused());
    gateway.tells(&format!("belongs to uid {}", account.uid));
    std::os::unix::fs::chown(&root, Some(0), None).expect("taken back");
    fs::rename(&root, site.path().join("moved")).expect("moved");
    assert!(refused());
    gateway.tells("No such file or directory");
    fs::rename(site.path().join("moved"), &root).expect("moved back");
    assert!(!refused());
}

/// Without root's rights nobody can change his root: files are kept in it all the same.
#[test]
fn cases_108_109_without_root_there_are_files_alone() {
    let Some(account) = Account::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("tidegate");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &binary).expect("a copy that all can run");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let root = account.at_home("root");
    fs::create_dir_all(root.join("in")).expect("folders");
    fs::write(root.join("note"), "inside\n").expect("a file");
    fs::write(account.at_home("secret"), "outside\n").expect("a file");
    symlink("../secret", root.join("up")).expect("a link");
    run_ok(Command::new("chown").arg("-R").arg(&account.name).arg(account.home.path()));
    let line = format!("ChrootDirectory {}", root.display());
    let gateway = Gateway::start_with(&[&line], |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let at = Path::new(&config).parent().expect("its folder").to_owned();
        run_ok(Command::new("chown").arg("-R").arg(&account.name).arg(at));
        let mut own = Command::new("runuser");
        own.args(["-u", &account.name, "--"]).arg(&binary).args(command.get_args());
        own.current_dir("/");
        *command = own;
    });
    let got = gateway.path("got");
    let script =
        format!("pwd\nget note {0}\nput {0} in/up\nls -n\nrename in/up in/down\n", got.display());
    let (done, said) = batch(&gateway, &account, &script);
    assert!(done && said.contains("Remote working directory: /\n"), "{said}\n{}", gateway.log());
    assert_eq!(fs::read(root.join("in/down")).expect("the upload"), b"inside\n");
    for path in ["up", "/up", "../secret", &account.at_home("secret").to_string_lossy()] {
        let (done, said) = batch(&gateway, &account, &format!("get {path} {}\n", got.display()));
        assert!(!done && is_missing(&said), "{path}: {said}");
    }
    let user = format!("User={}", account.name);
    for (from, ends) in
        [("/note", true), ("note", true), ("~/no*", true), ("/up", false), ("../secret", false)]
    {
        let mut copy = gateway.client(Path::new("scp"), &[&user]);
        copy.arg("-O").arg(format!("127.0.0.1:{from}")).arg(&got);
        let output = copy.output().expect("scp");
        assert_eq!(output.status.success(), ends, "{from}: {output:?}");
    }
    for words in [&["id"][..], &[]] {
        let output = ssh(&gateway, &account.name, &[], words).output().expect("ssh");
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    gateway.tells("files alone");
}
