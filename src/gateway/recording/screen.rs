//! What of a recording may reach the terminal that it is played on: text, and sequences that move the
//! cursor, colour and clear. Whatever would leave the screen (titles, clipboards, questions that a terminal
//! answers as if somebody typed, modes of the keyboard and the mouse, printers) stays behind.

use crate::limits::REPLAY_SEQUENCE_BYTES_MAX;

/// Finals of CSI sequences that touch the screen alone.
const SAFE: &str = "ABCDEFGHIJKLMPSTXZ@`abdefmr";
/// Private modes that do: origin, reverse, wrap, blinking and hidden cursor, the other screen, updates in one.
const SAFE_MODES: [&str; 9] = ["5", "6", "7", "12", "25", "47", "1047", "1049", "2026"];
/// The only mode without a question mark: characters make room for themselves.
const INSERT: &str = "4";
/// Behind ESC: save and restore the cursor, line feeds, a tab stop.
const SAFE_ESCAPES: &str = "78DEHM";
/// The same of what a terminal draws with: `ESC ( 0`.
const CHARSETS: &str = "()*+";
/// More of anything than a screen has.
const NUMBER_MAX: u32 = 9999;
/// Puts a terminal right again that a recording ended in the middle of something: all that goes through
/// and stays. The cursor is in the last line then.
pub const RESET: &str = "\x1b[?2026l\x1b[?47l\x1b[?1047l\x1b[?1049l\x1b[?5l\x1b[?6l\x1b[?7h\x1b[4l\
    \x1b[?12l\x1b[?25h\x1b[0 q\x1b[r\x1b[0m\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[9999;1H";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and one that says which character set comes.
    Charset(char),
    /// In a sequence that begins with ESC [.
    Control,
    /// In text for the terminal itself, until its end: behind ESC ], P, X, ^ or _.
    Message,
    /// In such a text, behind ESC.
    MessageEscape,
}

/// Lets text through, a piece at a time.
#[derive(Debug, Default)]
pub struct Screen {
    state: State,
    sequence: String,
    /// No sequences at all: text for files.
    plain: bool,
}

impl Screen {
    /// `plain`: lines of text, without anything that a terminal does.
    pub fn new(plain: bool) -> Screen {
        Screen { plain, ..Screen::default() }
    }

    pub fn show(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        text.chars().for_each(|character| self.take(character, &mut out));
        out
    }

    fn take(&mut self, character: char, out: &mut String) {
        match (self.state, character) {
            (State::Message, '\x07' | '\u{9c}' | '\x18' | '\x1a') => self.state = State::Text,
            (State::Message, '\x1b') => self.state = State::MessageEscape,
            (State::Message, _) => {}
            (State::MessageEscape, '\\') => self.state = State::Text,
            // It has ended there, and something else begins.
            (State::MessageEscape | State::Escape, _) => self.escape(character, out),
            (State::Text, '\x1b') => self.state = State::Escape,
            (State::Text, _) => self.put(character, out),
            (State::Control | State::Charset(_), '\x1b') => self.state = State::Escape,
            (State::Control | State::Charset(_), '\x18' | '\x1a') => self.state = State::Text,
            (State::Control, _) => self.control(character, out),
            (State::Charset(which), '0' | 'A' | 'B') if !self.plain => {
                out.extend(['\x1b', which, character]);
                self.state = State::Text;
            }
            (State::Charset(_), _) => self.state = State::Text,
        }
    }

    /// The character behind ESC.
    fn escape(&mut self, character: char, out: &mut String) {
        self.sequence.clear();
        self.state = match character {
            '[' => State::Control,
            ']' | 'P' | 'X' | '^' | '_' => State::Message,
            '\x1b' => State::Escape,
            which if CHARSETS.contains(which) => State::Charset(which),
            safe => {
                if SAFE_ESCAPES.contains(safe) && !self.plain {
                    out.extend(['\x1b', safe]);
                }
                State::Text
            }
        };
    }

    fn control(&mut self, character: char, out: &mut String) {
        match character {
            '\x20'..='\x3f' if self.sequence.len() <= REPLAY_SEQUENCE_BYTES_MAX => {
                self.sequence.push(character);
            }
            '\x20'..='\x3f' => {}
            '\x40'..='\x7e' => {
                let sequence = std::mem::take(&mut self.sequence);
                let known = sequence.len() <= REPLAY_SEQUENCE_BYTES_MAX;
                if known && !self.plain && is_safe(&sequence, character) {
                    out.push_str("\x1b[");
                    out.push_str(&sequence);
                    out.push(character);
                }
                self.state = State::Text;
            }
            // Terminals carry out what moves the cursor in the middle of a sequence.
            '\n' | '\r' | '\x08' | '\t' => self.put(character, out),
            c if u32::from(c) < 0x20 => {}
            _ => self.state = State::Text,
        }
    }

    fn put(&mut self, character: char, out: &mut String) {
        match character {
            '\n' | '\t' => out.push(character),
            // Lines of files end otherwise, and what was written over was seen as well.
            '\r' | '\x08' | '\x0e' | '\x0f' if self.plain => {}
            '\r' | '\x08' | '\x0e' | '\x0f' => out.push(character),
            '\x00' | '\x07' | '\x7f' => {}
            // What a terminal takes for the start of a sequence, or answers.
            c if u32::from(c) < 0x20 => {
                out.extend(['^', char::from_u32(u32::from(c) + 0x40).unwrap_or('?')]);
            }
            '\u{80}'..='\u{9f}' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            c => out.push(c),
        }
    }
}

