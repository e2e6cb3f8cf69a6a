//! What goes to a process that asks PAM, and what comes back: one message a datagram of a socket pair.

use zeroize::Zeroizing;

use crate::connection::Secret;
use crate::gateway::parcel::put;
use crate::limits::{
    AUTH_PROMPTS_MAX, ENV_COUNT_MAX, NAME_BYTES_MAX, PAM_MESSAGE_BYTES_MAX, PAM_PASSWORD_BYTES_MAX,
    PAM_REASON_BYTES_MAX, PAM_TEXT_BYTES_MAX, PARCEL_BYTES_MAX, USER_BYTES_MAX,
};
use crate::wire::{Malformed, Reader};

/// About one login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    pub service: &'a str,
    pub user: &'a str,
    /// The client's name, or its address.
    pub host: &'a str,
    /// The ends of the connection, as sessions have them in SSH_CONNECTION.
    pub connection: &'a str,
    pub task: Task<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task<'a> {
    /// Is PAM there, and does it know the service?
    Probe,
    /// Is this the user's password, and may the account be used?
    Login { password: &'a [u8], empty_permitted: bool },
    /// The same, in the modules' own words: whatever they ask is passed on.
    Talk { empty_permitted: bool },
    /// May it be used, by whoever has shown otherwise who he is?
    Account,
}

/// Never shows a password.
impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Task::Probe => "Probe",
            Task::Login { .. } => "Login",
            Task::Talk { .. } => "Talk",
            Task::Account => "Account",
        })
    }
}

/// To such a process.
#[derive(Debug)]
pub enum Order<'a> {
    /// First, and once.
    Begin(Question<'a>),
    /// What was said to [`Reply::Prompts`], one for each.
    Answers(Vec<Secret>),
    /// The login is over: open a session, as this account.
    Open { uid: u32, gid: u32, open_files: u64, auth_info: &'a [u8] },
    /// Start the process that acts for the account, with these words and variables; its end of a socket
    /// pair is attached. One before ends first. The session is closed when the last has ended.
    Start { gid: u32, words: Vec<Vec<u8>>, variables: Vec<Vec<u8>> },
    /// End that process at once.
    Kill,
    /// Whether another one is about to be started, by the program that has the gateway's place: the session
    /// is not closed until then, as long as somebody is there who could.
    Expect(bool),
    /// Whatever is started from now on is this program, which is attached.
    Program,
}

/// From it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Verdict(Verdict),
    /// Modules want to know this. Without any prompt it is only to be shown.
    Prompts(Prompts),
    Opened(Opened),
}

/// What modules say and ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    pub instruction: String,
    /// Each prompt, and whether what is typed may be shown.
    pub prompts: Vec<(String, bool)>,
}

/// What PAM says about a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Result<(), Step>,
    /// What modules have told the user.
    pub text: String,
    /// The password has expired: he gets in to change it, and for nothing else.
    pub must_change: bool,
    /// Modules want no more tries (PAM_MAXTRIES).
    pub enough: bool,
}

impl Verdict {
    pub const fn no(step: Step) -> Verdict {
        Verdict { outcome: Err(step), text: String::new(), must_change: false, enough: false }
    }
}

/// What came of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub outcome: Result<(), Step>,
    /// What modules have told the user.
    pub text: String,
    /// `NAME=VALUE`, each.
    pub variables: Vec<Vec<u8>>,
}

/// What was begun when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Whatever comes before PAM is asked.
    Process,
    Start,
    Authenticate,
    Account,
    Credentials,
    Session,
}

/// Where PAM said no, and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    pub why: String,
}

const STAGES: [Stage; 6] = [
    Stage::Process,
    Stage::Start,
    Stage::Authenticate,
    Stage::Account,
    Stage::Credentials,
    Stage::Session,
];

