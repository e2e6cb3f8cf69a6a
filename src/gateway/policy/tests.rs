use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::crypto::PrivateKey;
use crate::gateway::config::parse;

struct Scene {
    directory: tempfile::TempDir,
    key: PublicKey,
    user: String,
}

impl Scene {
    /// An authorized_keys with one line, in a directory that StrictModes would refuse.
    fn new(options: &str) -> Scene {
        let directory = tempfile::tempdir().expect("a directory");
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
        let line = format!("# keys\n{options}{}\n", key.to_openssh_line("test"));
        std::fs::write(directory.path().join("keys"), line).expect("a file");
        let uid = nix::unistd::geteuid().as_raw();
        let user = accounts::by_uid(uid).expect("a database").expect("an account").name;
        Scene { directory, key, user }
    }

    fn policy(&self, settings: &str) -> Policy {
        let keys = self.directory.path().join("keys");
        let text = format!("StrictModes no\nAuthorizedKeysFile {}\n{settings}", keys.display());
        let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        Policy::new(Arc::new(config))
    }

    fn request<'a>(&'a self, user: &'a str) -> Request<'a> {
        Request {
            user,
            key: &self.key,
            algorithm: SignatureAlgorithm::Ed25519,
            certificate: None,
            peer: ([192, 0, 2, 7], 50_000).into(),
            host: None,
            local: ([192, 0, 2, 1], 2222).into(),
            rdomain: None,
        }
    }

    fn permit_as(&self, user: &str, settings: &str) -> Result<Grant, Box<Refusal>> {
        self.policy(settings).permit(&self.request(user))
    }

