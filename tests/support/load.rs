//! Connections and logins by the hundred.

use std::process::{Child, Command, Stdio};

use super::Gateway;

/// `tidegate bench load` against the gateway; ended by its pid if the test fails.
pub struct Load(Option<Child>);

impl Load {
    pub fn start(gateway: &Gateway, words: &[&str]) -> Load {
        Load::start_at(gateway, "127.0.0.1", words)
    }

    /// As a user of one's choice: `USER@127.0.0.1`.
    pub fn start_at(gateway: &Gateway, target: &str, words: &[&str]) -> Load {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["bench", "load", target, "-F", "none", "--json", "-p"]);
        command.arg(gateway.port.to_string()).arg("-i").arg(gateway.path("user_ed25519"));
        for option in [
            "KexAlgorithms=curve25519-sha256",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=none",
            "IdentityAgent=none",
        ] {
            command.args(["-o", option]);
        }
        let command = command.args(words).stdin(Stdio::null());
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Load(Some(started.expect("the program runs")))
    }

    pub fn is_over(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().expect("its status").is_some())
    }

    /// What it says when it has ended.
    pub fn report(mut self) -> serde_json::Value {
        let child = self.0.take().expect("it was started");
        let output = child.wait_with_output().expect("its end");
        let read = serde_json::from_slice::<serde_json::Value>(&output.stdout);
        read.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))["runs"][0]
            .take()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
