//! Who may log in, and with which files of keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Shown, allow, own, put_at_home, shown, ssh, with_blocks};
use crate::support::account::Account;
use crate::support::{keygen, run_ok};

fn is_in(seen: &Shown) -> bool {
    // With no method in the brackets where there is none.
    assert!(seen.out == "in\n" || seen.err.contains("Permission denied ("), "{seen:?}");
    seen.out == "in\n"
}

#[test]
fn lists_of_users_and_groups() {
    let Some(account) = Account::new() else { return };
    let (name, group) = (account.name.as_str(), account.second_group());
    let cases = [
        (format!("AllowUsers {name}"), true, false),
        (format!("AllowUsers {name}@127.0.0.1"), true, false),
        (format!("AllowUsers {name}@10.0.0.0/8 root@127.0.0.0/8"), false, true),
        ("AllowUsers tidetest* someone".to_owned(), true, false),
        (format!("DenyUsers {name}"), false, true),
        (format!("DenyUsers {name}@127.0.0.0/8"), false, true),
        (format!("DenyUsers {name}@10.0.0.1"), true, true),
        (format!("AllowUsers {name}\nDenyUsers tide*"), false, false),
        (format!("AllowGroups {group}"), true, false),
        (format!("DenyGroups {group}"), false, true),
        (format!("AllowGroups root\nAllowUsers {name}"), false, false),
        ("PermitRootLogin no".to_owned(), true, false),
        ("PermitRootLogin prohibit-password".to_owned(), true, true),
        ("PermitRootLogin forced-commands-only".to_owned(), true, false),
        ("PubkeyAuthentication no".to_owned(), false, false),
        ("PubkeyAcceptedAlgorithms rsa-sha2-512".to_owned(), false, false),
    ];
    // Each block's own settings go before those that the gateway of the tests ends with.
    let blocks: Vec<&str> = cases.iter().map(|(block, ..)| block.as_str()).collect();
    let (gateway, ports) = with_blocks(&[], &blocks);
    for ((block, account_in, root_in), port) in cases.iter().zip(ports) {
        let login = |user: &str| {
            let user = format!("User={user}");
            is_in(&shown(&mut ssh(&gateway, port, &[&user], &["echo in"])))
        };
        assert_eq!(login(name), *account_in, "{block}");
        assert_eq!(login("root"), *root_in, "root: {block}");
        if block.contains("forced-commands-only") {
            allow(&gateway, "command=\"echo in\"");
            assert!(login("root"), "{block}");
            allow(&gateway, "");
        }
    }
    for reason in ["DenyUsers tide* matches", "AllowGroups does not name", "PermitRootLogin is no"]
    {
        gateway.tells(reason);
    }
}

/// SECURITY cases 44 and 46: RSA keys that are too short do not log in, nor does any with SHA-1.
#[test]
fn case_44_and_46_short_keys_and_old_signatures() {
    let (gateway, ports) = with_blocks(&[], &["RequiredRSASize 3072"]);
    let mut keys = String::new();
    for bits in ["1024", "2048", "3072"] {
        let path = gateway.path(bits);
        keygen(&path, "rsa", bits);
        keys += &fs::read_to_string(path.with_extension("pub")).expect("a key");
    }
    fs::write(gateway.path("authorized_keys"), keys).expect("authorized_keys");
    let login = |port, bits: &str, algorithms: &str| {
        let identity = format!("IdentityFile={}", gateway.path(bits).display());
        let algorithms = format!("PubkeyAcceptedAlgorithms={algorithms}");
        let options = [&*identity, &*algorithms, "RequiredRSASize=1024"];
        is_in(&shown(&mut ssh(&gateway, port, &options, &["echo in"])))
    };
    for (bits, default, strict) in
        [("1024", false, false), ("2048", true, false), ("3072", true, true)]
    {
        assert_eq!(login(gateway.port, bits, "rsa-sha2-512"), default, "{bits}");
        assert_eq!(login(ports[0], bits, "rsa-sha2-256"), strict, "{bits}");
        assert!(!login(gateway.port, bits, "ssh-rsa"), "{bits} with SHA-1");
    }
    gateway.tells("Refused a key for ");
    gateway.tells(": an RSA key of fewer than 2048 bits, or of more than 8192");
}

