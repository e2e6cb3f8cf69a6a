//! Who may log in, and with which files of keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Shown, allow, here, own, put_at_home, shown, ssh, with_blocks};
use crate::support::account::Account;
use crate::support::{Gateway, keygen};

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

/// StrictModes: the file, every directory up to home, and whose they are.
#[test]
fn loose_files_of_keys_do_not_count() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start_with(&["StrictModes yes"], |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let text = fs::read_to_string(&config).expect("the configuration");
        let lines = text.lines().filter(|line| !line.starts_with("AuthorizedKeysFile"));
        fs::write(config, lines.collect::<Vec<_>>().join("\n")).expect("the configuration");
    });
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    put_at_home(&account, ".ssh/authorized_keys", &key);
    let user = format!("User={}", account.name);
    let login = || is_in(&shown(&mut here(&gateway, &[&user], &["echo in"])));
    assert!(login(), "{}", gateway.log());
    let (home, below) = (account.home.path(), account.at_home(".ssh"));
    let file = below.join("authorized_keys");
    for (path, loose, tight) in [
        (&*file, 0o620, 0o600),
        (&file, 0o602, 0o644),
        (&below, 0o770, 0o700),
        (home, 0o707, 0o755),
    ] {
        fs::set_permissions(path, PermissionsExt::from_mode(loose)).expect("a mode");
        assert!(!login(), "{} {loose:o}", path.display());
        let told = format!("{}: its mode {loose:03o} lets others write", path.display());
        gateway.tells(&told);
        fs::set_permissions(path, PermissionsExt::from_mode(tight)).expect("a mode");
        assert!(login(), "{} {tight:o}", path.display());
    }
    let stranger = Some(nix::unistd::Uid::from_raw(account.uid + 4242).as_raw());
    std::os::unix::fs::chown(&file, stranger, None).expect("an owner");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a mode");
    assert!(!login(), "a stranger's file");
    own(&account, &file);
    assert!(login());
}
