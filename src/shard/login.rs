//! Logins: what the protocol says of them, and what is then permitted.

use super::*;
use crate::connection::AuthFailed;
use crate::crypto::{Attestation, Certificate, PublicKey};
use crate::services::Grant;
use crate::wire::number::disconnect;

/// What let somebody in, and the certificate it was shown in.
type Proven = (Arc<Grant>, Option<Box<Certificate>>);

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn authenticated(
        &mut self,
        key: u32,
        user: Box<str>,
        method: &'static str,
        public: Option<Box<PublicKey>>,
        attestation: Option<Attestation>,
    ) {
        let Some((grant, certificate)) = self.proven(key, public.as_deref()) else { return };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.authenticated = true;
        link.earned = None;
        link.follow(grant.limits, &self.config.connection, self.driver.now());
        let source = grant.source.clone();
        let upstream = grant.upstream.clone();
        let here = upstream.is_some() || self.outside.serves(&grant);
        link.grant = Some(grant);
        let ends = link.ends;
        if here {
            self.begin_idle(key);
        } else {
            link.state = LinkState::Leaving;
            self.timers.set(key, self.driver.now().after(LEAVING_TIME));
        }
        self.outside.startup_over(ends, StartupEnd::LoggedIn);
        let shown = attested(shown_key(public.as_deref(), certificate.as_deref()), attestation);
        self.report(key, What::Authenticated { user, method, key: shown, source });
        if let Some(upstream) = upstream {
            self.begin_relay(key, upstream);
        }
        self.mark_dirty(key);
    }

    /// One method of several has succeeded. What it permits is kept for the last one's answer.
    pub(super) fn partly_authenticated(
        &mut self,
        key: u32,
        user: Box<str>,
        method: &'static str,
        public: Option<Box<PublicKey>>,
        attestation: Option<Attestation>,
    ) {
        let Some((grant, certificate)) = self.proven(key, public.as_deref()) else { return };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.earned = Some(grant);
        let shown = attested(shown_key(public.as_deref(), certificate.as_deref()), attestation);
        self.report(key, What::Partial { user, method, key: shown });
    }

    /// The grant that was made for the question about this key, and the certificate in it.
    fn proven(&mut self, key: u32, public: Option<&PublicKey>) -> Option<Proven> {
        let link = self.links.get_mut(key as usize)?;
        let certificate = link.asked.take().and_then(|asked| asked.certificate);
        // The grant must belong to the very key that signed (SECURITY case 55).
        let grant = link.grant.take().filter(|g| public == g.key.as_ref());
        if grant.is_none() {
            self.close_link(key, disconnect::BY_APPLICATION, "no grant for the verified key");
        }
        grant.map(|grant| (grant, certificate))
    }

    pub(super) fn login_refused(&mut self, key: u32, failed: AuthFailed) {
        if let Some(link) = self.links.get_mut(key as usize) {
            link.attempted = true;
        }
        if failed.probe {
            return;
        }
        let AuthFailed { user, method, key: public, certificate, why, .. } = failed;
        let shown = shown_key(public.as_deref(), certificate.as_deref());
        self.report(key, What::AuthFailed { user, method, key: shown, why });
    }
}

/// How the log names a key: by its fingerprint, or all that its certificate says.
fn shown_key(key: Option<&PublicKey>, certificate: Option<&Certificate>) -> Option<String> {
    certificate.map(Certificate::log_text).or_else(|| key.map(PublicKey::fingerprint))
}

/// The same with what a security key says about its signature: a counter that falls back may be a copy's.
fn attested(shown: Option<String>, attestation: Option<Attestation>) -> Option<String> {
    let Some(attestation) = attestation else { return shown };
    let word = |is: bool, word: &'static str| if is { word } else { "" };
    let words =
        (word(attestation.touched(), ", touched"), word(attestation.verified(), ", user verified"));
    shown.map(|shown| format!("{shown} counter {}{}{}", attestation.counter, words.0, words.1))
}
