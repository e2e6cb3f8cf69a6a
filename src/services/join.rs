//! What a login may that took several methods: what each of them permits.

use super::forward::{Forwarding, Permits, Ways};
use super::{Grant, Rules};

impl Grant {
    /// What this grant and one that was earned `before` in the same login both permit. `None` where
    /// they are about two accounts or force two different commands, as with sshd.
    pub fn after(mut self, before: &Grant) -> Option<Grant> {
        let commands = (&before.forced_command, &self.forced_command);
        if self.account != before.account || matches!(commands, (Some(a), Some(b)) if a != b) {
            return None;
        }
        self.forced_command = self.forced_command.or_else(|| before.forced_command.clone());
        self.pty &= before.pty;
        self.source = format!("{}, {}", before.source, self.source);
        self.rules = self.rules.after(&before.rules);
        Some(self)
    }
}

impl Rules {
    fn after(mut self, before: &Rules) -> Rules {
        if !before.variables.is_empty() {
            self.variables.clone_from(&before.variables);
        }
        self.user_rc &= before.user_rc;
        self.forced_by_settings |= before.forced_by_settings;
        self.forwarding = self.forwarding.after(&before.forwarding);
        if let (Some(own), Some(before)) = (&mut self.auth_info, &before.auth_info) {
            own.after(before);
        }
        self
    }
}

impl Forwarding {
    fn after(mut self, before: &Forwarding) -> Forwarding {
        let both =
            |a: Ways, b: Ways| Ways { local: a.local && b.local, remote: a.remote && b.remote };
        self.tcp = both(before.tcp, self.tcp);
        self.streamlocal = both(before.streamlocal, self.streamlocal);
        self.agent &= before.agent;
        self.x11 &= before.x11;
        // As with sshd, the list of the first key that has one counts.
        let first = |before: &Permits, own: &mut Permits| {
            if before.0.is_some() {
                own.clone_from(before);
            }
        };
        first(&before.key_open, &mut self.key_open);
        first(&before.key_listen, &mut self.key_listen);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};
    use crate::services::{Account, Demands};

    fn grant(source: &str) -> Grant {
        let account = Account {
            name: "ann".into(),
            uid: 1000,
            gid: 100,
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
        };
        Grant {
            account,
            key: Some(PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone()),
            forced_command: None,
            pty: true,
            accept_env: Vec::new(),
            set_env: Vec::new(),
            subsystems: Vec::new(),
            scp: true,
            open_files: None,
            limits: None,
            source: source.to_owned(),
            verbosity: None,
            rules: Rules { user_rc: true, ..Rules::default() },
            presence: crate::connection::Presence::TOUCH,
            place: Default::default(),
            upstream: None,
            demands: Demands::default(),
        }
    }

    #[test]
    fn case_57_both_keys_have_to_permit_it() {
        let (first, second) = (grant("a:1"), grant("b:2"));
        let open = second.clone().after(&first).expect("one account");
        assert!(open.pty && open.rules.user_rc && open.rules.forwarding.agent);
        assert_eq!((&open.key, &*open.source), (&second.key, "a:1, b:2"));

        let mut closed = first.clone();
        (closed.pty, closed.rules.user_rc) = (false, false);
        closed.rules.forwarding.tcp = Ways::LOCAL;
        (closed.rules.forwarding.agent, closed.rules.forwarding.x11) = (false, false);
        closed.rules.forwarding.key_open = Permits(Some(Vec::new()));
        closed.forced_command = Some("x".into());
        let [one, other] =
            [second.clone().after(&closed), closed.clone().after(&second)].map(Option::unwrap);
        for joined in [one, other] {
            let forwarding = &joined.rules.forwarding;
            assert!(!joined.pty && !joined.rules.user_rc && !forwarding.agent && !forwarding.x11);
            assert_eq!((forwarding.tcp, &forwarding.key_open.0), (Ways::LOCAL, &Some(Vec::new())));
            assert_eq!(joined.forced_command.as_deref(), Some("x"));
        }
        let command = |text: &str| Grant { forced_command: Some(text.into()), ..first.clone() };
        assert!(command("x").after(&closed).is_some());
        assert!(command("y").after(&closed).is_none(), "two commands");
        let mut somebody = second;
        somebody.account.uid = 7;
        assert!(somebody.after(&first).is_none(), "two accounts");
    }
}
