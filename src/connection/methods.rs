//! The methods of RFC 4252 §5 that a server offers, and chains of them.

use crate::limits::AUTH_CHAINS_MAX;
use crate::wire::auth::{METHOD_INTERACTIVE, METHOD_PASSWORD, METHOD_PUBLIC_KEY};

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    PublicKey,
    Password,
    KeyboardInteractive,
}

impl Method {
    /// Every method, in the order in which they are offered.
    pub const ALL: [Method; 3] = [Method::PublicKey, Method::Password, Method::KeyboardInteractive];

    pub const fn name(self) -> &'static str {
        match self {
            Method::PublicKey => METHOD_PUBLIC_KEY,
            Method::Password => METHOD_PASSWORD,
            Method::KeyboardInteractive => METHOD_INTERACTIVE,
        }
    }

    pub fn from_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// Lists of methods: whoever has got through one of them, in its order, is logged in
/// (AuthenticationMethods). At most [`AUTH_CHAINS_MAX`] count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains(Vec<Box<[Method]>>);

impl Chains {
    /// Empty lists do not count: nobody is let in without a method.
    pub fn new(chains: impl IntoIterator<Item = Box<[Method]>>) -> Chains {
        let chains = chains.into_iter().filter(|chain| !chain.is_empty());
        Chains(chains.take(AUTH_CHAINS_MAX).collect())
    }

    /// Any one of these is enough.
    pub fn any_of(methods: impl IntoIterator<Item = Method>) -> Chains {
        Chains::new(methods.into_iter().map(|method| [method].into()))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[Method]> {
        self.0.iter().map(|chain| &**chain)
    }

    /// No chain is left: nobody can log in.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How far one login has come in each chain.
#[derive(Clone, Debug, Default)]
pub struct Progress([u8; AUTH_CHAINS_MAX]);

/// What a method that has succeeded comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was not asked for now.
    NotNext,
    /// More is asked.
    Partial,
    /// The login is over.
    Over,
}

impl Progress {
    /// Methods that may go on, each once.
    pub fn next(&self, chains: &Chains) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(|method| self.allows(chains, *method))
    }

    pub fn allows(&self, chains: &Chains, method: Method) -> bool {
        let mut next = chains.0.iter().zip(self.0).filter_map(|(chain, at)| chain.get(at as usize));
        next.any(|next| *next == method)
    }

    /// A method has succeeded: every chain that it is next in goes on.
    pub fn advance(&mut self, chains: &Chains, method: Method) -> Step {
        let mut step = Step::NotNext;
        for (chain, at) in chains.0.iter().zip(&mut self.0) {
            if chain.get(*at as usize) != Some(&method) {
                continue;
            }
            *at = at.saturating_add(1);
            if *at as usize >= chain.len() {
                return Step::Over;
            }
            step = Step::Partial;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(text: &str) -> Chains {
        let method = |name| Method::from_name(name).expect("a method");
        Chains::new(text.split(' ').map(|chain| chain.split(',').map(method).collect()))
    }

    #[test]
    fn a_chain_is_walked_in_order() {
        let chains = chains("publickey,publickey");
        let mut progress = Progress::default();
        assert_eq!(progress.advance(&chains, Method::PublicKey), Step::Partial);
        assert!(progress.allows(&chains, Method::PublicKey));
        assert_eq!(progress.advance(&chains, Method::PublicKey), Step::Over);
    }

    #[test]
    fn each_chain_is_walked_by_itself() {
        let chains = chains("publickey,password publickey,keyboard-interactive,password");
        let mut progress = Progress::default();
        assert_eq!(progress.advance(&chains, Method::Password), Step::NotNext);
        assert_eq!(progress.advance(&chains, Method::PublicKey), Step::Partial);
        let next = progress.next(&chains).collect::<Vec<_>>();
        assert_eq!(next, [Method::Password, Method::KeyboardInteractive]);
        assert!(!progress.allows(&chains, Method::PublicKey));
        let mut other = progress.clone();
        assert_eq!(progress.advance(&chains, Method::Password), Step::Over);
        assert_eq!(other.advance(&chains, Method::KeyboardInteractive), Step::Partial);
        assert_eq!(other.advance(&chains, Method::Password), Step::Over);
    }

    #[test]
    fn no_chain_lets_nobody_in() {
        let nothing = Chains::new([Box::default()]);
        assert!(nothing.is_empty());
        let mut progress = Progress::default();
        assert_eq!(progress.next(&nothing).count(), 0);
        assert_eq!(progress.advance(&nothing, Method::PublicKey), Step::NotNext);
    }
}
