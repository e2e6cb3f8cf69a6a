//! Security keys: OpenSSH's client, and a key in software behind its provider interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Gateway, run_ok, wait_for};
use crate::{gateway_with, user};

const TOUCHED: &str = "1";
const VERIFIED: &str = "5";

/// Compiles the software key.
fn provider(folder: &Path) -> PathBuf {
    let provider = folder.join("provider.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/methods/provider.c");
    let mut compile = Command::new("cc");
    run_ok(compile.args(["-shared", "-fPIC", "-o"]).arg(&provider).arg(source).arg("-lcrypto"));
    provider
}

struct Bench {
    gateway: Gateway,
    provider: PathBuf,
}

impl Bench {
    fn new(block: &str) -> Bench {
        let gateway = gateway_with(block);
        let provider = provider(gateway.folder.path());
        let bench = Bench { gateway, provider };
        for kind in ["ed25519-sk", "ecdsa-sk"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", "", "-C", "test", "-t", kind, "-f"]);
            run_ok(keygen.arg(bench.gateway.path(kind)).arg("-w").arg(&bench.provider));
        }
        bench
    }

    fn allow(&self, options: &str, key: &str) {
        let key = fs::read_to_string(self.gateway.path(&format!("{key}.pub"))).expect("a key");
        let line = format!("{options} {key}");
        fs::write(self.gateway.path("authorized_keys"), line).expect("authorized_keys");
    }

    /// Whether a signature with these flags lets in.
    fn gets_in(&self, key: &str, flags: &str) -> bool {
        let identity = format!("IdentityFile={}", self.gateway.path(key).display());
        let provider = format!("SecurityKeyProvider={}", self.provider.display());
        let options = [&*identity, &provider, "KexAlgorithms=curve25519-sha256"];
        let mut ssh = self.gateway.ssh(&options, &["echo in"]);
        ssh.env("TEST_SK_FLAGS", flags).env("TEST_SK_COUNTER", "41");
        ssh.output().expect("ssh starts").stdout == b"in\n"
    }

    fn assert_told(&self, text: &str) {
        self.gateway.tells(text);
    }
}

/// SECURITY case 69.
#[test]
fn case_69_security_keys_have_to_be_touched() {
    let bench = Bench::new("");
    for key in ["ed25519-sk", "ecdsa-sk"] {
        bench.allow("", key);
        assert!(bench.gets_in(key, TOUCHED), "{key}: {}", bench.gateway.log());
        assert!(!bench.gets_in(key, "0"), "{key}");
        bench.allow("no-touch-required", key);
        assert!(bench.gets_in(key, "0"), "{key}: {}", bench.gateway.log());
        bench.allow("verify-required", key);
        assert!(!bench.gets_in(key, TOUCHED), "{key}");
        assert!(bench.gets_in(key, VERIFIED), "{key}");
        assert!(!bench.gets_in(key, "4"), "{key}: verified and not touched");
    }
    bench.assert_told("user presence (authenticator touch) requirement not met");
    bench.assert_told("user verification requirement not met");
    bench.assert_told(" counter 42, touched (");
    bench.assert_told(" counter 42, touched, user verified (");
    // Of a key of another kind nobody can say so.
    bench.allow("verify-required", "user_ed25519");
    assert!(!bench.gets_in("user_ed25519", VERIFIED));
    bench.assert_told("it asks for a security key that verifies its user, and this is none");
}

/// Whoever has not signed has not been in, though the key is known.
#[test]
fn a_key_that_did_not_let_in_is_no_login_at_its_end() {
    let bench = Bench::new("");
    bench.allow("", "ed25519-sk");
    assert!(!bench.gets_in("ed25519-sk", "0"));
    let ending = || {
        let log = bench.gateway.log();
        log.split_once("requirement not met").map(|(_, end)| end.to_owned()).unwrap_or_default()
    };
    wait_for("the end", || ending().contains("Disconnected "));
    assert!(ending().contains("Disconnected - from 127.0.0.1 port "), "{}", ending());
}

#[test]
fn settings_ask_more_of_security_keys_than_their_lines() {
    let bench = Bench::new(&format!("Match User {}\nPubkeyAuthOptions verify-required", user()));
    bench.allow("no-touch-required", "ed25519-sk");
    assert!(!bench.gets_in("ed25519-sk", TOUCHED));
    assert!(bench.gets_in("ed25519-sk", "4"));
    let bench = Bench::new("PubkeyAuthOptions touch-required");
    bench.allow("no-touch-required", "ed25519-sk");
    assert!(!bench.gets_in("ed25519-sk", "4"));
    assert!(bench.gets_in("ed25519-sk", TOUCHED));
    bench.allow("", "user_ed25519");
    assert!(bench.gets_in("user_ed25519", TOUCHED), "other keys are not asked");
}

#[test]
fn certificates_of_security_keys_say_what_they_attest() {
    let bench = Bench::new("");
    let me = user();
    let certify = |options: &[&str]| {
        let mut command = Command::new("ssh-keygen");
        command.current_dir(bench.gateway.folder.path());
        command.args(["-q", "-s", "user_ecdsa256", "-I", "x", "-n", &me]);
        let options = options.iter().flat_map(|option| ["-O", *option]);
        run_ok(command.args(options).arg("ed25519-sk.pub"));
    };
    bench.allow("cert-authority", "user_ecdsa256");
    certify(&[]);
    assert!(bench.gets_in("ed25519-sk", TOUCHED), "{}", bench.gateway.log());
    assert!(!bench.gets_in("ed25519-sk", "0"));
    bench.assert_told("ssh2: ED25519-SK-CERT SHA256:");
    certify(&["verify-required"]);
    assert!(!bench.gets_in("ed25519-sk", TOUCHED));
    assert!(bench.gets_in("ed25519-sk", VERIFIED));
    // Both the certificate and the authority's line have to do without a touch.
    certify(&["no-touch-required"]);
    assert!(!bench.gets_in("ed25519-sk", "0"));
    bench.allow("cert-authority,no-touch-required", "user_ecdsa256");
    assert!(bench.gets_in("ed25519-sk", "0"), "{}", bench.gateway.log());
    certify(&[]);
    assert!(!bench.gets_in("ed25519-sk", "0"));
}