/// Whether it touches the screen alone.
fn is_safe(sequence: &str, last: char) -> bool {
    let numbers = |text: &str| {
        let mut all = text.split([';', ':']);
        all.all(|n| n.is_empty() || n.parse::<u32>().is_ok_and(|n| n <= NUMBER_MAX))
    };
    match (sequence.strip_prefix('?'), last) {
        (Some(modes), 'h' | 'l') => modes.split(';').all(|mode| SAFE_MODES.contains(&mode)),
        // Parts of lines and of the screen that were not protected.
        (Some(rest), 'J' | 'K') => numbers(rest),
        (Some(_), _) => false,
        (None, 'h' | 'l') => sequence == INSERT,
        // How the cursor looks.
        (None, 'q') => sequence.strip_suffix(' ').is_some_and(numbers),
        // Where the cursor was.
        (None, 's' | 'u') => sequence.is_empty(),
        (None, last) => SAFE.contains(last) && numbers(sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let whole = Screen::new(false).show(text);
        // However it is cut.
        let mut screen = Screen::new(false);
        let cut: String = text.chars().map(|c| screen.show(&c.to_string())).collect();
        assert_eq!(cut, whole, "{text:?}");
        whole
    }

    #[test]
    fn what_draws_goes_through() {
        for text in [
            "plain \u{e9}\u{1f600}\r\n\ttabs\x08",
            "\x1b[1;31mred\x1b[0m \x1b[38:5:7mx\x1b[m",
            "\x1b[2J\x1b[H\x1b[10;20H\x1b[?25l\x1b[?1049h\x1b[?25;7l",
            "\x1b7\x1b8\x1bM\x1b(0lqk\x1b(B\x0e\x0f",
            "\x1b[4h\x1b[2 q\x1b[s\x1b[u\x1b[5;10r\x1b[?2K",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    /// SECURITY case 105: a recording is shown, and does nothing to the terminal of whoever looks at it.
    #[test]
    fn case_105_what_leaves_the_screen_stays_behind() {
        for hostile in [
            "\x1b]0;title\x07",
            "\x1b]52;c;cm0gLXJmIC8K\x07",
            "\x1b]52;c;?\x1b\\",
            "\x1b]8;;file:///etc/passwd\x1b\\",
            "\x1b]0;never ends \u{9c}",
            "\x1bP+q544e\x1b\\",
            "\x1bP$qm\x1b\\",
            "\x1b_Gi=1,a=q;AAAA\x1b\\",
            "\x1b^pm\x1b\\\x1bXsos\x1b\\",
            "\x1b[c\x1b[>c\x1b[=c\x1b[0c\x1bZ",
            "\x1b[5n\x1b[6n\x1b[?6n",
            "\x1b[21t\x1b[8;1;1t\x1b[>q\x1b[x\x1b[?1$p",
            "\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?1004h\x1b[?1h\x1b[?25;1000h",
            "\x1b[2h\x1b[>4;2m\x1b[>1u\x1b[5i\x1b[?5i",
            "\x1b[99999999b\x1b[99999999@\x1b[\u{e9}",
            "\x1bc\x1b=\x1b>\x1bn\x1b#8\x1b%G\x1b(C",
            "\x07\x7f\x00",
        ] {
            let left = shown(hostile);
            // What is left of those that are cut short is text.
            assert!(!left.contains('\x1b') && !left.contains('\x07'), "{hostile:?}: {left:?}");
        }
        // Answerback, and starts of sequences in one character.
        assert_eq!(shown("\x05"), "^E");
        assert_eq!(shown("a\u{9b}6n\u{9d}0;x\u{90}"), "a\\x9b6n\\x9d0;x\\x90");
        // A sequence in the place of another's end is judged as well.
        assert_eq!(shown("\x1b]0;x\x1b[6ny"), "y");
        assert_eq!(shown("\x1b[1\x1b]52;c;x\x07z"), "z");
        assert_eq!(shown("\x1b\x1b[6nz\x1b[1\x18m"), "zm");
        let long = format!("\x1b[{}mz", "1;".repeat(1000));
        assert_eq!(shown(&long), "z");
    }

    #[test]
    fn what_a_recording_has_switched_on_is_off_behind_it() {
        assert_eq!(shown(RESET), RESET);
        for mode in SAFE_MODES {
            let usual = if matches!(mode, "7" | "25") { 'h' } else { 'l' };
            assert!(RESET.contains(&format!("\x1b[?{mode}{usual}")), "{mode}");
        }
        assert!(RESET.contains(&format!("\x1b[{INSERT}l")));
        assert!(CHARSETS.chars().all(|set| RESET.contains(&format!("\x1b{set}B"))));
    }

    #[test]
    fn text_for_files_has_no_sequences() {
        let mut screen = Screen::new(true);
        let text = "\x1b[1mone\x1b[m\r\n\x1b]0;t\x07t\x08wo\x1b(0\x1b7\r\n";
        assert_eq!(screen.show(text), "one\ntwo\n");
    }
}
