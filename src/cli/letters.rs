//! Flags of one letter, read as getopt(3) reads them: several behind one dash, and the value of the
//! first that takes one is the rest of the word or the next word.

use std::ffi::OsString;

/// What a letter stands for: what its value is called, if it takes one, and what takes it over.
pub type Letter<F> = (Option<&'static str>, fn(&mut F, &str) -> Result<(), String>);

/// Takes over the letters behind one dash; `find` knows them.
///
/// # Errors
/// One line that names the letter.
pub fn bundle<F>(
    flags: &mut F,
    letters: &str,
    args: &mut impl Iterator<Item = OsString>,
    find: impl Fn(char) -> Result<Letter<F>, String>,
) -> Result<(), String> {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let (value, update) = find(letter)?;
        let Some(what) = value else {
            update(flags, "")?;
            continue;
        };
        let name = format!("-{letter}");
        let value = match rest.as_str() {
            "" => next_value(&name, what, args)?,
            inline => inline.to_owned(),
        };
        return update(flags, &value).map_err(|why| format!("{name}: {why}"));
    }
    Ok(())
}

/// The word behind a flag that takes a value.
///
/// # Errors
/// There is none, or it is no text.
pub fn next_value(
    name: &str,
    what: &str,
    args: &mut impl Iterator<Item = OsString>,
) -> Result<String, String> {
    let value = args.next().ok_or_else(|| format!("{name} needs a value: {what}"))?;
    value.into_string().map_err(|_| format!("{name}: not UTF-8"))
}

/// Why a letter is none of `command`'s.
pub fn unknown(letter: char, absent: &[(char, &str)], command: &str) -> String {
    match absent.iter().find(|(known, _)| *known == letter) {
        Some((_, why)) => format!("-{letter}: {why}"),
        None => format!("there is no flag -{letter}; `tidegate {command} --help` lists them"),
    }
}
