//! Sessions at hosts behind the gateway, recorded on their way.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{proxied, said, ssh, text};
use crate::support::wait_for;

#[test]
fn sessions_at_a_host_are_recorded_on_their_way() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    let place = format!("TidegateRecordDirectory {}", folder.path().display());
    let recordings = || {
        let files = fs::read_dir(folder.path()).expect("a folder").flatten();
        files.map(|file| fs::read_to_string(file.path()).expect("text")).collect::<Vec<_>>()
    };
    proxied("", &["TidegateRecord shells", &place], |_, gateway| {
        let output = ssh(gateway, &["RequestTTY=force"], &["seq 20000; exit 3"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(gateway, &output));
        let lines: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
        assert_eq!(text(&output.stdout), lines);
        wait_for("the recording to end", || recordings()[0].contains("\"x\",\"3\""));
        let mut shown = String::new();
        for line in recordings()[0].lines().skip(1) {
            let (_, code, text): (f64, String, String) = serde_json::from_str(line).expect("JSON");
            shown += if code == "o" { &text } else { "" };
        }
        assert_eq!(shown, lines);
        // Others go the quick way.
        let output = ssh(gateway, &[], &["echo plain"]);
        assert_eq!(text(&output.stdout), "plain\n", "{}", said(gateway, &output));
        assert!(gateway.sftp(&[], "ls /\n").status.success());
        assert_eq!(recordings().len(), 1);
    });
    // One that cannot be recorded does not begin at the host either.
    let missing = folder.path().join("missing");
    let place = format!("TidegateRecordDirectory {}", missing.display());
    proxied("", &["TidegateRecord sessions", &place], |host, gateway| {
        let output = ssh(gateway, &[], &["touch ran; echo seen"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", said(gateway, &output));
        assert!(!host.path("ran").exists() && !host.log().contains("Starting session"));
    });
}
