//! The client's end of SFTP on a channel, and a server that answers whatever it likes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::Input;
use super::sftp_server::{Desk, MOVED_MAX, Played, STEPS_MAX};
use crate::services::sftp_client::{Behind, SftpClient, Stretch, Way};
use crate::wire::Writer;
use crate::wire::sftp::{
    Attributes, Extensions, Limits, Names, Operation, Reply, Response, StatusCode, kind, put_name,
};

/// A script of what is asked, of what is answered, and of everything that can come in between.
pub fn sftp_client(data: &[u8]) {
    let mut input = Input::new(data);
    let mut game = Game::new(input.byte());
    for _ in 0..STEPS_MAX {
        if input.is_empty() || game.desk.over || game.desk.moved > MOVED_MAX {
            break;
        }
        game.step(&mut input);
    }
    // Whatever was under way, no lease and no descriptor is left.
    game.desk.finish();
}

/// What was asked, and not answered yet: id, kind, and how much a READ wants.
type Question = (u32, u8, u32);

struct Game {
    desk: Desk<SftpClient>,
    asked: VecDeque<Question>,
    tickets: u32,
}

impl Played for SftpClient {
    // Read by the game, when it answers.
    fn heard(_desk: &mut Desk<SftpClient>) {}
}

impl Game {
    fn new(seed: u8) -> Game {
        let rate = (seed & 2 != 0).then_some(u64::from(seed) << 12);
        let mut desk = Desk::with(seed, SftpClient::new(rate));
        desk.honest = false;
        desk.serve(|client, io| client.greet(io));
        desk.settle();
        Game { desk, asked: VecDeque::new(), tickets: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let desk = &mut self.desk;
        match input.byte() % 16 {
            0 => desk.send(input.string()),
            1 => self
                .say(0, &Reply::Version { version: input.uint32(), extensions: Extensions::NONE }),
            2..=6 => self.answer(input),
            7 => self.start(input),
            8 => self.ask(input),
            9 => desk.fate = input.byte(),
            10 => desk.do_op(usize::from(input.byte())),
            11 => desk.settle(),
            12 => desk.adjust(u32::from(input.uint16()) << 4),
            13 => desk.hoard(input.byte()),
            14 => desk.exchange(input.byte()),
            _ => match input.byte() % 8 {
                0 => desk.end_of_input(),
                1 => desk.close(),
                2 => desk.piece = usize::from(input.byte()).max(1),
                3 => desk.frozen = !desk.frozen,
                4 => desk.serve(|client, _| {
                    let (read_bytes, write_bytes) = (input.uint32().into(), input.uint32().into());
                    let limits =
                        Limits { packet_bytes: 0, read_bytes, write_bytes, open_handles: 0 };
                    client.know_limits(limits);
                }),
                _ => desk.flush(),
            },
        }
        self.listen();
    }

    /// A file of ours, and a stretch of it.
    fn start(&mut self, input: &mut Input<'_>) {
        let way = if input.byte().is_multiple_of(2) { Way::Get } else { Way::Put };
        let size = u64::from(input.uint16()) << 4;
        let fd = self.desk.open_one(size);
        let len = u64::from(input.uint16()) << 4;
        let stretch = Stretch { there: input.byte().into(), here: input.byte().into(), len };
        let moved = Rc::new(Cell::new(0));
        self.tickets += 1;
        let ticket = self.tickets;
        self.desk.serve(|client, io| {
            client.start_move(
                (ticket, Behind::default()),
                way,
                (b"h", fd),
                (stretch, Rc::clone(&moved)),
                io,
            );
        });
    }

    fn ask(&mut self, input: &mut Input<'_>) {
        let path = input.string();
        let operation = match input.byte() % 4 {
            0 => Operation::Stat { path },
            1 => Operation::ReadDirectory { handle: b"h" },
            2 => Operation::Open { path, flags: 1, attributes: Attributes::EMPTY },
            _ => Operation::Limits,
        };
        self.tickets += 1;
        let ticket = self.tickets;
        self.desk.serve(|client, io| {
            client.ask(ticket, &operation, io);
        });
    }

    /// One of the questions, well or badly.
    fn answer(&mut self, input: &mut Input<'_>) {
        let choice = usize::from(input.byte()) % self.asked.len().max(1);
        let Some((id, what, len)) = self.asked.remove(choice) else { return };
        let (lie, amount) = (input.byte(), u32::from(input.uint16()));
        let data = vec![0x55; if lie == 1 { amount } else { len.min(amount + 1) } as usize];
        let code = StatusCode::from_number(u32::from(input.byte() % 12));
        let mut names = [0; 128];
        let mut out = Writer::new(&mut names);
        let _ = put_name(&mut out, b"../x", b"", &Attributes::EMPTY);
        let reply = match (lie, what) {
            (0, kind::READ) | (1, _) => Reply::Data(&data),
            (0, kind::WRITE) => Reply::Status { code: StatusCode::Ok, text: b"" },
            (2, _) => Reply::Handle(input.string()),
            (3, _) => Reply::Names(Names::from_encoded(1 + u32::from(lie & 4), out.written())),
            (4, _) => Reply::Attributes(Attributes::EMPTY),
            (5, _) => Reply::Extended(input.string()),
            _ => Reply::Status { code, text: input.string() },
        };
        self.say(id, &reply);
    }

    fn say(&mut self, id: u32, reply: &Reply<'_>) {
        let mut space = vec![0; 80 * 1024];
        let mut out = Writer::new(&mut space);
        if (Response { id, reply: *reply }).write(&mut out).is_ok() {
            let bytes = out.written().to_vec();
            self.desk.send(&bytes);
        }
    }

    /// What it has asked for; all of it is what a server would understand.
    fn listen(&mut self) {
        let heard = std::mem::take(&mut self.desk.puppet.data);
        let mut rest = heard.as_slice();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let Some((packet, behind)) = body.split_at_checked(u32::from_be_bytes(*len) as usize)
            else {
                break;
            };
            rest = behind;
            let Some((what, body)) = packet.split_first() else { panic!("an empty request") };
            let id = body.first_chunk::<4>().map_or(0, |id| u32::from_be_bytes(*id));
            let len = body.last_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len));
            if *what != kind::INIT {
                self.asked.push_back((id, *what, len));
            }
        }
        self.desk.puppet.data = rest.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_and_one_goes() {
        let mut game = Game::new(0);
        game.listen();
        game.say(0, &Reply::Version { version: 3, extensions: Extensions::NONE });
        // 16 KiB there, 16 KiB back, then honest answers.
        for way in [0, 1] {
            let script = [7, way, 4, 0, 4, 0, 0, 0];
            let mut input = Input::new(&script);
            game.step(&mut input);
            game.desk.settle();
            game.listen();
            assert_eq!(game.asked.len(), 1, "one request of {way}");
            let mut input = Input::new(&[2, 0, 0, 0xff, 0xff]);
            game.step(&mut input);
            game.desk.settle();
            assert!(game.desk.open.is_empty(), "it is moved, and the file closed");
        }
        game.desk.finish();
    }
}
