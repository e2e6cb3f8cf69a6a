//! What PAM says of logins.

use super::secrets::{Regard, is_kept_out};
use super::*;
use crate::connection::{Questions, Secret};
use crate::gateway::pam::{
    self, Dialogue, Known, Order, Prompts, Question, Reply, Seat, Stage, Step, Task, Verdict,
};
use crate::limits::PAM_MESSAGE_BYTES_MAX;

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

    /// Goes on with a login in the words of PAM's modules; without answers it begins. Whoever may not log in
    /// has the same conversation, with answers that are nobody's. Blocks.
    ///
    /// # Errors
    /// It is over, and a no.
    pub fn converse(
        &self,
        comer: &Comer<'_>,
        answers: Option<Vec<Secret>>,
        seat: &Seat,
    ) -> Result<Talked, Box<Refusal>> {
        let (user, target) = self.split(comer.user);
        let comer = &Comer { user, ..*comer };
        let regard = self.regard(comer, target);
        let refuse = |reason| Err(Box::new(Refusal { reason, notes: Vec::new() }));
        let Regard { login, verdict, .. } = &regard;
        if !login.talks() || !login.offers(Method::KeyboardInteractive) {
            return refuse(Reason::Secrets);
        }
        let is_root = |account: &Account| is_kept_out(account, login);
        let real = matches!(verdict, Ok(account) if !is_root(account));
        let told = talk(login, comer, answers, (real, &mut seat.known()));
        if let Ok(Some(asks)) = told {
            return Ok(Talked::Asks(asks));
        }
        match (verdict, told) {
            (Err(reason), _) => refuse(reason.clone()),
            (Ok(account), _) if is_root(account) => refuse(Reason::RootPassword),
            (_, Err(reason)) => refuse(reason),
            (Ok(account), Ok(_)) => {
                let options = Options { no_touch: true, ..Options::default() };
                let found = Found { options, source: "PAM".to_owned() };
                let account = account.clone();
                let grant = self.let_in(account, regard, found, Method::KeyboardInteractive);
                grant.map(Box::new).map(Talked::In)
            }
        }
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

/// What comes of one round.
#[derive(Debug)]
pub enum Talked {
    /// This is to be asked, or only told.
    Asks(Questions),
    In(Box<Grant>),
}

/// One round; `None`: all is said, and it is him.
fn talk(
    login: &Effective,
    comer: &Comer<'_>,
    answers: Option<Vec<Secret>>,
    (real, known): (bool, &mut Known),
) -> Result<Option<Questions>, Reason> {
    let said = |step| reason_of(login, step);
    let (dialogue, reply) = match (answers, known.talk.take(), known.no.take()) {
        (None, ..) if known.enough => return Err(said(enough())),
        (None, ..) => {
            let task = Task::Talk { empty_permitted: login.permit_empty_passwords };
            begin(login, comer, task).map_err(said)?
        }
        (Some(_), _, Some(step)) => return Err(said(step)),
        (Some(answers), Some(dialogue), None) => {
            let plain = |answer: Secret| match real && pam::fits(answer.bytes()) {
                true => answer,
                false => Secret::new(pam::fake(answer.bytes())),
            };
            let order = Order::Answers(answers.into_iter().map(plain).collect());
            let reply = dialogue.ask(&order).map_err(said)?;
            (dialogue, reply)
        }
        (Some(_), None, None) => return Err(Reason::Secrets),
    };
    let verdict = match reply {
        Reply::Prompts(prompts) => {
            known.talk = Some(dialogue);
            return Ok(Some(questions(prompts)));
        }
        reply => pam::judged(reply).map_err(said)?,
    };
    known.enough |= verdict.enough;
    match verdict.outcome.clone() {
        Err(step) if !verdict.text.is_empty() => {
            known.no = Some(step);
            let prompts = Prompts { instruction: verdict.text, prompts: Vec::new() };
            Ok(Some(questions(prompts)))
        }
        Err(step) => Err(said(step)),
        Ok(()) if !real => Err(Reason::Secrets),
        Ok(()) => {
            (known.dialogue, known.verdict) = (Some(dialogue), Some(verdict));
            Ok(None)
        }
    }
}

fn questions(Prompts { instruction, prompts }: Prompts) -> Questions {
    let prompts = prompts.into_iter().map(|(text, echo)| (text.into(), echo)).collect();
    let instruction = pam::cut(&instruction, PAM_MESSAGE_BYTES_MAX).into();
    Questions { name: Box::default(), instruction, prompts }
}

/// What is known then is kept.
fn ask(
    login: &Effective,
    comer: &Comer<'_>,
    task: Task<'_>,
    known: &mut Known,
) -> Result<(), Reason> {
    let answer = if known.enough { Err(enough()) } else { begin(login, comer, task) };
    let judged = answer.and_then(|(dialogue, reply)| Ok((dialogue, pam::judged(reply)?)));
    let (dialogue, verdict) = match judged {
        Ok((dialogue, verdict)) => (Some(dialogue), verdict),
        Err(step) => (None, Verdict::no(step)),
    };
    known.enough |= verdict.enough;
    let outcome = verdict.outcome.clone();
    known.dialogue = dialogue.filter(|_| outcome.is_ok());
    known.verdict = Some(verdict);
    outcome.map_err(|step| reason_of(login, step))
}

fn begin(login: &Effective, comer: &Comer<'_>, task: Task<'_>) -> Result<(Dialogue, Reply), Step> {
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let address = ip(comer.peer).to_string();
    // One with a NUL is nobody's.
    let user = comer.user.split('\0').next().unwrap_or_default();
    let host = comer.host.unwrap_or(&address);
    let (peer, local) = (comer.peer, comer.local);
    let connection = format!("{address} {} {} {}", peer.port(), ip(local), local.port());
    let service = &login.pam_service;
    Dialogue::begin(Question { service, user, host, connection: &connection, task })
}

fn reason_of(login: &Effective, Step { stage, why }: Step) -> Reason {
    let (service, why) = (login.pam_service.clone(), escape(why.as_bytes()).to_string());
    match stage {
        Stage::Authenticate => Reason::PamPassword { service, why },
        Stage::Account => Reason::PamAccount { service, why },
        Stage::Start | Stage::Process | Stage::Credentials | Stage::Session => {
            Reason::PamFailed { service, why }
        }
    }
}

fn enough() -> Step {
    let why = "its modules want no more tries".to_owned();
    Step { stage: Stage::Authenticate, why }
}
