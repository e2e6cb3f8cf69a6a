/// A command to us among what is typed (ssh(1), ESCAPE CHARACTERS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// `~.`: ends the connection.
    Leave,
    /// `~^Z`: stops our process.
    Suspend,
    /// `~&`: goes on in the background, until the last forwarded connection is over.
    Background,
    /// `~#`: lists forwarded connections.
    List,
    /// `~?`
    Help,
    /// `~B`: RFC 4335.
    Break,
    /// `~R`: new keys.
    Rekey,
    /// `~V`, `~v`: say less, say more.
    Quieter,
    Louder,
    /// `~C`: a command line, which there is none of.
    CommandLine,
}

impl Escape {
    /// As it is shown.
    pub const fn letter(self) -> &'static str {
        match self {
            Escape::Leave => ".",
            Escape::Suspend => "^Z",
            Escape::Background => "&",
            Escape::List => "#",
            Escape::Help => "?",
            Escape::Break => "B",
            Escape::Rekey => "R",
            Escape::Quieter => "V",
            Escape::Louder => "v",
            Escape::CommandLine => "C",
        }
    }
}

/// Finds commands in what is typed: the escape character behind a line end, and one character.
#[derive(Clone, Debug)]
pub struct Escapes {
    /// `None`: nothing is looked for.
    character: Option<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    Escaped,
    InLine,
}

impl Escapes {
    pub const fn new(character: Option<u8>) -> Escapes {
        Escapes { character, state: State::LineStart }
    }

    /// Adds to `sent` what of `typed` is for the server; answers the commands, in their order.
    pub fn filter(&mut self, typed: &[u8], sent: &mut Vec<u8>) -> Vec<Escape> {
        let mut commands = Vec::new();
        for &byte in typed {
            let Some(character) = self.character else {
                sent.push(byte);
                continue;
            };
            match self.state {
                State::LineStart if byte == character => {
                    self.state = State::Escaped;
                    continue;
                }
                State::Escaped => {
                    if let Some(escape) = command(byte) {
                        // Another may follow at once.
                        self.state = State::LineStart;
                        commands.push(escape);
                        continue;
                    }
                    // Twice is once; before anything else it was meant as it stands.
                    if byte != character {
                        sent.push(character);
                    }
                }
                State::LineStart | State::InLine => {}
            }
            sent.push(byte);
            self.state =
                if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::InLine };
        }
        commands
    }
}

const fn command(byte: u8) -> Option<Escape> {
    Some(match byte {
        b'.' => Escape::Leave,
        0x1a => Escape::Suspend,
        b'&' => Escape::Background,
        b'#' => Escape::List,
        b'?' => Escape::Help,
        b'B' => Escape::Break,
        b'R' => Escape::Rekey,
        b'V' => Escape::Quieter,
        b'v' => Escape::Louder,
        b'C' => Escape::CommandLine,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&[u8]]) -> (Vec<u8>, Vec<Escape>) {
        let mut escapes = Escapes::new(Some(b'~'));
        let (mut sent, mut commands) = (Vec::new(), Vec::new());
        for part in parts {
            commands.extend(escapes.filter(part, &mut sent));
        }
        (sent, commands)
    }

    #[test]
    fn commands_stand_behind_a_line_end() {
        assert_eq!(typed(&[b"~."]), (vec![], vec![Escape::Leave]));
        assert_eq!(typed(&[b"ls\r~", b"."]), (b"ls\r".to_vec(), vec![Escape::Leave]));
        assert_eq!(typed(&[b"a~.\r"]), (b"a~.\r".to_vec(), vec![]));
        assert_eq!(typed(&[b"~?~#x"]), (b"x".to_vec(), vec![Escape::Help, Escape::List]));
        assert_eq!(typed(&[b"~\x1a"]), (vec![], vec![Escape::Suspend]));
    }

    #[test]
    fn what_is_no_command_is_sent_as_it_stands() {
        assert_eq!(typed(&[b"~~."]), (b"~.".to_vec(), vec![]));
        assert_eq!(typed(&[b"~/x"]), (b"~/x".to_vec(), vec![]));
        assert_eq!(typed(&[b"~\r~."]), (b"~\r".to_vec(), vec![Escape::Leave]));
        let mut none = Escapes::new(None);
        let mut sent = Vec::new();
        assert_eq!(none.filter(b"\r~.", &mut sent), vec![]);
        assert_eq!(sent, b"\r~.");
    }
}
