//! What PAM says of logins.

use super::*;
use crate::connection::Secret;
use crate::gateway::pam::{self, Question, Stage, Step, Task};

impl Policy {
    /// Is this the user's password, and may the account be used? `real`: nothing else speaks against the
    /// login; else PAM hears another password, and it is no whatever it says. Blocks.
    pub(super) fn ask_pam(
        &self,
        login: &Effective,
        comer: &Comer<'_>,
        password: &Secret,
        real: bool,
    ) -> Result<(), Reason> {
        let real = real && pam::fits(password.bytes());
        let fake = pam::fake(password.bytes());
        let password = if real { password.bytes() } else { &fake };
        let task = Task::Login { password, empty_permitted: login.permit_empty_passwords };
        let outcome = ask(login, comer, task);
        if real { outcome } else { Err(Reason::Secrets) }
    }

    /// May this account be used? Its user has shown who he is. Blocks.
    ///
    /// # Errors
    /// It may not.
    pub fn check_account(&self, comer: &Comer<'_>, by_password: bool) -> Result<(), Reason> {
        let entry = self.directory.find(comer.user).ok().flatten();
        let groups = entry.as_ref().map_or(&[][..], |entry| &entry.groups);
        let login = self.effective(comer, entry.is_some(), groups);
        // Whoever was asked about the password was asked about the account.
        if by_password && login.asks_pam() {
            return Ok(());
        }
        ask(&login, comer, Task::Account)
    }
}

fn ask(login: &Effective, comer: &Comer<'_>, task: Task<'_>) -> Result<(), Reason> {
    let address = comer.peer.ip().to_canonical().to_string();
    // One with a NUL is nobody's.
    let user = comer.user.split('\0').next().unwrap_or_default();
    let host = comer.host.unwrap_or(&address);
    let question = Question { service: &login.pam_service, user, host, task };
    pam::ask(&question).map_err(|Step { stage, why }| {
        let (service, why) = (login.pam_service.clone(), escape(why.as_bytes()).to_string());
        match stage {
            Stage::Authenticate => Reason::PamPassword { service, why },
            Stage::Account => Reason::PamAccount { service, why },
            Stage::Start | Stage::Process => Reason::PamFailed { service, why },
        }
    })
}
