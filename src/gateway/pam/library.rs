//! libpam, loaded while the program runs: gateways that do not ask PAM need none (pam(3)).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use zeroize::{Zeroize, Zeroizing};

use super::words::{Stage, Step};
use crate::limits::PAM_MESSAGES_MAX;

/// Linux-PAM's. Others are not known.
const LIBRARY: &CStr = c"libpam.so.0";
/// The package of Debian and of Ubuntu; others have it under names like this.
const PACKAGE: &str = "libpam0g";

const SUCCESS: c_int = 0;
const BUFFER_ERROR: c_int = 5;
const NEW_PASSWORD_REQUIRED: c_int = 12;
const CONVERSATION_ERROR: c_int = 19;
const ITEM_TTY: c_int = 3;
const ITEM_RHOST: c_int = 4;
const DISALLOW_NULL_PASSWORD: c_int = 1;
const PROMPT_ECHO_OFF: c_int = 1;
const ERROR_MESSAGE: c_int = 3;
const TEXT_INFO: c_int = 4;

/// What modules that want a terminal hear of, as sshd tells it.
const TTY: &CStr = c"ssh";

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    code: c_int,
}

type Converse = extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int;

#[repr(C)]
struct Conversation {
    converse: Converse,
    data: *mut c_void,
}

type Handle = *mut c_void;
type Start =
    unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut Handle) -> c_int;
type SetItem = unsafe extern "C" fn(Handle, c_int, *const c_void) -> c_int;
/// pam_authenticate, pam_acct_mgmt and pam_end.
type Call = unsafe extern "C" fn(Handle, c_int) -> c_int;
type Explain = unsafe extern "C" fn(Handle, c_int) -> *const c_char;

/// The functions that are called.
pub struct Library {
    start: Start,
    set_item: SetItem,
    authenticate: Call,
    account: Call,
    end: Call,
    explain: Explain,
}

/// What PAM is asked about.
pub struct Login {
    pub service: CString,
    pub user: CString,
    pub host: CString,
    /// `None`: only the account is asked about. With a NUL at its end.
    pub password: Option<Zeroizing<Vec<u8>>>,
    pub empty_permitted: bool,
}

impl Library {
    /// Loads it.
    ///
    /// # Errors
    /// It is not there; the text says what to do.
    pub fn load() -> Result<Library, String> {
        Library::load_from(LIBRARY)
    }

    fn load_from(name: &CStr) -> Result<Library, String> {
        // SAFETY: the name ends with a NUL; what runs when it is loaded is the system's own.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if library.is_null() {
            let name = name.to_string_lossy();
            return Err(format!(
                "{name} cannot be loaded: install the package {PACKAGE} (pam on other systems than \
                 Debian), or write UsePAM no"
            ));
        }
        // SAFETY: each has the type that pam(3) gives the function of that name.
        unsafe {
            Ok(Library {
                start: symbol(library, c"pam_start")?,
                set_item: symbol(library, c"pam_set_item")?,
                authenticate: symbol(library, c"pam_authenticate")?,
                account: symbol(library, c"pam_acct_mgmt")?,
                end: symbol(library, c"pam_end")?,
                explain: symbol(library, c"pam_strerror")?,
            })
        }
    }

    /// Asks whether the password is the user's and the account may be used. Blocks as long as the
    /// modules like.
    ///
    /// # Errors
    /// Which call says no, and PAM's words for it.
    pub fn ask(&self, login: &Login) -> Result<(), Step> {
        let data = ptr::from_ref(&login.password).cast_mut().cast();
        let conversation = Conversation { converse: answer, data };
        let (service, user) = (login.service.as_ptr(), login.user.as_ptr());
        let mut handle = ptr::null_mut();
        // SAFETY: all of them live until the handle is given up below, and nobody else has it.
        let started = unsafe { (self.start)(service, user, &conversation, &mut handle) };
        if started != SUCCESS {
            return Err(Step { stage: Stage::Start, why: self.words(handle, started) });
        }
        let (outcome, code) = self.converse(handle, login);
        // SAFETY: the handle is the one from above, and is used no more.
        unsafe { (self.end)(handle, code) };
        outcome
    }

    fn converse(&self, handle: Handle, login: &Login) -> (Result<(), Step>, c_int) {
        let no = |stage, code| (Err(Step { stage, why: self.words(handle, code) }), code);
        for (item, value) in [(ITEM_RHOST, login.host.as_c_str()), (ITEM_TTY, TTY)] {
            // SAFETY: the handle is open; the text ends with a NUL and is copied.
            let set = unsafe { (self.set_item)(handle, item, value.as_ptr().cast()) };
            if set != SUCCESS {
                return no(Stage::Start, set);
            }
        }
        let flags = if login.empty_permitted { 0 } else { DISALLOW_NULL_PASSWORD };
        if login.password.is_some() {
            // SAFETY: the handle is open.
            let code = unsafe { (self.authenticate)(handle, flags) };
            if code != SUCCESS {
                return no(Stage::Authenticate, code);
            }
        }
        // SAFETY: the handle is open.
        match unsafe { (self.account)(handle, flags) } {
            SUCCESS => (Ok(()), SUCCESS),
            NEW_PASSWORD_REQUIRED => {
                let why = "the password has expired, and a new one cannot be set here: \
                           `passwd USER` by root sets one";
                let step = Step { stage: Stage::Account, why: why.to_owned() };
                (Err(step), NEW_PASSWORD_REQUIRED)
            }
            code => no(Stage::Account, code),
        }
    }

    fn words(&self, handle: Handle, code: c_int) -> String {
        // SAFETY: the handle may be anything, it is not looked at.
        let words = unsafe { (self.explain)(handle, code) };
        if words.is_null() {
            return format!("error {code}");
        }
        // SAFETY: a text of the library's own that stays.
        unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
    }
}