    /// Once the file has rested: what is said at once, and what is said otherwise.
    fn permit_twice(&self, policy: &Policy) -> (Grant, Grant) {
        let request = self.request(&self.user);
        for _ in 0..1000 {
            let grant = policy.permit(&request).expect("let in");
            if let Some(at_once) = policy.permit_at_once(&request) {
                return (at_once, grant);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the key is never let in at once");
    }

    fn permit(&self, settings: &str) -> Result<Grant, Box<Refusal>> {
        self.permit_as(&self.user, settings)
    }

    fn reason(&self, settings: &str) -> Reason {
        self.permit(settings).expect_err("refused").reason
    }
}

#[test]
fn a_listed_key_is_let_in_and_the_grant_says_all() {
    let scene = Scene::new("");
    let settings = "AcceptEnv LC_*\nSetEnv A=b\nSubsystem sftp internal-sftp\n\
                    Subsystem x /bin/x \"a b\"\n";
    let grant = scene.permit(settings).expect("let in");
    assert_eq!(grant.account.name, scene.user);
    assert_eq!((grant.key, grant.forced_command), (Some(scene.key.clone()), None));
    assert!(grant.pty);
    assert_eq!(grant.accept_env, ["LC_*"]);
    assert_eq!(grant.set_env, [("A".to_owned(), "b".to_owned())]);
    let command = Subsystem::Command("/bin/x \"a b\"".to_owned());
    let expected = [
        ("sftp".to_owned(), Subsystem::Sftp("internal-sftp".to_owned())),
        ("x".to_owned(), command),
    ];
    assert_eq!(grant.subsystems, expected);
    assert_eq!(grant.source, format!("{}/keys:2", scene.directory.path().display()));
}

#[test]
fn a_key_is_let_in_at_once_as_it_was_a_moment_ago() {
    let scene = Scene::new("from=\"192.0.2.0/24\",command=\"x\" ");
    let policy = scene.policy("PermitRootLogin forced-commands-only\nSetEnv A=b");
    assert!(policy.permit_at_once(&scene.request(&scene.user)).is_none(), "nobody was yet");
    let (at_once, grant) = scene.permit_twice(&policy);
    assert_eq!(format!("{at_once:?}"), format!("{grant:?}"));

    let request = scene.request(&scene.user);
    let elsewhere = Request { peer: ([198, 51, 100, 7], 1).into(), ..request };
    assert!(policy.permit_at_once(&elsewhere).is_none());
    let other = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
    assert!(policy.permit_at_once(&Request { key: &other, ..request }).is_none());
    let algorithm = SignatureAlgorithm::RsaSha512;
    assert!(policy.permit_at_once(&Request { algorithm, ..request }).is_none());
    assert!(policy.permit_at_once(&scene.request("no such user")).is_none());
    // A key that was removed is of no use at once.
    scene.permit_twice(&policy);
    std::fs::write(scene.directory.path().join("keys"), "# none\n").expect("written");
    assert!(policy.permit_at_once(&request).is_none());
    assert_eq!(policy.permit(&request).expect_err("refused").reason, Reason::NoKey);
}

/// Whatever takes more than that is found out elsewhere, each time.
#[test]
fn what_has_to_be_asked_is_not_said_at_once() {
    let scene = Scene::new("");
    let folder = scene.directory.path().display();
    let line = scene.key.to_openssh_line("test");
    for name in ["revoked", "accounts"] {
        std::fs::write(scene.directory.path().join(name), "").expect("a file");
    }
    for settings in [
        format!("RevokedKeys {folder}/revoked"),
        format!("TidegateAccounts {folder}/accounts"),
        "PubkeyAuthentication no".to_owned(),
        "DenyUsers *".to_owned(),
    ] {
        let policy = scene.policy("");
        scene.permit_twice(&policy);
        let changed = Policy { config: Arc::clone(&scene.policy(&settings).config), ..policy };
        assert!(changed.permit_at_once(&scene.request(&scene.user)).is_none(), "{settings}");
    }
    // Lines in front of it that are refused are told of each time.
    let refused = format!("from=\"198.51.100.1\" {line}\n{line}\n");
    std::fs::write(scene.directory.path().join("keys"), refused).expect("written");
    let policy = scene.policy("");
    let changed = std::fs::metadata(scene.directory.path().join("keys")).expect("it").ctime();
    while now() <= changed as u64 + 1 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    policy.permit(&scene.request(&scene.user)).expect("let in");
    assert!(policy.permit_at_once(&scene.request(&scene.user)).is_none());
}

#[test]
fn the_administrators_command_goes_before_the_keys_own() {
    let scene = Scene::new("command=\"mine\",no-pty ");
    let grant = scene.permit("").expect("let in");
    assert_eq!((grant.forced_command.as_deref(), grant.pty), (Some("mine"), false));
    let grant = scene.permit("ForceCommand theirs").expect("let in");
    assert_eq!(grant.forced_command.as_deref(), Some("theirs"));
    let local = "Match LocalPort 2222 LocalAddress 192.0.2.1 Address 192.0.2.0/24\n\
                 ForceCommand internal-sftp";
    let grant = scene.permit(local).expect("let in");
    assert_eq!(grant.forced_command.as_deref(), Some("internal-sftp"));
}

#[test]
fn every_rule_can_keep_the_user_out() {
    let scene = Scene::new("");
    let user = &scene.user;
    let denied = |keyword, pattern: &str| Reason::Denied { keyword, pattern: pattern.into() };
    for (settings, reason) in [
        (format!("DenyUsers {user}"), denied("DenyUsers", user)),
        (
            format!("DenyUsers {user}@192.0.2.0/24"),
            denied("DenyUsers", &format!("{user}@192.0.2.0/24")),
        ),
        ("AllowUsers someone".into(), Reason::NotAllowed { keyword: "AllowUsers" }),
        (format!("AllowUsers {user}@198.51.100.1"), Reason::NotAllowed { keyword: "AllowUsers" }),
        ("AllowGroups nosuch*".into(), Reason::NotAllowed { keyword: "AllowGroups" }),
        ("DenyGroups *".into(), denied("DenyGroups", "*")),
        ("PubkeyAuthentication no".into(), Reason::MethodOff),
        (
            "PubkeyAcceptedAlgorithms rsa-sha2-512".into(),
            Reason::Algorithm(KeyAlgorithm::plain(SignatureAlgorithm::Ed25519)),
        ),
        ("AuthorizedKeysFile2 x\nMatch all\nAuthorizedKeysFile none".into(), Reason::NoKey),
        (format!("Match User {user}\nDenyUsers *"), denied("DenyUsers", "*")),
    ] {
        assert_eq!(scene.reason(&settings), reason, "{settings}");
    }
    assert!(scene.permit(&format!("AllowUsers {user}@192.0.2.*\nDenyUsers x")).is_ok());
}

#[test]
fn root_comes_in_as_permit_root_login_says() {
    let (plain, forced) = (Scene::new(""), Scene::new("command=\"backup\" "));
    if plain.user != "root" {
        return;
    }
    assert_eq!(plain.reason("PermitRootLogin no"), Reason::RootKey);
    let policy = plain.policy("PermitRootLogin no");
    let other = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
    let request = Request { key: &other, ..plain.request("root") };
    let reason = policy.permit(&request).expect_err("refused").reason;
    assert_eq!(reason, Reason::RootLogin);
    // Sshd says so of keys that are root's alone.
    let told = |reason: Reason| reason.in_sshds_words(&request.comer());
    let line =
        format!("ROOT LOGIN REFUSED FROM {} port {}", request.peer.ip(), request.peer.port());
    for reason in [Reason::RootKey, Reason::NoForcedCommand] {
        assert_eq!(told(reason).as_deref(), Some(&*line));
    }
    assert_eq!(told(Reason::RootLogin), None);
    assert_eq!(plain.reason("PermitRootLogin forced-commands-only"), Reason::NoForcedCommand);
    assert_eq!(
        plain.reason("PermitRootLogin forced-commands-only\nForceCommand x"),
        Reason::NoForcedCommand
    );
    assert!(forced.permit("PermitRootLogin forced-commands-only").is_ok());
    assert!(plain.permit("PermitRootLogin prohibit-password").is_ok());
}

#[test]
fn strangers_and_other_accounts_are_refused_after_the_same_search() {
    let scene = Scene::new("");
    let refusal = scene.permit_as("no-such-user", "").expect_err("refused");
    assert_eq!(refusal.reason, Reason::UnknownUser);
    // The search went through the files of the account we run as, and nothing of it shows.
    assert!(refusal.notes.is_empty());
    if scene.user != "root" {
        let refusal = scene.permit_as("root", "").expect_err("refused");
        assert_eq!(refusal.reason, Reason::OtherAccount { ours: scene.user.clone() });
    }
}

#[test]
fn a_refusal_says_which_line_and_what_to_do() {
    let scene = Scene::new("tunnel=\"0\" ");
    let refusal = scene.permit("").expect_err("refused");
    assert_eq!(refusal.reason, Reason::NoKey);
    let keys = scene.directory.path().join("keys");
    let expected = format!(
        "the key is in no file of authorized keys; {}:2: option tunnel is not built yet, and \
         no line is taken without all its options",
        keys.display()
    );
    assert_eq!(refusal.to_string(), expected);

    std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o666)).expect("permissions");
    let text = format!("AuthorizedKeysFile {}", keys.display());
    let config = parse(text.as_bytes()).expect("a config");
    let refusal =
        Policy::new(Arc::new(config)).permit(&scene.request(&scene.user)).expect_err("refused");
    assert!(refusal.to_string().contains("StrictModes"), "{refusal}");
}
