//! Which lines of the configuration decided, for an audit.

use super::*;

/// The keywords that refusals of channels and requests name.
const OF_SESSIONS: [&str; 11] = [
    "AllowAgentForwarding",
    "AllowStreamLocalForwarding",
    "AllowTcpForwarding",
    "DisableForwarding",
    "ForceCommand",
    "GatewayPorts",
    "MaxSessions",
    "PermitListen",
    "PermitOpen",
    "PermitTTY",
    "X11Forwarding",
];

impl Policy {
    /// Where those keywords are set for this login, as far as they are.
    pub fn places(&self, comer: &Comer<'_>) -> Vec<(String, String)> {
        let found = self.places_of(&OF_SESSIONS, comer);
        found.into_iter().map(|(keyword, place)| (keyword.to_owned(), place)).collect()
    }

    /// The keyword that refused somebody, and the line that sets it.
    pub fn rule_of(&self, reason: &Reason, comer: &Comer<'_>) -> Option<String> {
        let keyword = reason.keyword()?;
        Some(match self.places_of(&[keyword], comer).pop() {
            Some((keyword, place)) => format!("{place} {keyword}"),
            None => format!("default {keyword}"),
        })
    }

    fn places_of<'a>(&self, keywords: &[&'a str], comer: &Comer<'_>) -> Vec<(&'a str, String)> {
        let (user, _) = self.split(comer.user);
        let comer = &Comer { user, ..*comer };
        let entry = self.directory.find(user).ok().flatten();
        let groups = entry.as_ref().map_or(&[][..], |entry| &entry.groups);
        let exists = entry.is_some() || self.residents().find(user).is_some();
        let who = who(comer, exists, groups);
        let place = |keyword: &&'a str| {
            self.config.place_of(keyword, &who).map(|place| (*keyword, place.to_string()))
        };
        keywords.iter().filter_map(place).collect()
    }
}

impl Reason {
    /// The keyword that it is due to, if it is due to one.
    const fn keyword(&self) -> Option<&'static str> {
        Some(match self {
            Reason::Target(_) => "TidegateUpstreamTargets",
            Reason::NoIdentity => "TidegateUpstreamIdentity",
            Reason::NoCommandUser => "TidegateUpstreamCommandUser",
            Reason::RootLogin
            | Reason::RootKey
            | Reason::NoForcedCommand
            | Reason::RootPassword => "PermitRootLogin",
            Reason::Denied { keyword, .. } | Reason::NotAllowed { keyword } => keyword,
            Reason::EdgeUser => "TidegateEdgeUser",
            Reason::RefuseConnection => "RefuseConnection",
            Reason::MethodOff => "PubkeyAuthentication",
            Reason::Algorithm(_) => "PubkeyAcceptedAlgorithms",
            Reason::RsaSize { .. } => "RequiredRSASize",
            Reason::NoKey => "AuthorizedKeysFile",
            Reason::NoCertificate => "TrustedUserCAKeys",
            Reason::Revoked(_) | Reason::RevokedKeys(_) => "RevokedKeys",
            Reason::NoService => "TidegateAccountsUser",
            Reason::Chroot(_) => "ChrootDirectory",
            Reason::Source => "TidegateAccounts",
            Reason::Quota => "TidegateIsolation",
            Reason::PamPassword { .. } | Reason::PamAccount { .. } | Reason::PamFailed { .. } => {
                "UsePAM"
            }
            Reason::Unheard(_) => "TidegateAuditOnFailure",
            Reason::UnknownUser
            | Reason::OtherAccount { .. }
            | Reason::Database(_)
            | Reason::Locked
            | Reason::Expired
            | Reason::Shell(_)
            | Reason::Secrets => return None,
        })
    }
}