/// # Safety
/// `T` is the type of a pointer to the function of this name.
unsafe fn symbol<T: Copy>(library: *mut c_void, name: &CStr) -> Result<T, String> {
    // SAFETY: the library is loaded and the name ends with a NUL.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("{} is not in {LIBRARY:?}", name.to_string_lossy()));
    }
    // SAFETY: it is not null, and of this type, says the caller.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

/// Gives the password to whoever prompts for something hidden. What is only told is passed over; any
/// other question has no answer here, so it fails, as sshd's does for passwords.
extern "C" fn answer(
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
    // SAFETY: `ask` has set it, and is not over while modules run.
    let password = unsafe { &*data.cast::<Option<Zeroizing<Vec<u8>>>>() };
    // SAFETY: takes numbers; the caller frees it, for which pam_conv(3) asks for malloc(3)'s memory.
    let made = unsafe { libc::calloc(count, size_of::<Response>()) }.cast::<Response>();
    if made.is_null() {
        return BUFFER_ERROR;
    }
    for at in 0..count {
        // SAFETY: there are `count` pointers to messages (Linux-PAM's layout).
        let style = unsafe { (**messages.add(at)).style };
        let text = match (style, password) {
            (PROMPT_ECHO_OFF, Some(password)) => copy(password),
            (TEXT_INFO | ERROR_MESSAGE, _) => continue,
            _ => ptr::null_mut(),
        };
        if text.is_null() {
            // SAFETY: `at` of them were filled in.
            unsafe { give_up(made, at) };
            return CONVERSATION_ERROR;
        }
        // SAFETY: there is room for `count` of them.
        unsafe { (*made.add(at)).text = text };
    }
    // SAFETY: the caller's place for the answer.
    unsafe { *responses = made };
    SUCCESS
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
    use super::*;

    #[test]
    fn a_system_without_it_is_told_what_to_install() {
        let why = Library::load_from(c"libpam-of-nobody.so.0").err().expect("not there");
        assert!(why.contains("libpam-of-nobody.so.0 cannot be loaded"), "{why}");
        assert!(why.contains(PACKAGE), "{why}");
        // Another one has none of the functions.
        let why = Library::load_from(c"libc.so.6").err().expect("no functions");
        assert!(why.contains("pam_start"), "{why}");
    }

    fn converse(styles: &[c_int], password: Option<&str>) -> Result<Vec<Option<String>>, c_int> {
        let password = password.map(|text| Zeroizing::new(format!("{text}\0").into_bytes()));
        let messages: Vec<Message> =
            styles.iter().map(|style| Message { style: *style, text: c"?".as_ptr() }).collect();
        let mut pointers: Vec<*const Message> = messages.iter().map(ptr::from_ref).collect();
        let mut made = ptr::null_mut();
        let data = ptr::from_ref(&password).cast_mut().cast();
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
        assert_eq!(converse(&[PROMPT_ECHO_OFF], Some("secret")), Ok(vec![secret.clone()]));
        let styles = [TEXT_INFO, PROMPT_ECHO_OFF, ERROR_MESSAGE, PROMPT_ECHO_OFF];
        let expected = vec![None, secret.clone(), None, secret];
        assert_eq!(converse(&styles, Some("secret")), Ok(expected));
        let (shown, unknown) = (2, 7);
        for styles in [&[shown][..], &[PROMPT_ECHO_OFF, shown], &[unknown], &[], &[TEXT_INFO; 33]] {
            assert_eq!(converse(styles, Some("secret")), Err(CONVERSATION_ERROR), "{styles:?}");
        }
        assert_eq!(converse(&[PROMPT_ECHO_OFF], None), Err(CONVERSATION_ERROR));
    }
}