impl<'a> Order<'a> {
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Grown once, so that no copy of a secret is left behind.
        let mut out = Zeroizing::new(Vec::with_capacity(self.bytes_max()));
        match self {
            Order::Begin(question) => {
                out.push(1);
                question.encode(&mut out);
            }
            Order::Answers(answers) => {
                out.push(2);
                out.extend((answers.len() as u32).to_be_bytes());
                answers.iter().for_each(|answer| put(&mut out, answer.bytes()));
            }
            Order::Open { uid, gid, open_files, auth_info } => {
                out.push(3);
                out.extend(uid.to_be_bytes());
                out.extend(gid.to_be_bytes());
                out.extend(open_files.to_be_bytes());
                put(&mut out, auth_info);
            }
            Order::Start { gid, words, variables } => {
                out.push(4);
                out.extend(gid.to_be_bytes());
                put_all(&mut out, words);
                put_all(&mut out, variables);
            }
            Order::Kill => out.push(5),
            Order::Expect(expected) => out.extend([6, u8::from(*expected)]),
            Order::Program => out.push(7),
        }
        out
    }

    fn bytes_max(&self) -> usize {
        let each = |parts: &[usize]| parts.iter().map(|len| len + 4).sum::<usize>();
        64 + match self {
            Order::Begin(Question { service, user, host, connection, task }) => {
                let password =
                    if let Task::Login { password, .. } = task { password.len() } else { 0 };
                each(&[service.len(), user.len(), host.len(), connection.len(), password])
            }
            Order::Answers(answers) => answers.iter().map(|answer| answer.bytes().len() + 4).sum(),
            _ => 0,
        }
    }

    /// # Errors
    /// It is no order.
    pub fn decode(bytes: &'a [u8]) -> Result<Order<'a>, Malformed> {
        let mut r = Reader::new(bytes);
        let order = match r.byte()? {
            1 => Order::Begin(Question::decode(&mut r)?),
            2 => {
                let count = count(&mut r, AUTH_PROMPTS_MAX as usize)?;
                let answer = |_| r.string(PAM_PASSWORD_BYTES_MAX as u32).map(Secret::copy);
                Order::Answers((0..count).map(answer).collect::<Result<_, _>>()?)
            }
            3 => Order::Open {
                uid: r.uint32()?,
                gid: r.uint32()?,
                open_files: r.uint64()?,
                auth_info: r.string(PARCEL_BYTES_MAX)?,
            },
            4 => Order::Start { gid: r.uint32()?, words: all(&mut r)?, variables: all(&mut r)? },
            5 => Order::Kill,
            6 => Order::Expect(flag(&mut r)?),
            7 => Order::Program,
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(order)
    }
}

impl<'a> Question<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let (task, password) = match self.task {
            Task::Probe => (0, &[][..]),
            Task::Account => (1, &[][..]),
            Task::Login { password, empty_permitted } => (2 + u8::from(empty_permitted), password),
            Task::Talk { empty_permitted } => (4 + u8::from(empty_permitted), &[][..]),
        };
        out.push(task);
        let texts = [self.service, self.user, self.host, self.connection];
        texts.iter().for_each(|text| put(out, text.as_bytes()));
        put(out, password);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Question<'a>, Malformed> {
        let task = r.byte()?;
        let (service, user) = (r.utf8(NAME_BYTES_MAX)?, r.utf8(USER_BYTES_MAX)?);
        let (host, connection) = (r.utf8(USER_BYTES_MAX)?, r.utf8(NAME_BYTES_MAX * 4)?);
        let password = r.string(PAM_PASSWORD_BYTES_MAX as u32)?;
        let task = match task {
            0 => Task::Probe,
            1 => Task::Account,
            2 | 3 => Task::Login { password, empty_permitted: task == 3 },
            4 | 5 => Task::Talk { empty_permitted: task == 5 },
            _ => return Err(Malformed::Number),
        };
        Ok(Question { service, user, host, connection, task })
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Reply::Verdict(Verdict { outcome, text, must_change, enough }) => {
                out.push(1);
                out.extend([*must_change, *enough].map(u8::from));
                put_outcome(&mut out, outcome);
                put_text(&mut out, text, PAM_TEXT_BYTES_MAX);
            }
            Reply::Prompts(Prompts { instruction, prompts }) => {
                out.push(2);
                put_text(&mut out, instruction, PAM_MESSAGE_BYTES_MAX);
                out.extend((prompts.len() as u32).to_be_bytes());
                for (text, echo) in prompts {
                    put_text(&mut out, text, PAM_MESSAGE_BYTES_MAX);
                    out.push(u8::from(*echo));
                }
            }
            Reply::Opened(Opened { outcome, text, variables }) => {
                out.push(3);
                put_outcome(&mut out, outcome);
                put_text(&mut out, text, PAM_TEXT_BYTES_MAX);
                put_all(&mut out, variables);
            }
        }
        out
    }

    /// # Errors
    /// It is no reply.
    pub fn decode(bytes: &[u8]) -> Result<Reply, Malformed> {
        let mut r = Reader::new(bytes);
        let reply = match r.byte()? {
            1 => {
                let (must_change, enough) = (flag(&mut r)?, flag(&mut r)?);
                let outcome = outcome(&mut r)?;
                let text = r.utf8(PAM_TEXT_BYTES_MAX as u32)?.to_owned();
                Reply::Verdict(Verdict { outcome, text, must_change, enough })
            }
            2 => {
                let text =
                    |r: &mut Reader<'_>| r.utf8(PAM_MESSAGE_BYTES_MAX as u32).map(str::to_owned);
                let instruction = text(&mut r)?;
                let mut prompts = Vec::new();
                for _ in 0..count(&mut r, AUTH_PROMPTS_MAX as usize)? {
                    prompts.push((text(&mut r)?, flag(&mut r)?));
                }
                Reply::Prompts(Prompts { instruction, prompts })
            }
            3 => Reply::Opened(Opened {
                outcome: outcome(&mut r)?,
                text: r.utf8(PAM_TEXT_BYTES_MAX as u32)?.to_owned(),
                variables: all(&mut r)?,
            }),
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(reply)
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Result<(), Step>) {
    let (number, why) = match outcome {
        Ok(()) => (0, ""),
        Err(Step { stage, why }) => {
            let at = STAGES.iter().position(|known| known == stage).unwrap_or(0);
            (at as u8 + 1, &**why)
        }
    };
    out.push(number);
    put_text(out, why, PAM_REASON_BYTES_MAX);
}

fn outcome(r: &mut Reader<'_>) -> Result<Result<(), Step>, Malformed> {
    let number = r.byte()?;
    let why = r.utf8(PAM_REASON_BYTES_MAX as u32)?.to_owned();
    let Some(at) = usize::from(number).checked_sub(1) else { return Ok(Ok(())) };
    let stage = *STAGES.get(at).ok_or(Malformed::Number)?;
    Ok(Err(Step { stage, why }))
}

/// As much of it as there is room for.
fn put_text(out: &mut Vec<u8>, text: &str, bytes_max: usize) {
    put(out, super::cut(text, bytes_max).as_bytes());
}

/// Empty ones too.
fn put_all(out: &mut Vec<u8>, items: &[Vec<u8>]) {
    let items = items.get(..ENV_COUNT_MAX).unwrap_or(items);
    out.extend((items.len() as u32).to_be_bytes());
    items.iter().for_each(|item| put(out, item));
}

fn all(r: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let count = count(r, ENV_COUNT_MAX)?;
    (0..count).map(|_| r.string(PARCEL_BYTES_MAX).map(<[u8]>::to_vec)).collect()
}

fn flag(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range),
    }
}

