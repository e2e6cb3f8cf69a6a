//! What worker threads do for the shards of this process.

use std::sync::Arc;

use tracing::{error, info};

use super::policy::{Policy, Reason, Request};
use super::startups::Startups;
use super::workers::Execute;
use crate::base::escape;
use crate::crypto::{PrivateKey, SignatureAlgorithm, kex};
use crate::services::{Done, Job, forward, open_terminal, scp, sftp, spawn};

/// Makes the slow signatures of key exchanges.
pub trait Signer: Send + Sync {
    /// `None` when the key cannot sign; the cause has been logged.
    fn sign(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Option<Box<[u8]>>;
}

impl Signer for Arc<[PrivateKey]> {
    fn sign(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Option<Box<[u8]>> {
        let key = self.get(host_key)?;
        match key.sign(algorithm, message) {
            Ok(signature) => Some(signature.into_boxed_slice()),
            Err(why) => {
                let fingerprint = key.public().fingerprint();
                error!(fingerprint, %why, "host key {fingerprint} could not sign: {why}");
                None
            }
        }
    }
}

/// The work of a process: of the one that listens, or of one that acts for an account.
pub struct Executor {
    /// Who may log in; a process that only takes logins over has none.
    pub policy: Option<Policy>,
    /// Hears of users who do not exist.
    pub startups: Option<Arc<Startups>>,
    pub signer: Arc<dyn Signer>,
    /// The soft limit of open files that programs get; ours is raised.
    pub open_files: Option<u64>,
}

impl Execute for Executor {
    fn run(&self, job: Job) -> Done {
        match job {
            Job::FindKey { user, key, algorithm, peer, local } => {
                let Some(policy) = &self.policy else { return Done::Key(None) };
                let request = Request { user: &user, key: &key, algorithm, peer, local };
                match policy.permit(&request) {
                    Ok(mut grant) => {
                        grant.open_files = self.open_files;
                        Done::Key(Some(Box::new(grant)))
                    }
                    Err(refusal) => {
                        if let (Reason::UnknownUser, Some(startups)) =
                            (&refusal.reason, &self.startups)
                        {
                            startups.note_unknown_user(peer);
                        }
                        let user = escape(user.as_bytes());
                        let key = key.fingerprint();
                        info!(%user, key, %peer, "Key {key} does not let {user} in: {refusal}");
                        Done::Key(None)
                    }
                }
            }
            Job::Agree { group, client_public } => {
                let agreement = kex::respond_in(&group, &client_public);
                Done::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Job::Sign { host_key, algorithm, message } => {
                Done::Signature(self.signer.sign(host_key, algorithm, &message))
            }
            Job::Terminal(spec) => Done::Terminal(open_terminal(&spec)),
            Job::Spawn(spec) => Done::Spawned(spawn(&spec)),
            Job::Fs(job) => Done::Fs(Box::new(sftp::fs::run(*job))),
            Job::Scp(job) => Done::Scp(Box::new(scp::jobs::run(*job))),
            Job::Resolve { host, port } => Done::Resolved(forward::resolve(&host, port)),
            Job::ConnectPath(path) => Done::Connected(forward::connect_to_path(&path)),
        }
    }
}
