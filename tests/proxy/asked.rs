//! TidegateUpstreamCommand: a program says where a login goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Host, said, ssh, text};
use crate::support::Gateway;

#[test]
fn a_program_says_where_a_login_goes_on() {
    let Some(host) = Host::start("") else { return };
    // Below a folder that only root can write to.
    let folder = tempfile::Builder::new().prefix("tidegate-test").tempdir_in("/run");
    let folder = folder.expect("a folder");
    let program = folder.path().join("find");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let write = |script: &str, mode: u32| {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&program, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    let settings = host.settings();
    let command = format!("TidegateUpstreamCommand {} %u %a 'two words' %U", program.display());
    let user = "TidegateUpstreamCommandUser nobody";
    let gateway = Gateway::start(&[&command, user, &settings[1], &settings[2]]);
    let ann = ["User=ann"];
    let answer = format!(
        "test \"$1 $2 $3\" = 'ann 127.0.0.1 two words' && test $(id -un) = nobody || exit 4\n\
         echo '127.0.0.1 {} root'",
        host.port
    );
    write(&answer, 0o755);
    for _ in 0..2 {
        let output = ssh(&gateway, &ann, &["echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(&gateway, &output));
    }
    assert!(host.log().contains("Accepted publickey for root"), "{}", host.log());
    for (script, mode, reason) in [
        ("exit 0", 0o755, "it names no host"),
        ("exit 1", 0o755, "it ended with exit status: 1"),
        ("echo a b c d", 0o755, "and not a host, a port and a user"),
        (&*answer, 0o775, "must belong to root"),
    ] {
        write(script, mode);
        let output = ssh(&gateway, &["User=ann", "LogLevel=INFO"], &["true"]);
        assert_eq!(output.status.code(), Some(255), "{}", said(&gateway, &output));
        let heard = text(&output.stderr);
        let line = "the gateway cannot find out where this login goes on";
        assert!(heard.contains(line), "{heard}\n{}", gateway.log());
        gateway.tells(reason);
    }
}
