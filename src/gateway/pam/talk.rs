//! What modules say and ask (pam_conv(3)), and who answers.

use std::ffi::{CStr, c_char, c_int, c_void};

use zeroize::{Zeroize, Zeroizing};

use super::library::{BUFFER_ERROR, CONVERSATION_ERROR, Message, Response, SUCCESS};
use super::words::Prompts;
use crate::connection::Secret;
use crate::limits::{PAM_MESSAGE_BYTES_MAX, PAM_MESSAGES_MAX, PAM_TEXT_BYTES_MAX};

const PROMPT_ECHO_OFF: c_int = 1;
const PROMPT_ECHO_ON: c_int = 2;
const ERROR_MESSAGE: c_int = 3;
const TEXT_INFO: c_int = 4;

/// Where answers come from.
pub enum Voice {
    /// Nobody answers.
    Nobody,
    /// Whatever is to be typed unseen is this password, with a NUL at its end; nothing else is answered,
    /// as with sshd's method `password`.
    Password(Zeroizing<Vec<u8>>),
    /// The user, who is far away. `None`: he is gone.
    User(Box<dyn FnMut(Prompts) -> Option<Vec<Secret>>>),
}

/// One side of the conversation with modules.
pub struct Talk {
    pub voice: Voice,
    /// What was only told, one line each, and nobody has seen yet.
    told: String,
}

impl Talk {
    pub const fn new(voice: Voice) -> Talk {
        Talk { voice, told: String::new() }
    }

    /// What was told since the last call.
    pub fn take_told(&mut self) -> String {
        std::mem::take(&mut self.told)
    }

    fn tell(&mut self, text: &str) {
        self.told.push_str(text);
        if !text.ends_with('\n') {
            self.told.push('\n');
        }
        let len = super::cut(&self.told, PAM_TEXT_BYTES_MAX).len();
        self.told.truncate(len);
    }

    /// Answers to these messages, each with a NUL at its end; `None` for those that want none.
    fn hear(&mut self, messages: &[(c_int, String)]) -> Option<Vec<Option<Zeroizing<Vec<u8>>>>> {
        let mut prompts = Vec::new();
        let room = PAM_MESSAGE_BYTES_MAX / messages.len().max(1);
        for (style, text) in messages {
            match *style {
                TEXT_INFO | ERROR_MESSAGE => self.tell(text),
                PROMPT_ECHO_OFF | PROMPT_ECHO_ON => {
                    let text = super::cut(text, room).to_owned();
                    prompts.push((text, *style == PROMPT_ECHO_ON));
                }
                _ => return None,
            }
        }
        let mut answers = self.ask(prompts)?.into_iter();
        let is_told = |style| matches!(style, TEXT_INFO | ERROR_MESSAGE);
        messages
            .iter()
            .map(|(style, _)| if is_told(*style) { Some(None) } else { answers.next().map(Some) })
            .collect()
    }

    fn ask(&mut self, prompts: Vec<(String, bool)>) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        if prompts.is_empty() {
            return Some(Vec::new());
        }
        match &mut self.voice {
            Voice::Nobody => None,
            Voice::Password(password) => {
                let hidden = prompts.iter().all(|(_, echo)| !echo);
                hidden.then(|| vec![password.clone(); prompts.len()])
            }
            Voice::User(user) => {
                let count = prompts.len();
                let told = std::mem::take(&mut self.told);
                let instruction = super::cut(&told, PAM_MESSAGE_BYTES_MAX).to_owned();
                let answers = user(Prompts { instruction, prompts })?;
                let with_end = |answer: Secret| {
                    let plain = answer.bytes().iter().copied().filter(|byte| *byte != 0);
                    let mut text = Zeroizing::new(Vec::with_capacity(answer.bytes().len() + 1));
                    text.extend(plain);
                    text.push(0);
                    text
                };
                (answers.len() == count).then(|| answers.into_iter().map(with_end).collect())
            }
        }
    }
}

/// The conversation function.
pub(super) extern "C" fn answer(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    let Some(count) =
        usize::try_from(count).ok().filter(|count| (1..=PAM_MESSAGES_MAX).contains(count))
    else {
        return CONVERSATION_ERROR;
    };
    // SAFETY: there are `count` pointers to messages (Linux-PAM's layout).
    let messages: Vec<_> = (0..count).map(|at| unsafe { message(*messages.add(at)) }).collect();
    // SAFETY: the transaction has set it, and nobody else uses it while modules run.
    let talk = unsafe { &mut *data.cast::<Talk>() };
    let Some(answers) = talk.hear(&messages) else { return CONVERSATION_ERROR };
    // SAFETY: takes numbers; the caller frees it, for which pam_conv(3) asks for malloc(3)'s memory.
    let made = unsafe { libc::calloc(count, size_of::<Response>()) }.cast::<Response>();
    if made.is_null() {
        return BUFFER_ERROR;
    }
    for (at, text) in answers.iter().enumerate() {
        let Some(text) = text else { continue };
        let text = copy(text);
        if text.is_null() {
            // SAFETY: `at` of them were filled in.
            unsafe { give_up(made, at) };
            return CONVERSATION_ERROR;
        }
        // SAFETY: there is room for `count` of them, and as many answers.
        unsafe { (*made.add(at)).text = text };
    }
    // SAFETY: the caller's place for the answer.
    unsafe { *responses = made };
    SUCCESS
}