#[test]
fn files_of_keys_are_found_by_their_templates() {
    let Some(account) = Account::new() else { return };
    let shared = tempfile::tempdir().expect("a folder");
    fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let at = shared.path().display();
    let cases = [
        ("AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2".to_owned(), None),
        ("AuthorizedKeysFile %h/keys".to_owned(), Some(account.at_home("keys"))),
        (format!("AuthorizedKeysFile {at}/%u"), Some(shared.path().join(&account.name))),
        (
            format!("AuthorizedKeysFile /nowhere {at}/%U.%%k"),
            Some(shared.path().join(format!("{}.%k", account.uid))),
        ),
        ("AuthorizedKeysFile none".to_owned(), None),
        (
            format!("AuthorizedKeysFile {at}/nobody* {at}/[d]/k?y"),
            Some(shared.path().join("d/key")),
        ),
    ];
    fs::create_dir(shared.path().join("d")).expect("a folder");
    fs::write(shared.path().join("d/kay"), "of another file\n").expect("a file");
    let blocks: Vec<&str> = cases.iter().map(|(block, _)| block.as_str()).collect();
    let (gateway, ports) = with_blocks(&[], &blocks);
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    let user = format!("User={}", account.name);
    let login = |port| is_in(&shown(&mut ssh(&gateway, port, &[&user], &["echo in"])));
    for ((block, path), port) in cases.iter().zip(&ports) {
        assert!(!login(*port), "{block}");
        if let Some(path) = path {
            fs::write(path, &key).expect("a file of keys");
            assert!(login(*port), "{block}\n{}", gateway.log());
        }
    }
    put_at_home(&account, ".ssh/authorized_keys2", &key);
    assert!(login(ports[0]));
    assert!(!login(ports[4]), "none is none");
}

/// StrictModes, of files of keys and of principals: the file, every directory up to home, each by its mode
/// and by whose it is.
#[test]
fn loose_files_of_keys_and_principals_do_not_count() {
    let Some(account) = Account::new() else { return };
    let authority = tempfile::tempdir().expect("a folder");
    fs::set_permissions(authority.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let ca = authority.path().join("ca");
    keygen(&ca, "ed25519", "");
    let certified = format!(
        "AuthorizedKeysFile none\nTrustedUserCAKeys {}.pub\nAuthorizedPrincipalsFile %h/.ssh/principals",
        ca.display()
    );
    let blocks = ["AuthorizedKeysFile .ssh/authorized_keys", &certified];
    let (gateway, ports) = with_blocks(&["StrictModes yes"], &blocks);
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    put_at_home(&account, ".ssh/authorized_keys", &key);
    put_at_home(&account, ".ssh/principals", "ops\n");
    let mut certify = Command::new("ssh-keygen");
    certify.args(["-q", "-I", "x", "-n", "ops", "-s"]).arg(&ca);
    run_ok(certify.arg(gateway.path("user_ed25519.pub")));
    let user = format!("User={}", account.name);
    let login = |port| is_in(&shown(&mut ssh(&gateway, port, &[&user], &["echo in"])));
    let refused = |port, told: &str| {
        assert!(!login(port), "{told}");
        gateway.tells(told);
    };
    let stranger = account.uid + 4242;
    let (home, below) = (account.home.path(), account.at_home(".ssh"));
    for (port, name) in ports.iter().zip(["authorized_keys", "principals"]) {
        assert!(login(*port), "{name}: {}", gateway.log());
        let file = below.join(name);
        for (path, loose, tight) in [
            (&*file, 0o620, 0o600),
            (&file, 0o602, 0o644),
            (&below, 0o770, 0o700),
            (&below, 0o702, 0o755),
            (home, 0o775, 0o750),
            (home, 0o707, 0o755),
        ] {
            fs::set_permissions(path, PermissionsExt::from_mode(loose)).expect("a mode");
            let path_shown = path.display();
            refused(*port, &format!("{path_shown}: its mode {loose:03o} lets others write"));
            fs::set_permissions(path, PermissionsExt::from_mode(tight)).expect("a mode");
        }
        assert!(login(*port), "{name}: {}", gateway.log());
        for path in [&*file, &below, home] {
            std::os::unix::fs::chown(path, Some(stranger), None).expect("an owner");
            let path_shown = path.display();
            let told = format!("{path_shown}: it must belong to {} or root", account.name);
            refused(*port, &told);
            own(&account, path);
        }
        assert!(login(*port), "{name}: {}", gateway.log());
        // Behind a link it is what the link leads to that counts, with all directories above it.
        fs::create_dir_all(account.at_home("real")).expect("a folder");
        let real = account.at_home("real").join(name);
        fs::rename(&file, &real).expect("moved");
        std::os::unix::fs::symlink(&real, &file).expect("a link");
        assert!(login(*port), "{name} behind a link: {}", gateway.log());
        let loose = account.at_home("real");
        fs::set_permissions(&loose, PermissionsExt::from_mode(0o777)).expect("a mode");
        refused(*port, &format!("{}: its mode 777 lets others write", loose.display()));
        fs::set_permissions(&loose, PermissionsExt::from_mode(0o755)).expect("a mode");
        let outside = tempfile::tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        fs::copy(&real, outside.path().join(name)).expect("a copy");
        fs::remove_file(&file).expect("it goes");
        std::os::unix::fs::symlink(outside.path().join(name), &file).expect("a link");
        // Everybody may write to what that is in.
        refused(*port, "/tmp: its mode 1777 lets others write");
    }
}
