//! OpenSSH's own client against the service: `sftp -D` runs a program instead of a connection, and
//! the program hands its bytes to the rig through two FIFOs.

use std::fs as files;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::rig::{Rig, Setup};
use super::*;

const CLIENT: &str = "/usr/bin/sftp";

/// Runs a batch of commands; answers what the client printed. Commands that fail end it, unless
/// they start with a dash.
fn run(rig: &mut Rig, place: &Path, options: &[&str], batch: &str) -> String {
    let bridge = place.join("bridge");
    let (to_client, from_client) = (place.join("to"), place.join("from"));
    for fifo in [&to_client, &from_client] {
        let _ = files::remove_file(fifo);
        mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("fifo");
    }
    let (to, from) = (to_client.display(), from_client.display());
    files::write(&bridge, format!("#!/bin/sh\ncat '{to}' &\nexec cat > '{from}'\n"))
        .expect("script");
    files::set_permissions(&bridge, files::Permissions::from_mode(0o700)).expect("executable");
    files::write(place.join("batch"), batch).expect("batch");
    let open = |path| {
        let mut options = files::OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        options.open(path).expect("opened")
    };
    let (mut to, mut from) = (open(&to_client), open(&from_client));
    let mut client = Command::new(CLIENT)
        .args(["-q", "-b"])
        .arg(place.join("batch"))
        .args(options)
        .arg("-D")
        .arg(&bridge)
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(files::File::create(place.join("out")).expect("out"))
        .stderr(files::File::create(place.join("err")).expect("err"))
        .spawn()
        .expect("started");
    let mut bytes = vec![0; 1 << 20];
    loop {
        match from.read(&mut bytes) {
            Ok(len) => rig.send_in(&bytes[..len], 32_768),
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                if client.try_wait().expect("waited").is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            Err(why) => panic!("{why}"),
        }
        rig.settle();
        while !rig.received.is_empty() {
            match to.write(&rig.received) {
                Ok(len) => drop(rig.received.drain(..len)),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => panic!("{why}"),
            }
        }
    }
    // The bridge's cat ends with its FIFO.
    drop((to, from));
    let status = client.wait().expect("waited");
    let said = |name| files::read_to_string(place.join(name)).expect("read");
    assert!(status.success(), "{}{}", said("out"), said("err"));
    said("out")
}

#[test]
fn the_stock_client_moves_files_both_ways() {
    if !Path::new(CLIENT).exists() {
        eprintln!("skipped: no sftp client of OpenSSH is installed");
        return;
    }
    let (home, place) = (home(), home());
    let content = pattern(3_000_007);
    files::write(place.path().join("local"), &content).expect("written");
    let mut rig = Rig::with(home.path(), Setup::default());
    // A dash: the command may fail.
    let batch = "put local up\nget up down\nmkdir d\nput -p local d/second\nrename up d/third\n\
                 ln d/third hard\nln -s hard soft\nchmod 640 d/second\ncopy d/second d/copy\n\
                 ls -l d\nls -lan\n-rm gone\nrm soft\ndf -h .\n-reput local hard\n\
                 -reget hard down\npwd\n-rmdir gone\n";
    let said = run(&mut rig, place.path(), &[], batch);
    assert!(rig.ops_peak > 1, "the client pipelines");
    assert!(files::read(place.path().join("down")).expect("read") == content);
    for name in ["d/second", "d/third", "d/copy", "hard"] {
        assert!(files::read(home.path().join(name)).expect("read") == content, "{name}");
    }
    let second = home.path().join("d/second").metadata().expect("stat");
    assert_eq!(second.permissions().mode() & 0o7777, 0o640);
    let local = place.path().join("local").metadata().expect("stat");
    assert_eq!(second.mtime(), local.mtime(), "put -p keeps the time");
    assert!(!home.path().join("soft").exists());
    let root = home.path().canonicalize().expect("canonical");
    assert!(said.contains(&format!("Remote working directory: {}", root.display())), "{said}");
    let line = said
        .lines()
        .find(|line| line.starts_with('-') && line.ends_with("second"))
        .expect("listed");
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = user.map(|user| user.name).unwrap_or_default();
    assert!(line.starts_with("-rw-r-----"), "{line}");
    assert!(line.contains(&format!(" {user} ")) && line.contains(" 3000007 "), "{line}");
    assert_eq!(rig.leases_out(), 0);
}

/// Many requests at once, of every size, through a client window of its own making.
#[test]
fn the_stock_client_is_served_at_any_depth() {
    if !Path::new(CLIENT).exists() {
        eprintln!("skipped: no sftp client of OpenSSH is installed");
        return;
    }
    for (bytes, depth) in [("261120", "128"), ("1000", "1024"), ("32768", "1")] {
        let (home, place) = (home(), home());
        let content = pattern(if bytes == "1000" { 200_003 } else { 1_500_001 });
        files::write(place.path().join("local"), &content).expect("written");
        let mut rig = Rig::with(home.path(), Setup { window_bytes: 300_000, ..Setup::default() });
        let options = ["-B", bytes, "-R", depth];
        run(&mut rig, place.path(), &options, "put local up\nget up down\n");
        assert!(files::read(place.path().join("down")).expect("read") == content, "{bytes}");
        assert!(files::read(home.path().join("up")).expect("read") == content, "{bytes}");
    }
}
