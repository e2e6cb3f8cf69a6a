//! The text around key files: BEGIN and END lines with base64 between them (RFC 7468).

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{KeyError, pem::Encryption, public::unsupported};
use crate::limits::KEY_FILE_BYTES_MAX;

/// What the bytes between the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `openssh-key-v1`, as PROTOCOL.key describes it.
    OpenSsh,
    /// PrivateKeyInfo (RFC 5208 §5).
    Pkcs8,
    /// EncryptedPrivateKeyInfo (RFC 5208 §6).
    Pkcs8Encrypted,
    /// RSAPrivateKey (RFC 8017 §A.1.2).
    Pkcs1,
    /// ECPrivateKey (RFC 5915).
    Sec1,
}

/// What was inside the armour.
#[derive(Debug)]
pub(super) struct Armoured {
    pub form: Form,
    /// What the headers say of how `bytes` are encrypted.
    pub encryption: Option<Encryption>,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Takes the armour off a private key file. Things that are often handed in by mistake get an
/// error that says what they are.
pub(super) fn decode(text: &[u8]) -> Result<Armoured, KeyError> {
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(KeyError::TooLarge);
    }
    let text = text.trim_ascii_start();
    refuse_lookalikes(text)?;
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let label = lines.next().and_then(|line| label(line, b"-----BEGIN "));
    let label = label.ok_or(KeyError::NotAPrivateKey)?;
    let form = form(label)?;

    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut encryption = None;
    for line in lines {
        if let Some(end) = self::label(line, b"-----END ") {
            if end != label {
                return Err(KeyError::NotAPrivateKey);
            }
            return Ok(Armoured { form, encryption, bytes: decode_base64(&base64)? });
        }
        // RFC 1421 §4.6 headers: OpenSSL's old way to say that the key is encrypted.
        if line.contains(&b':') {
            if !matches!(form, Form::Pkcs1 | Form::Sec1) || !base64.is_empty() {
                return Err(KeyError::EncryptedPem);
            }
            Encryption::read(line, &mut encryption)?;
            continue;
        }
        base64.extend_from_slice(line);
    }
    Err(KeyError::NotAPrivateKey)
}

/// The text of an `openssh-key-v1` file.
pub(super) fn encode_openssh(bytes: &[u8]) -> Result<Zeroizing<String>, KeyError> {
    let len = base64::encoded_len(bytes.len(), true).ok_or(KeyError::TooLarge)?;
    let mut base64 = Zeroizing::new(vec![0; len]);
    STANDARD.encode_slice(bytes, &mut base64).map_err(|_| KeyError::TooLarge)?;
    let lines = len.div_ceil(LINE_BYTES);
    // Reserved at full size: a buffer that grows leaves unwiped copies behind.
    let mut text = Zeroizing::new(String::with_capacity(len + lines + 128));
    text.push_str("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for line in base64.chunks(LINE_BYTES) {
        text.push_str(str::from_utf8(line).map_err(|_| KeyError::Base64)?);
        text.push('\n');
    }
    text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    Ok(text)
}

fn refuse_lookalikes(text: &[u8]) -> Result<(), KeyError> {
    let begins = |with: &[&[u8]]| with.iter().any(|start| text.starts_with(start));
    if begins(&[b"PuTTY-User-Key-File-"]) {
        return Err(KeyError::Putty);
    }
    if begins(&[b"ssh-", b"ecdsa-sha2-", b"sk-", b"---- BEGIN SSH2 PUBLIC KEY"]) {
        return Err(KeyError::PublicHalf);
    }
    Ok(())
}

fn label<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(start)?.strip_suffix(b"-----")
}

fn form(label: &[u8]) -> Result<Form, KeyError> {
    match label {
        b"OPENSSH PRIVATE KEY" => Ok(Form::OpenSsh),
        b"PRIVATE KEY" => Ok(Form::Pkcs8),
        b"RSA PRIVATE KEY" => Ok(Form::Pkcs1),
        b"EC PRIVATE KEY" => Ok(Form::Sec1),
        b"ENCRYPTED PRIVATE KEY" => Ok(Form::Pkcs8Encrypted),
        b"DSA PRIVATE KEY" => Err(unsupported("ssh-dss")),
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Err(KeyError::PublicHalf),
        _ => Err(KeyError::NotAPrivateKey),
    }
}

fn decode_base64(base64: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
    let len = STANDARD.decode_slice(base64, &mut bytes).map_err(|_| KeyError::Base64)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Characters of base64 a line, as OpenSSH writes them.
const LINE_BYTES: usize = 70;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armour_goes_on_and_comes_off() {
        for len in [0_usize, 1, 51, 52, 53, 4000] {
            let bytes = vec![0xa5; len];
            let text = encode_openssh(&bytes).expect("encodes");
            assert!(text.lines().all(|line| line.len() <= 70));
            let back = decode(text.as_bytes()).expect("decodes");
            assert_eq!((back.form, &back.bytes[..]), (Form::OpenSsh, &bytes[..]));
            let back = decode(text.replace('\n', "\r\n").as_bytes()).expect("CR LF");
            assert_eq!(&back.bytes[..], &bytes[..]);
        }
    }

    #[test]
    fn mistaken_files_are_named() {
        let verdict = |text: &str| decode(text.as_bytes()).map(|file| file.form);
        assert_eq!(verdict("PuTTY-User-Key-File-3: ssh-ed25519\n"), Err(KeyError::Putty));
        assert_eq!(verdict("ssh-ed25519 AAAA me\n"), Err(KeyError::PublicHalf));
        assert_eq!(verdict("-----BEGIN PUBLIC KEY-----\n"), Err(KeyError::PublicHalf));
        assert_eq!(verdict("hello"), Err(KeyError::NotAPrivateKey));
        assert_eq!(verdict(""), Err(KeyError::NotAPrivateKey));
        let begin = "-----BEGIN RSA PRIVATE KEY-----\n";
        for headers in [
            "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00",
            "Proc-Type: 4,MIC-ONLY",
            "DEK-Info: DES-EDE3-CBC,0011223344556677",
            "Comment: none of ours",
        ] {
            let text = format!("{begin}{headers}\n\nAA==\n");
            assert_eq!(verdict(&text), Err(KeyError::EncryptedPem), "{headers}");
        }
        let dsa = verdict("-----BEGIN DSA PRIVATE KEY-----\n");
        assert_eq!(dsa, Err(KeyError::UnsupportedType("ssh-dss".into())));
    }

    #[test]
    fn damage_is_an_error() {
        let verdict = |text: &str| decode(text.as_bytes()).map(|file| file.form);
        let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        assert_eq!(verdict(&format!("{begin}\nAAAA\n{end}\n")), Ok(Form::Pkcs8));
        assert_eq!(verdict(&format!("{begin}\nAAAA\n{end}")), Ok(Form::Pkcs8));
        assert_eq!(verdict(&format!("{begin}\nAAAA\n")), Err(KeyError::NotAPrivateKey));
        assert_eq!(verdict(&format!("{begin}\nAA*A\n{end}\n")), Err(KeyError::Base64));
        assert_eq!(verdict(&format!("{begin}\nAAA\n{end}\n")), Err(KeyError::Base64));
        let other = "-----END RSA PRIVATE KEY-----";
        assert_eq!(verdict(&format!("{begin}\nAAAA\n{other}\n")), Err(KeyError::NotAPrivateKey));
        let large = format!("{begin}\n{}\n{end}\n", "A".repeat(KEY_FILE_BYTES_MAX as usize));
        assert_eq!(verdict(&large), Err(KeyError::TooLarge));
    }
}
