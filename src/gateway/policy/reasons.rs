//! What the log says of logins that were refused.

use std::fmt;

use super::{Comer, Reason, Refusal};
use crate::base::{escape, escape_word};
use crate::gateway::residents::QUOTA_OF_MANY;

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.reason)?;
        if matches!(self.reason, Reason::NoCertificate) && self.notes.is_empty() {
            // Where an authority was found and does not help, that is said instead.
            write!(
                out,
                "; TrustedUserCAKeys or a cert-authority line would have to name its authority"
            )?;
        }
        self.notes.iter().try_for_each(|note| write!(out, "; {note}"))
    }
}

impl Reason {
    /// What sshd's log says of a user who gets in by no means; ban lists look for it.
    pub fn in_sshds_words(&self, comer: &Comer<'_>) -> Option<String> {
        let (user, ip) = (escape_word(comer.user.as_bytes()), comer.peer.ip());
        let why = match self {
            Reason::UnknownUser => {
                return Some(format!("Invalid user {user} from {ip} port {}", comer.peer.port()));
            }
            Reason::Locked => {
                return Some(format!("User {user} not allowed because account is locked"));
            }
            Reason::Denied { keyword: "DenyUsers", .. } => "listed in DenyUsers",
            Reason::Denied { keyword: "DenyGroups", .. } => "a group is listed in DenyGroups",
            Reason::NotAllowed { keyword: "AllowUsers" } => "not listed in AllowUsers",
            Reason::NotAllowed { keyword: "AllowGroups" } => {
                "none of user's groups are listed in AllowGroups"
            }
            Reason::RootKey | Reason::NoForcedCommand => {
                return Some(format!("ROOT LOGIN REFUSED FROM {ip} port {}", comer.peer.port()));
            }
            _ => return None,
        };
        Some(format!("User {user} from {ip} not allowed because {why}"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::UnknownUser => out.write_str("there is no such user"),
            Reason::OtherAccount { ours } => {
                write!(out, "this server was not started by root, so it serves {ours} alone")
            }
            Reason::Target(target) => {
                write!(out, "TidegateUpstreamTargets does not allow {}", escape(target.as_bytes()))
            }
            Reason::NoIdentity => out.write_str(
                "it goes on elsewhere, and none of TidegateUpstreamIdentity, TidegateUpstreamCA and \
                 TidegateUpstreamAgent has a key for that",
            ),
            Reason::NoCommandUser => out.write_str(
                "TidegateUpstreamCommand needs TidegateUpstreamCommandUser: the account it runs as",
            ),
            Reason::Database(why) => write!(out, "the user database does not answer: {why}"),
            Reason::Locked => out.write_str(
                "the account is locked: its password field begins with !; \
                 `usermod -p '*' USER` unlocks it without a password",
            ),
            Reason::Expired => out.write_str("the account has expired"),
            Reason::Shell(path) => {
                let path = escape(path.as_os_str().as_encoded_bytes());
                write!(out, "the account's shell {path} is no program")
            }
            Reason::Quota => out.write_str(QUOTA_OF_MANY),
            Reason::EdgeUser => out.write_str(
                "a process of the gateway's own runs as this account; \
                 TidegateEdgeUser names another, and TidegateSignerUser the signer's",
            ),
            Reason::RefuseConnection => out.write_str("RefuseConnection is yes"),
            Reason::RootLogin | Reason::RootKey => out.write_str("PermitRootLogin is no"),
            Reason::Denied { keyword, pattern } => write!(out, "{keyword} {pattern} matches"),
            Reason::NotAllowed { keyword } => write!(out, "{keyword} does not name this user"),
            Reason::MethodOff => out.write_str("PubkeyAuthentication is no"),
            Reason::Algorithm(algorithm) => {
                write!(out, "PubkeyAcceptedAlgorithms does not allow {}", algorithm.name())
            }
            Reason::RsaSize { bits, least } => {
                write!(out, "an RSA key of {bits} bits, and RequiredRSASize is {least}")
            }
            Reason::Revoked(path) => {
                let path = escape(path.as_os_str().as_encoded_bytes());
                write!(out, "it is revoked by {path}")
            }
            Reason::RevokedKeys(why) => {
                write!(out, "RevokedKeys cannot be used, so nobody gets in: {why}")
            }
            Reason::NoCertificate => out.write_str("the certificate does not let this user in"),
            Reason::Source => out.write_str("its From does not list this address"),
            Reason::NoService => out.write_str("TidegateAccountsUser is nobody who can work for it"),
            Reason::Chroot(why) => out.write_str(why),
            Reason::NoKey => out.write_str("the key is in no file of authorized keys"),
            Reason::RootPassword => out.write_str("PermitRootLogin lets root in by keys alone"),
            Reason::PamPassword { service, why } => {
                write!(out, "PAM (service {service}) does not take the password: {why}")
            }
            Reason::PamAccount { service, why } => {
                write!(out, "PAM (service {service}) does not let the account be used: {why}")
            }
            Reason::PamFailed { service, why } => {
                write!(out, "PAM (service {service}) cannot be asked, so nobody gets in: {why}")
            }
            Reason::Secrets => out.write_str("a password or a code is wrong"),
            Reason::Unheard(why) => {
                write!(out, "the audit of TidegateAuditLog cannot be written ({why}), and nobody gets in unheard")
            }
            Reason::NoForcedCommand => out.write_str(NO_FORCED_COMMAND),
        }
    }
}

const NO_FORCED_COMMAND: &str =
    "PermitRootLogin is forced-commands-only, and the key's line has no command=";
