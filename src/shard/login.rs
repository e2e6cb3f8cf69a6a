//! Logins: what the protocol says of them, and what is then permitted.

use super::link::Asked;
use super::report::KeyTold;
use super::*;
use crate::connection::{AuthFailed, Proven};
use crate::crypto::{Attestation, Certificate, PublicKey, ShownKey};
use crate::services::{Command, Grant};
use crate::wire::auth::{METHOD_INTERACTIVE, METHOD_PUBLIC_KEY_HOST_BOUND};
use crate::wire::number::disconnect;

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn authenticated(&mut self, key: u32, user: Box<str>, proved: Proven) {
        let Some((grant, shown)) = self.proven(key, &proved) else { return };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.authenticated = true;
        link.earned = None;
        link.follow(grant.limits, &self.config.connection, self.driver.now());
        let source = grant.source.clone();
        let upstream = grant.upstream.clone();
        let here = self.outside.serves(&grant);
        link.grant = Some(grant);
        let (ends, since) = (link.ends, link.since);
        if here {
            link.proofs = Vec::new();
            self.begin_idle(key);
            self.command(key, Command::TellHostKeys);
        } else {
            link.state = LinkState::Leaving;
            // A peer may say nothing for long: it is not waited for.
            if link.inbound.armed {
                let token = Token { key, generation: link.generation, tag: TAG_RECV };
                self.cancel(token);
            }
            self.timers.set(key, self.driver.now().after(LEAVING_TIME));
        }
        self.outside.startup_over(ends, StartupEnd::LoggedIn);
        let method = proved.method;
        let after = self.now().since(since);
        self.report(key, What::Authenticated { user, method, key: shown, source, after });
        if let Some(upstream) = upstream.filter(|_| here) {
            self.begin_relay(key, upstream);
        }
        self.mark_dirty(key);
    }

    /// One method of several has succeeded. What it permits is kept for the last one's answer.
    pub(super) fn partly_authenticated(&mut self, key: u32, user: Box<str>, proved: Proven) {
        let Some((grant, shown)) = self.proven(key, &proved) else { return };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.earned = Some(grant);
        let method = proved.method;
        self.report(key, What::Partial { user, method, key: shown });
    }

    /// The grant that was made for the question about this key, and the key as the log has it. What
    /// was proved is noted.
    fn proven(&mut self, key: u32, proved: &Proven) -> Option<(Arc<Grant>, Option<Box<KeyTold>>)> {
        let link = self.links.get_mut(key as usize)?;
        let (public, asked) = (proved.key.as_deref(), link.asked.take());
        // The grant must belong to the very key that signed (SECURITY case 55).
        let grant = link.grant.take().filter(|g| public == g.key.as_ref());
        let Some(grant) = grant else {
            self.close_link(key, disconnect::BY_APPLICATION, "no grant for the verified key");
            return None;
        };
        let certificate = asked.as_ref().and_then(|asked| asked.certificate.as_deref());
        let attestation = proved.verified.as_ref().and_then(|verified| verified.attestation);
        let shown = attested(shown_key(public, certificate), attestation);
        link.proofs.push(proof_of(proved, asked));
        Some((grant, shown))
    }

    pub(super) fn login_refused(&mut self, key: u32, failed: AuthFailed) {
        if let Some(link) = self.links.get_mut(key as usize) {
            link.attempted = true;
        }
        let AuthFailed { user, method, key: public, certificate, why, probe, last, .. } = failed;
        let exceeded = last.then(|| What::TriesExceeded { user: user.clone() });
        if !probe {
            let shown = shown_key(public.as_deref(), certificate.as_deref());
            self.report(key, What::AuthFailed { user, method, key: shown, why });
        } else if let Some(why) = why {
            // No failed login yet, but the client never gets to sign with it.
            let (what, why) = (format!("a key for {user}"), why.to_owned());
            self.report(key, What::Refused { what, why });
        }
        if let Some(exceeded) = exceeded {
            self.report(key, exceeded);
        }
    }

    /// Nobody hears any more whether what was typed is right. Who guesses so late is told of like who guesses early.
    pub(super) fn tell_unheard(&mut self, key: u32) {
        let asked = self.links.get(key as usize).and_then(|link| link.conn.secrets_asked());
        let asked = asked.map(|(user, method)| (user.into(), method.name().into()));
        if let Some((user, method)) = asked {
            self.report(key, What::AuthFailed { user, method, key: None, why: None });
        }
    }
}

/// For whoever does not take our word for it. `asked`: what the key was asked about in.
pub(super) fn proof_of(proven: &Proven, asked: Option<Asked>) -> Proof {
    match (&proven.key, &proven.verified, asked) {
        (Some(key), Some(verified), Some(asked)) => Proof::Key {
            shown: ShownKey {
                key: key.clone(),
                algorithm: asked.algorithm,
                certificate: asked.certificate,
            },
            host_bound: proven.method == METHOD_PUBLIC_KEY_HOST_BOUND,
            signature: verified.signature.clone(),
        },
        _ => Proof::Secrets { interactive: proven.method == METHOD_INTERACTIVE },
    }
}

fn shown_key(key: Option<&PublicKey>, certificate: Option<&Certificate>) -> Option<Box<KeyTold>> {
    key.map(|key| Box::new(KeyTold::new(key, certificate)))
}

/// The same with what a security key says about its signature: a counter that falls back may be a copy's.
fn attested(
    mut shown: Option<Box<KeyTold>>,
    attestation: Option<Attestation>,
) -> Option<Box<KeyTold>> {
    let (Some(attestation), Some(key)) = (attestation, &mut shown) else { return shown };
    let word = |is: bool, word: &'static str| if is { word } else { "" };
    let words =
        (word(attestation.touched(), ", touched"), word(attestation.verified(), ", user verified"));
    key.text += &format!(" counter {}{}{}", attestation.counter, words.0, words.1);
    shown
}
