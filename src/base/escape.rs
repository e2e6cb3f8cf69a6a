use std::borrow::Cow;
use std::fmt;

/// Bytes of peer-controlled text shown in one log field; the rest is counted, not shown.
const SHOWN_BYTES_MAX: usize = 256;

/// Text that a peer or a file controls, made safe for a terminal and a log line.
///
/// Control characters (ESC, NUL, line ends, C1), quotes and backslashes, characters that reorder or
/// hide text (bidirectional overrides, zero-width ones, tags) and bytes that are no UTF-8 come out
/// as escapes; at most 256 bytes of input are shown. The output never contains a line end, so one
/// event stays one line, and may stand between double quotes.
pub const fn escape(bytes: &[u8]) -> Escaped<'_> {
    escape_up_to(bytes, SHOWN_BYTES_MAX)
}

/// The same with another limit of what is shown.
pub const fn escape_up_to(bytes: &[u8], max: usize) -> Escaped<'_> {
    Escaped { bytes, max }
}

/// The same as one word: what follows a name in a line cannot be taken for a part of it, nor a part of it
/// for what follows. A ban list that reads addresses out of lines finds none in a name.
pub fn escape_word(bytes: &[u8]) -> String {
    escape(bytes).to_string().replace(' ', "\\x20")
}

/// A value or text as JSON, printed: what JSON leaves as it is and a terminal acts on (DEL, C1) is escaped
/// too. Readers of JSON find the same in it.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    // JSON has such characters within strings alone, and there they are one `char` each.
    let acts = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !json.contains(acts) {
        return Cow::Borrowed(json);
    }
    let shown = |c: char| if acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(json.chars().map(shown).collect())
}

/// See [`escape`].
#[derive(Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    max: usize,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, hidden) = cut(self.bytes, self.max);
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                write_character(character, out)?;
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        if hidden > 0 { write!(out, "[+{hidden} bytes]") } else { Ok(()) }
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

/// The first `max` bytes without cutting a character in two, and how many are left out.
pub fn cut(bytes: &[u8], max: usize) -> (&[u8], usize) {
    if bytes.len() <= max {
        return (bytes, 0);
    }
    let is_start = |at: &usize| bytes.get(*at).is_none_or(|b| b & 0xc0 != 0x80);
    // A character has at most four bytes; text that has no boundary there is not UTF-8 anyway.
    let at = (max.saturating_sub(3)..=max).rev().find(is_start).unwrap_or(max);
    (bytes.get(..at).unwrap_or(bytes), bytes.len() - at)
}

fn write_character(character: char, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    match character {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\\' => out.write_str("\\\\"),
        '"' => out.write_str("\\\""),
        c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
        c if misleads(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
        c => write!(out, "{c}"),
    }
}

/// Characters that change how the text around them is shown, or cannot be seen at all.
fn misleads(character: char) -> bool {
    matches!(u32::from(character),
        0x80..=0x9f | 0xad | 0x61c | 0x180e
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
        | 0xfe00..=0xfe0f | 0xfeff | 0xfff0..=0xfffb
        | 0xe0000..=0xe0fff | 0xf0000..=0x10ffff | 0xe000..=0xf8ff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SECURITY case 130: nothing a peer sends can move the cursor, fake a line or hide text.
    #[test]
    fn cases_120_130_hostile_text_is_shown_harmless() {
        let cases: &[(&[u8], &str)] = &[
            (b"anna", "anna"),
            ("grüße 日本".as_bytes(), "grüße 日本"),
            (b"a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            (b"\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
            (b"nul\0del\x7f", "nul\\x00del\\x7f"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("ab\u{202e}txt.exe".as_bytes(), "ab\\u{202e}txt.exe"),
            ("\u{2066}x\u{2069}\u{200b}".as_bytes(), "\\u{2066}x\\u{2069}\\u{200b}"),
            ("\u{2028}\u{feff}\u{e0041}".as_bytes(), "\\u{2028}\\u{feff}\\u{e0041}"),
            (b"\xff\xfe bad \xc3", "\\xff\\xfe bad \\xc3"),
            (b"say \"hi\" \\ root", "say \\\"hi\\\" \\\\ root"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(escape(bytes).to_string(), *shown);
        }
    }

    #[test]
    fn cases_120_130_json_moves_no_cursor_and_means_the_same() {
        assert_eq!(plain_json("{\"a\":\"\u{e9}\u{a0}\"}"), "{\"a\":\"\u{e9}\u{a0}\"}");
        let text: String = ('\0'..='\u{100}').collect();
        let json = serde_json::json!([text]).to_string();
        assert!(json.contains('\u{9b}'), "JSON itself has them");
        let plain = plain_json(&json);
        assert!(!plain.contains(char::is_control), "{plain:?}");
        assert!(plain.contains("\\u009b") && plain.contains("\\u007f"), "{plain}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&plain).expect("JSON"), [text]);
    }

    #[test]
    fn cases_120_130_a_word_has_no_spaces() {
        assert_eq!(escape_word(b"ann"), "ann");
        let framing = b"ann from 192.0.2.1 port 1 ssh2: x";
        let word = escape_word(framing);
        assert_eq!(word, "ann\\x20from\\x20192.0.2.1\\x20port\\x201\\x20ssh2:\\x20x");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = "ä".repeat(1000);
        assert_eq!(escape(text.as_bytes()).to_string(), "ä".repeat(128) + "[+1744 bytes]");
        let odd = format!("x{text}");
        let shown = escape(odd.as_bytes()).to_string();
        assert_eq!(shown, format!("x{}[+1746 bytes]", "ä".repeat(127)));
        let binary = vec![0x80_u8; 400];
        assert!(escape(&binary).to_string().ends_with("\\x80[+144 bytes]"));
    }

    proptest::proptest! {
        #[test]
        fn output_is_one_printable_bounded_line(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)
        ) {
            let shown = escape(&bytes).to_string();
            proptest::prop_assert!(!shown.chars().any(|c| c.is_control() || misleads(c)));
            proptest::prop_assert!(shown.len() <= 12 * SHOWN_BYTES_MAX + 32);
        }
    }
}
