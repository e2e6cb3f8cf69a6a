//! TOKENS and environment variables in values (ssh_config(5)).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::Request;

/// Tokens that stand in most values.
pub const USUAL: &str = "CdhijkLlnpru";

/// What tokens stand for.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// `%n`: as it stands on the command line.
    pub original: String,
    /// `%h`
    pub host: String,
    /// `%k`: HostKeyAlias, or the original.
    pub alias: String,
    pub port: u16,
    /// `%r`
    pub remote_user: String,
    /// `%u`
    pub local_user: String,
    /// `%d`
    pub home: String,
    /// `%l`, `%L`
    pub local_host: String,
    /// `%i`
    pub uid: u32,
    /// `%j`: ProxyJump as it was written.
    pub jump: String,
}

impl Tokens {
    /// What is known before a line is read; the host is as it stands on the command line.
    pub fn of(request: &Request) -> Tokens {
        let local_host = nix::unistd::gethostname();
        Tokens {
            original: request.host.clone(),
            host: request.host.clone(),
            alias: request.host.clone(),
            port: 22,
            remote_user: request.user.as_ref().unwrap_or(&request.local_user).clone(),
            local_user: request.local_user.clone(),
            home: request.home.as_ref().map_or(String::new(), |home| home.display().to_string()),
            local_host: local_host.map_or(String::new(), |name| name.to_string_lossy().into()),
            uid: nix::unistd::getuid().as_raw(),
            jump: String::new(),
        }
    }

    /// Replaces `%x` in text by what it stands for; `allowed` lists the letters that mean something
    /// there.
    ///
    /// # Errors
    /// A letter that means nothing, for messages.
    pub fn expand(&self, text: &str, allowed: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            match rest.next() {
                Some('%') => out.push('%'),
                Some(letter) if allowed.contains(letter) => out.push_str(&self.value(letter)),
                Some(letter) => return Err(format!("%{letter} means nothing here")),
                None => return Err("a percent sign at the end; write %%".to_owned()),
            }
        }
        Ok(out)
    }

    fn value(&self, letter: char) -> String {
        match letter {
            'n' => self.original.clone(),
            'h' => self.host.clone(),
            'k' => self.alias.clone(),
            'p' => self.port.to_string(),
            'r' => self.remote_user.clone(),
            'u' => self.local_user.clone(),
            'd' => self.home.clone(),
            'l' => self.local_host.clone(),
            'L' => self.local_host.split('.').next().unwrap_or_default().to_owned(),
            'i' => self.uid.to_string(),
            'j' => self.jump.clone(),
            'C' => self.connection(),
            _ => String::new(),
        }
    }

    /// `%C`: a hash of `%l%h%p%r%j` that names a connection. SHA-1, as in ssh: nothing is secured by it.
    fn connection(&self) -> String {
        let Tokens { local_host, host, port, remote_user, jump, .. } = self;
        let text = format!("{local_host}{host}{port}{remote_user}{jump}");
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Replaces `${NAME}` by the variable's value.
///
/// # Errors
/// There is no such variable, or a brace is missing; for messages.
pub fn expand_variables(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        out.push_str(before);
        let (name, behind) = behind.split_once('}').ok_or("${ without its brace")?;
        out.push_str(&variable(name).ok_or_else(|| format!("there is no variable {name}"))?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_where_they_may() {
        let tokens = Tokens { host: "h".into(), port: 22, ..Tokens::default() };
        assert_eq!(tokens.expand("nc %h %p 100%%", "hp"), Ok("nc h 22 100%".to_owned()));
        assert!(tokens.expand("%u", "hp").is_err());
        assert!(tokens.expand("50%", "hp").is_err());
    }

    #[test]
    fn a_hash_names_a_connection() {
        let (local_host, host, remote_user) = ("here".into(), "web".into(), "ann".into());
        let mut tokens = Tokens { local_host, host, port: 22, remote_user, ..Tokens::default() };
        // sha1sum of hereweb22ann
        let hash = "dc36a678e8520fb5c26032348860c4138598e290".to_owned();
        assert_eq!(tokens.expand("%C", "C"), Ok(hash.clone()));
        tokens.jump = "gate".into();
        assert_ne!(tokens.expand("%C", "C"), Ok(hash));
    }

    #[test]
    fn variables_have_to_be_there() {
        let one = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand_variables("x${A}y$z", one), Ok("x1y$z".to_owned()));
        assert!(expand_variables("${B}", one).is_err());
        assert!(expand_variables("${A", one).is_err());
    }
}
