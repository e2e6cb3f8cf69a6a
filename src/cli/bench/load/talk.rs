//! The near end of a channel that is measured: says something, and tells when the answer is there.

use crate::reactor::Chunk;
use crate::services::forward::Note;
use crate::services::{Guest, Io, Service};

/// What counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes as the first four say, which stand before them (SFTP, draft-ietf-secsh-filexfer
    /// §3).
    Frame,
}

/// One question after the other, the last one over and over. Nothing of what comes is kept.
#[derive(Debug)]
pub struct Talk {
    questions: Vec<Vec<u8>>,
    answer: Answer,
    asked: usize,
    /// Of the question under way; `None`: nothing is asked.
    sent: Option<usize>,
    waiting: bool,
    /// Answers that have come and that nobody has waited for.
    answers: u64,
    /// Of the answer under way: its length field, then what is left of it.
    head: Vec<u8>,
    rest: u64,
}

impl Talk {
    pub const fn new(questions: Vec<Vec<u8>>, answer: Answer) -> Talk {
        let head = Vec::new();
        Talk { questions, answer, asked: 0, sent: None, waiting: false, answers: 0, head, rest: 0 }
    }

    fn pump(&mut self, io: &mut Io<'_>) {
        let Some(sent) = self.sent else { return };
        let last = self.questions.len().saturating_sub(1);
        let question = self.questions.get(self.asked.min(last));
        let rest = question.and_then(|question| question.get(sent..)).unwrap_or_default();
        let room = io.credit().min(io.packet_max()) as usize;
        let part = rest.get(..room.min(rest.len())).unwrap_or_default();
        if rest.is_empty() {
            self.sent = None;
            self.asked += 1;
        } else if !part.is_empty() && io.reply(part) {
            self.sent = Some(sent + part.len());
            self.pump(io);
        }
    }

    fn heard(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest == 0 {
                match self.answer {
                    Answer::Bytes(count) => self.rest = count,
                    Answer::Frame => {
                        let lacking = 4 - self.head.len();
                        let (head, behind) = bytes.split_at(lacking.min(bytes.len()));
                        self.head.extend_from_slice(head);
                        bytes = behind;
                        if let Ok(length) = <[u8; 4]>::try_from(self.head.as_slice()) {
                            self.head.clear();
                            self.rest = u64::from(u32::from_be_bytes(length));
                        }
                        continue;
                    }
                }
            }
            let part = self.rest.min(bytes.len() as u64);
            bytes = bytes.get(part as usize..).unwrap_or_default();
            self.rest -= part;
            self.answers += u64::from(self.rest == 0);
        }
    }

    fn tell(&mut self, io: &mut Io<'_>) {
        if self.waiting && self.answers > 0 {
            self.waiting = false;
            self.answers -= 1;
            io.note(Note::Reached);
        }
    }
}

impl Guest for Talk {
    fn begin(&mut self, io: &mut Io<'_>) {
        self.waiting = true;
        self.sent = Some(0);
        self.pump(io);
        self.tell(io);
    }
}

impl Service for Talk {
    fn on_data(&mut self, mut data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        if extended.is_none() {
            self.heard(data.span.of(io.bytes(&mut data.lease)).unwrap_or_default());
        }
        io.discard(data);
        self.tell(io);
    }

    fn on_eof(&mut self, _io: &mut Io<'_>) {}

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.pump(io);
    }

    fn on_close(&mut self, _io: &mut Io<'_>) {}

    fn release(&mut self, _io: &mut Io<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let frames = [0, 0, 0, 2, 1, 1, 0, 0, 0, 1, 5, 0, 0, 0, 3, 9];
        for cut in 1..frames.len() {
            let mut talk = Talk::new(Vec::new(), Answer::Frame);
            frames.chunks(cut).for_each(|part| talk.heard(part));
            assert_eq!((talk.answers, talk.rest), (2, 2), "{cut}");
            let mut talk = Talk::new(Vec::new(), Answer::Bytes(5));
            frames.chunks(cut).for_each(|part| talk.heard(part));
            assert_eq!((talk.answers, talk.rest), (3, 4), "{cut}");
        }
    }
}
