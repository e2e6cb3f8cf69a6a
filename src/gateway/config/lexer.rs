//! One line of sshd_config: a keyword, then words. Quoting and comments as sshd reads them.

/// A quotation mark without its twin.
#[derive(Debug, PartialEq, Eq)]
pub struct Unclosed;

/// The keyword of a line and what follows it; `None` for an empty line or a comment.
///
/// Blanks, one `=`, or both may stand between the two. The keyword itself may be quoted.
pub fn split_keyword(line: &str) -> Result<Option<(&str, &str)>, Unclosed> {
    let line = line.trim_matches(is_blank);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (keyword, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(Unclosed)?,
        None => {
            let end = line.find(|c| is_blank(c) || c == '=').unwrap_or(line.len());
            line.split_at(end)
        }
    };
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    Ok(Some((keyword, rest.trim_start_matches(is_blank))))
}

/// Splits at blanks; `'…'` and `"…"` keep blanks together, anywhere in a word; a backslash takes
/// the special meaning from a quote or a backslash (and, outside quotes, from a blank); a word that
/// begins with `#` starts a comment.
pub fn words(text: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| is_blank(*c)).is_some() {}
        match rest.peek() {
            None | Some('#') => return Ok(words),
            Some(_) => words.push(word(&mut rest)?),
        }
    }
}

/// Writes a word so that [`words`] reads it back as one.
pub fn quote(word: &str) -> String {
    let plain = !word.is_empty()
        && !word.starts_with('#')
        && !word.contains(|c| is_blank(c) || matches!(c, '"' | '\'' | '\\'));
    if plain {
        return word.to_owned();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for character in word.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

fn word(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, Unclosed> {
    let mut word = String::new();
    let mut quote = None;
    while let Some(character) = rest.next_if(|c| quote.is_some() || !is_blank(*c)) {
        let escaped = |c: &char| matches!(c, '"' | '\'' | '\\') || (quote.is_none() && *c == ' ');
        match (character, quote) {
            ('\\', _) => word.push(rest.next_if(escaped).unwrap_or('\\')),
            ('"' | '\'', None) => quote = Some(character),
            (_, Some(open)) if character == open => quote = None,
            _ => word.push(character),
        }
    }
    if quote.is_some() { Err(Unclosed) } else { Ok(word) }
}

/// What separates words: space, tab, and the line-end characters that editors leave behind.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_and_their_separators() {
        for line in ["Port 22", "  Port\t22  ", "Port=22", "Port = 22", "\"Port\" 22", "Port =22\r"]
        {
            assert_eq!(split_keyword(line), Ok(Some(("Port", "22"))), "{line:?}");
        }
        for line in ["", "   ", "# Port 22", "\t#", "\x0c"] {
            assert_eq!(split_keyword(line), Ok(None), "{line:?}");
        }
        assert_eq!(split_keyword("Banner"), Ok(Some(("Banner", ""))));
        assert_eq!(split_keyword("SetEnv =A=b"), Ok(Some(("SetEnv", "A=b"))));
        assert_eq!(split_keyword("\"Port 22"), Err(Unclosed));
    }

    #[test]
    fn quoting_as_sshd_reads_it() {
        for (text, expected) in [
            ("a b\tc", vec!["a", "b", "c"]),
            ("\"a b\" c", vec!["a b", "c"]),
            ("a\"b c\"d", vec!["ab cd"]),
            ("'a \"b' c", vec!["a \"b", "c"]),
            ("a # comment", vec!["a"]),
            ("a#b", vec!["a#b"]),
            ("\"#a\"", vec!["#a"]),
            ("\"\"", vec![""]),
            ("\"a\\\"b\"", vec!["a\"b"]),
            ("\"a\\ b\"", vec!["a\\ b"]),
            ("a\\ b \\x \\\\", vec!["a b", "\\x", "\\"]),
        ] {
            assert_eq!(words(text), Ok(expected.into_iter().map(String::from).collect()), "{text}");
        }
        assert_eq!(words("a \"b"), Err(Unclosed));
        assert_eq!(words("it's"), Err(Unclosed));
    }

    proptest::proptest! {
        #[test]
        fn quoted_words_read_back(list in proptest::collection::vec("[^\\r\\n\\x0c]*", 0..5)) {
            let line = list.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ");
            proptest::prop_assert_eq!(words(&line), Ok(list));
        }
    }
}
