//! What PAM says of logins.

use super::*;
use crate::connection::Secret;
use crate::gateway::pam::{self, Dialogue, Known, Question, Seat, Stage, Step, Task, Verdict};

impl Policy {
    /// Is this the user's password, and may the account be used? `real`: nothing else speaks against the
    /// login; else PAM hears another password, and it is no whatever it says. Blocks.
    pub(super) fn ask_pam(
        &self,
        login: &Effective,
        comer: &Comer<'_>,
        password: &Secret,
        (real, seat): (bool, &Seat),
    ) -> Result<(), Reason> {
        let real = real && pam::fits(password.bytes());
        let fake = pam::fake(password.bytes());
        let password = if real { password.bytes() } else { &fake };
        let task = Task::Login { password, empty_permitted: login.permit_empty_passwords };
        let mut known = seat.known();
        let outcome = ask(login, comer, task, &mut known);
        if real {
            return outcome;
        }
        (known.dialogue, known.verdict) = (None, None);
        Err(Reason::Secrets)
    }

    /// May this account be used? Its user has shown who he is. Answers what he is to be told. Blocks.
    ///
    /// # Errors
    /// It may not.
    pub fn check_account(&self, comer: &Comer<'_>, seat: &Seat) -> (Result<(), Reason>, String) {
        let mut known = seat.known();
        // Whoever was asked about the password was asked about the account.
        if known.dialogue.is_none() {
            let entry = self.directory.find(comer.user).ok().flatten();
            let groups = entry.as_ref().map_or(&[][..], |entry| &entry.groups);
            let login = self.effective(comer, entry.is_some(), groups);
            let outcome = ask(&login, comer, Task::Account, &mut known);
            if outcome.is_err() {
                return (outcome, known.take_text());
            }
        }
        (Ok(()), known.take_text())
    }
}

/// What is known then is kept.
fn ask(
    login: &Effective,
    comer: &Comer<'_>,
    task: Task<'_>,
    known: &mut Known,
) -> Result<(), Reason> {
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let address = ip(comer.peer).to_string();
    // One with a NUL is nobody's.
    let user = comer.user.split('\0').next().unwrap_or_default();
    let host = comer.host.unwrap_or(&address);
    let (peer, local) = (comer.peer, comer.local);
    let connection = format!("{address} {} {} {}", peer.port(), ip(local), local.port());
    let service = &login.pam_service;
    let question = Question { service, user, host, connection: &connection, task };
    let answer = if known.enough { Err(enough()) } else { Dialogue::begin(question) };
    let judged = answer.and_then(|(dialogue, reply)| Ok((dialogue, pam::judged(reply)?)));
    let (dialogue, verdict) = match judged {
        Ok((dialogue, verdict)) => (Some(dialogue), verdict),
        Err(step) => (None, Verdict::no(step)),
    };
    known.enough |= verdict.enough;
    let outcome = verdict.outcome.clone();
    known.dialogue = dialogue.filter(|_| outcome.is_ok());
    known.verdict = Some(verdict);
    outcome.map_err(|Step { stage, why }| {
        let (service, why) = (login.pam_service.clone(), escape(why.as_bytes()).to_string());
        match stage {
            Stage::Authenticate => Reason::PamPassword { service, why },
            Stage::Account => Reason::PamAccount { service, why },
            Stage::Start | Stage::Process | Stage::Credentials | Stage::Session => {
                Reason::PamFailed { service, why }
            }
        }
    })
}

fn enough() -> Step {
    let why = "its modules want no more tries".to_owned();
    Step { stage: Stage::Authenticate, why }
}