fn count(r: &mut Reader<'_>, most: usize) -> Result<usize, Malformed> {
    let count = r.uint32()? as usize;
    if count <= most { Ok(count) } else { Err(Malformed::OverLimit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let question = |task| Question {
            service: "sshd",
            user: "ann",
            host: "192.0.2.1",
            connection: "192.0.2.1 50022 192.0.2.7 22",
            task,
        };
        let tasks = [
            Task::Probe,
            Task::Account,
            Task::Login { password: b"", empty_permitted: true },
            Task::Login { password: b"pass\xffword", empty_permitted: false },
            Task::Talk { empty_permitted: true },
        ];
        let mut orders: Vec<Order<'_>> =
            tasks.into_iter().map(|task| Order::Begin(question(task))).collect();
        orders.extend([
            Order::Answers(vec![Secret::copy(b"secret"), Secret::copy(b"")]),
            Order::Open { uid: 7, gid: 8, open_files: 1024, auth_info: b"password\n" },
            Order::Start { gid: 8, words: vec![b"--uid".to_vec()], variables: Vec::new() },
            Order::Kill,
            Order::Expect(true),
            Order::Expect(false),
            Order::Program,
        ]);
        for order in orders {
            let mut bytes = order.encode().to_vec();
            let again = Order::decode(&bytes).expect("whole");
            assert_eq!(*again.encode(), bytes, "{order:?}");
            for cut in 0..bytes.len() {
                assert!(Order::decode(&bytes[..cut]).is_err(), "{order:?} cut at {cut}");
            }
            assert!(!format!("{order:?}").contains("secret"), "no password in a log");
            bytes.push(0);
            assert!(Order::decode(&bytes).is_err(), "{order:?} with more");
        }
        assert!(!format!("{:?}", tasks[3]).contains("120"), "no password in a log");
    }

    #[test]
    fn replies_arrive_as_they_were_sent() {
        let outcomes = STAGES.map(|stage| Err(Step { stage, why: "no".to_owned() }));
        let mut replies: Vec<Reply> = outcomes
            .into_iter()
            .chain([Ok(())])
            .map(|outcome| {
                let text = "told\n".to_owned();
                Reply::Verdict(Verdict { outcome, text, must_change: true, enough: false })
            })
            .collect();
        replies.push(Reply::Prompts(Prompts {
            instruction: "first".to_owned(),
            prompts: vec![("Name: ".to_owned(), true), ("Code: ".to_owned(), false)],
        }));
        replies.push(Reply::Opened(Opened {
            outcome: Ok(()),
            text: String::new(),
            variables: vec![b"A=\xff".to_vec()],
        }));
        for reply in replies {
            let mut bytes = reply.encode();
            assert_eq!(Reply::decode(&bytes), Ok(reply));
            for cut in 0..bytes.len() {
                assert!(Reply::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert!(Reply::decode(&bytes).is_err());
        }
        let long = Verdict {
            outcome: Err(Step { stage: Stage::Account, why: "é".repeat(PAM_REASON_BYTES_MAX) }),
            text: "x".repeat(2 * PAM_TEXT_BYTES_MAX),
            must_change: false,
            enough: true,
        };
        let Ok(Reply::Verdict(short)) = Reply::decode(&Reply::Verdict(long).encode()) else {
            panic!("cut, not refused")
        };
        assert_eq!(short.text.len(), PAM_TEXT_BYTES_MAX);
        assert_eq!(short.outcome.expect_err("a no").why.len(), PAM_REASON_BYTES_MAX);
    }
}
