//! What goes to a process that asks PAM, and what comes back.

use zeroize::Zeroizing;

use crate::limits::{PAM_QUESTION_BYTES_MAX, PAM_REASON_BYTES_MAX};
use crate::wire::{Malformed, Reader, Writer};

/// About one login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    pub service: &'a str,
    pub user: &'a str,
    /// The client's name, or its address.
    pub host: &'a str,
    pub task: Task<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task<'a> {
    /// Is PAM there at all?
    Probe,
    /// Is this the user's password, and may the account be used?
    Login { password: &'a [u8], empty_permitted: bool },
    /// May it be used, by whoever has shown otherwise who he is?
    Account,
}

/// Never shows a password.
impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Task::Probe => "Probe",
            Task::Login { .. } => "Login",
            Task::Account => "Account",
        })
    }
}

/// What was begun when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Whatever comes before PAM is asked.
    Process,
    Start,
    Authenticate,
    Account,
}

/// Where PAM said no, and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    pub why: String,
}

const ALLOWED: u8 = 0;
const STAGES: [Stage; 4] = [Stage::Process, Stage::Start, Stage::Authenticate, Stage::Account];

impl<'a> Question<'a> {
    /// `None`: it is longer than questions are.
    pub fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let (task, password) = match self.task {
            Task::Probe => (0, &[][..]),
            Task::Account => (1, &[][..]),
            Task::Login { password, empty_permitted } => (2 + u8::from(empty_permitted), password),
        };
        let mut bytes = Zeroizing::new(vec![0; PAM_QUESTION_BYTES_MAX]);
        let mut out = Writer::new(&mut bytes);
        out.byte(task).ok()?;
        for part in [self.service.as_bytes(), self.user.as_bytes(), self.host.as_bytes(), password]
        {
            out.string(part).ok()?;
        }
        let len = out.written().len();
        bytes.truncate(len);
        Some(bytes)
    }

    /// # Errors
    /// It is no question.
    pub fn decode(bytes: &'a [u8]) -> Result<Question<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let max = PAM_QUESTION_BYTES_MAX as u32;
        let task = reader.byte()?;
        let (service, user) = (reader.utf8(max)?, reader.utf8(max)?);
        let (host, password) = (reader.utf8(max)?, reader.string(max)?);
        let task = match task {
            0 => Task::Probe,
            1 => Task::Account,
            2 | 3 => Task::Login { password, empty_permitted: task == 3 },
            _ => return Err(Malformed::Number),
        };
        reader.end()?;
        Ok(Question { service, user, host, task })
    }
}

/// The answer, as it travels.
pub fn encode(answer: &Result<(), Step>) -> Vec<u8> {
    match answer {
        Ok(()) => vec![ALLOWED],
        Err(Step { stage, why }) => {
            let stage = STAGES.iter().zip(1..).find(|(known, _)| *known == stage);
            let mut bytes = vec![stage.map_or(1, |(_, number)| number)];
            bytes.extend(why.bytes().take(PAM_REASON_BYTES_MAX));
            bytes
        }
    }
}

/// Whatever is no answer is a no.
///
/// # Errors
/// What PAM said no to.
pub fn decode(bytes: &[u8]) -> Result<(), Step> {
    let no = |stage, why: &[u8]| {
        let why = why.get(..PAM_REASON_BYTES_MAX).unwrap_or(why);
        Err(Step { stage, why: String::from_utf8_lossy(why).into_owned() })
    };
    match bytes {
        [ALLOWED] => Ok(()),
        [number, why @ ..] => {
            let stage = usize::from(*number).checked_sub(1).and_then(|at| STAGES.get(at));
            match stage {
                Some(stage) => no(*stage, why),
                None => no(Stage::Process, b"it answers what nobody understands"),
            }
        }
        [] => no(Stage::Process, b"it does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_arrive_as_they_were_sent() {
        for task in [
            Task::Probe,
            Task::Account,
            Task::Login { password: b"", empty_permitted: true },
            Task::Login { password: b"pass\xffword", empty_permitted: false },
        ] {
            let question = Question { service: "sshd", user: "ann", host: "192.0.2.1", task };
            let bytes = question.encode().expect("room");
            assert_eq!(Question::decode(&bytes), Ok(question));
            for len in 0..bytes.len() {
                assert!(Question::decode(&bytes[..len]).is_err(), "{len}");
            }
        }
        for bytes in [&[4; 17][..], &[[4].as_slice(), &[0; 16]].concat(), &[0; 18]] {
            assert!(Question::decode(bytes).is_err(), "{bytes:?}");
        }
        let password = &[b'x'; PAM_QUESTION_BYTES_MAX];
        let task = Task::Login { password, empty_permitted: false };
        assert_eq!(Question { service: "s", user: "u", host: "h", task }.encode(), None);
        assert!(!format!("{task:?}").contains("120"), "no password in a log");
        assert_eq!(decode(&encode(&Ok(()))), Ok(()));
        for stage in STAGES {
            let no = Err(Step { stage, why: "no".to_owned() });
            assert_eq!(decode(&encode(&no)), no);
        }
    }

    #[test]
    fn what_is_no_answer_is_a_no() {
        for bytes in [&[][..], &[0, 0], &[9], &[255, 0], &[1]] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        let long = Err(Step { stage: Stage::Account, why: "x".repeat(2 * PAM_REASON_BYTES_MAX) });
        assert_eq!(decode(&encode(&long)).err().map(|no| no.why.len()), Some(PAM_REASON_BYTES_MAX));
    }
}