/// # Safety
/// It is a message of a module's.
unsafe fn message(message: *const Message) -> (c_int, String) {
    // SAFETY: as the caller says.
    let Message { style, text } = unsafe { message.read() };
    if text.is_null() {
        return (style, String::new());
    }
    // SAFETY: a text that ends with a NUL.
    (style, unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Null where there is no memory. `text` ends with its only NUL.
fn copy(text: &[u8]) -> *mut c_char {
    // SAFETY: it ends with a NUL.
    unsafe { libc::strdup(text.as_ptr().cast()) }
}

/// # Safety
/// There are so many responses, from `calloc`, and their texts are from `strdup` or null.
unsafe fn give_up(made: *mut Response, count: usize) {
    for at in 0..count {
        // SAFETY: as the caller says; each text is wiped within its length and freed once.
        unsafe {
            let text = (*made.add(at)).text;
            if !text.is_null() {
                std::slice::from_raw_parts_mut(text.cast::<u8>(), libc::strlen(text)).zeroize();
                libc::free(text.cast());
            }
        }
    }
    // SAFETY: nothing points to it now.
    unsafe { libc::free(made.cast()) };
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn converse(styles: &[c_int], talk: &mut Talk) -> Result<Vec<Option<String>>, c_int> {
        let messages: Vec<Message> =
            styles.iter().map(|style| Message { style: *style, text: c"?".as_ptr() }).collect();
        let mut pointers: Vec<*const Message> = messages.iter().map(ptr::from_ref).collect();
        let mut made = ptr::null_mut();
        let data = ptr::from_mut(talk).cast();
        let code = answer(styles.len() as c_int, pointers.as_mut_ptr(), &mut made, data);
        if code != SUCCESS {
            assert!(made.is_null());
            return Err(code);
        }
        let text = |at: usize| {
            // SAFETY: it has made so many.
            let text = unsafe { (*made.add(at)).text };
            // SAFETY: it is a text of its own.
            (!text.is_null())
                .then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let texts = (0..styles.len()).map(text).collect();
        // SAFETY: it has made so many.
        unsafe { give_up(made, styles.len()) };
        Ok(texts)
    }

    #[test]
    fn only_hidden_prompts_hear_the_password() {
        let secret = Some("secret".to_owned());
        let mut talk = Talk::new(Voice::Password(Zeroizing::new(b"secret\0".to_vec())));
        assert_eq!(converse(&[PROMPT_ECHO_OFF], &mut talk), Ok(vec![secret.clone()]));
        let styles = [TEXT_INFO, PROMPT_ECHO_OFF, ERROR_MESSAGE, PROMPT_ECHO_OFF];
        let expected = vec![None, secret.clone(), None, secret];
        assert_eq!(converse(&styles, &mut talk), Ok(expected));
        assert_eq!(talk.take_told(), "?\n?\n");
        let (shown, unknown) = (PROMPT_ECHO_ON, 7);
        for styles in [&[shown][..], &[PROMPT_ECHO_OFF, shown], &[unknown], &[], &[TEXT_INFO; 33]] {
            assert_eq!(converse(styles, &mut talk), Err(CONVERSATION_ERROR), "{styles:?}");
        }
        let mut talk = Talk::new(Voice::Nobody);
        assert_eq!(converse(&[PROMPT_ECHO_OFF], &mut talk), Err(CONVERSATION_ERROR));
        assert_eq!(converse(&[TEXT_INFO], &mut talk), Ok(vec![None]));
    }

    #[test]
    fn a_user_is_told_first_and_then_asked() {
        let asked = |prompts: Prompts| {
            assert_eq!(prompts.instruction, "?\n");
            assert_eq!(prompts.prompts, [("?".to_owned(), true), ("?".to_owned(), false)]);
            Some(vec![Secret::copy(b"a\0b"), Secret::copy(b"")])
        };
        let mut talk = Talk::new(Voice::User(Box::new(asked)));
        let styles = [PROMPT_ECHO_ON, TEXT_INFO, PROMPT_ECHO_OFF];
        let expected = vec![Some("ab".to_owned()), None, Some(String::new())];
        assert_eq!(converse(&styles, &mut talk), Ok(expected));
        assert_eq!(talk.take_told(), "");
        let mut talk = Talk::new(Voice::User(Box::new(|_| Some(Vec::new()))));
        assert_eq!(converse(&styles, &mut talk), Err(CONVERSATION_ERROR), "too few answers");
    }
}
