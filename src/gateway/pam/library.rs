//! libpam, loaded while the program runs: gateways that do not ask PAM need none (pam(3)).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use super::talk::{Talk, answer};
use super::words::{Stage, Step};

/// Linux-PAM's. Others are not known.
const LIBRARY: &CStr = c"libpam.so.0";
/// The package of Debian and of Ubuntu; others have it under names like this.
const PACKAGE: &str = "libpam0g";

pub(super) const SUCCESS: c_int = 0;
pub(super) const BUFFER_ERROR: c_int = 5;
const MAX_TRIES: c_int = 11;
const NEW_PASSWORD_REQUIRED: c_int = 12;
pub(super) const CONVERSATION_ERROR: c_int = 19;
const ITEM_USER: c_int = 2;
const ITEM_TTY: c_int = 3;
const ITEM_RHOST: c_int = 4;
const DISALLOW_NULL_PASSWORD: c_int = 1;
const CHANGE_EXPIRED_PASSWORD: c_int = 0x20;
const ESTABLISH_CREDENTIALS: c_int = 2;
const DELETE_CREDENTIALS: c_int = 4;

/// What modules that want a terminal hear of, as sshd tells it.
const TTY: &CStr = c"ssh";

#[repr(C)]
pub(super) struct Message {
    pub style: c_int,
    pub text: *const c_char,
}

#[repr(C)]
pub(super) struct Response {
    pub text: *mut c_char,
    pub code: c_int,
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
type GetItem = unsafe extern "C" fn(Handle, c_int, *mut *const c_void) -> c_int;
/// pam_authenticate, pam_acct_mgmt, pam_chauthtok, pam_setcred, pam_open_session, pam_close_session and
/// pam_end.
type Call = unsafe extern "C" fn(Handle, c_int) -> c_int;
type Put = unsafe extern "C" fn(Handle, *const c_char) -> c_int;
type List = unsafe extern "C" fn(Handle) -> *mut *mut c_char;
type Explain = unsafe extern "C" fn(Handle, c_int) -> *const c_char;

/// The functions that are called.
pub struct Library {
    start: Start,
    set_item: SetItem,
    get_item: GetItem,
    authenticate: Call,
    account: Call,
    change: Call,
    credentials: Call,
    open: Call,
    close: Call,
    end: Call,
    put: Put,
    list: List,
    explain: Explain,
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
                get_item: symbol(library, c"pam_get_item")?,
                authenticate: symbol(library, c"pam_authenticate")?,
                account: symbol(library, c"pam_acct_mgmt")?,
                change: symbol(library, c"pam_chauthtok")?,
                credentials: symbol(library, c"pam_setcred")?,
                open: symbol(library, c"pam_open_session")?,
                close: symbol(library, c"pam_close_session")?,
                end: symbol(library, c"pam_end")?,
                put: symbol(library, c"pam_putenv")?,
                list: symbol(library, c"pam_getenvlist")?,
                explain: symbol(library, c"pam_strerror")?,
            })
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

/// What PAM is asked about.
pub struct Login<'a> {
    pub service: &'a str,
    pub user: &'a str,
    pub host: &'a str,
    pub connection: &'a str,
}

/// PAM's own idea of a login. What was begun is ended when this goes.
pub struct Transaction {
    library: Library,
    handle: Handle,
    user: CString,
    /// What modules speak with; the library has its address.
    talk: Box<Talk>,
    authenticated: bool,
    has_credentials: bool,
    is_open: bool,
    /// Of the last call.
    code: c_int,
}

/// What PAM says about an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    Good,
    /// Its password has expired.
    MustChange,
}

impl Transaction {
    /// # Errors
    /// PAM knows no such service, or a name cannot be told it.
    pub fn start(library: Library, login: &Login<'_>, talk: Talk) -> Result<Transaction, Step> {
        let text = |text: &str| {
            let why = |_| Step { stage: Stage::Start, why: "a name with a NUL".to_owned() };
            CString::new(text).map_err(why)
        };
        let (service, user, host) = (text(login.service)?, text(login.user)?, text(login.host)?);
        let connection = text(&format!("SSH_CONNECTION={}", login.connection))?;
        let mut talk = Box::new(talk);
        let conversation =
            Conversation { converse: answer, data: ptr::from_mut(&mut *talk).cast() };
        let mut handle = ptr::null_mut();
        // SAFETY: the texts end with a NUL and are copied, so is the conversation; what it points to lives
        // as long as the handle.
        let code =
            unsafe { (library.start)(service.as_ptr(), user.as_ptr(), &conversation, &mut handle) };
        if code != SUCCESS {
            return Err(Step { stage: Stage::Start, why: library.words(handle, code) });
        }
        let mut transaction = Transaction {
            library,
            handle,
            user,
            talk,
            authenticated: false,
            has_credentials: false,
            is_open: false,
            code,
        };
        for (item, value) in [(ITEM_RHOST, host.as_c_str()), (ITEM_TTY, TTY)] {
            // SAFETY: the handle is open; the text ends with a NUL and is copied.
            let set =
                unsafe { (transaction.library.set_item)(handle, item, value.as_ptr().cast()) };
            transaction.done(Stage::Start, set)?;
        }
        transaction.put(&connection)?;
        Ok(transaction)
    }

    pub const fn talk(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// One more variable of PAM's own (`NAME=VALUE`), which modules may look at.
    pub fn put(&mut self, variable: &CStr) -> Result<(), Step> {
        // SAFETY: the handle is open; the text ends with a NUL and is copied.
        let code = unsafe { (self.library.put)(self.handle, variable.as_ptr()) };
        self.done(Stage::Start, code)
    }

    /// Is it him? Blocks as long as the modules like.
    ///
    /// # Errors
    /// It is not; `enough`: nor will it be.
    pub fn authenticate(&mut self, empty_permitted: bool) -> Result<(), (Step, bool)> {
        let flags = if empty_permitted { 0 } else { DISALLOW_NULL_PASSWORD };
        let code = self.call(self.library.authenticate, flags);
        self.done(Stage::Authenticate, code).map_err(|step| (step, code == MAX_TRIES))?;
        self.authenticated = true;
        if self.is_still_him() {
            return Ok(());
        }
        // As since OpenSSH 10: who logs in is who was asked for.
        let why = "a module has put another user in his place".to_owned();
        Err((Step { stage: Stage::Authenticate, why }, false))
    }

    fn is_still_him(&self) -> bool {
        let mut user = ptr::null();
        // SAFETY: the handle is open; the answer is the library's own text, or null.
        unsafe {
            (self.library.get_item)(self.handle, ITEM_USER, &mut user) == SUCCESS
                && !user.is_null()
                && CStr::from_ptr(user.cast()) == self.user.as_c_str()
        }
    }

    /// May the account be used?
    ///
    /// # Errors
    /// It may not.
    pub fn account(&mut self) -> Result<Account, Step> {
        match self.call(self.library.account, 0) {
            NEW_PASSWORD_REQUIRED => Ok(Account::MustChange),
            code => self.done(Stage::Account, code).map(|()| Account::Good),
        }
    }

    /// Has him choose another password in the place of one that has expired.
    ///
    /// # Errors
    /// There is none.
    pub fn change_password(&mut self) -> Result<(), Step> {
        let code = self.call(self.library.change, CHANGE_EXPIRED_PASSWORD);
        self.done(Stage::Account, code)
    }

    /// pam_setcred and pam_open_session, as sshd does.
    ///
    /// # Errors
    /// There is no session.
    pub fn open(&mut self) -> Result<(), Step> {
        let code = self.call(self.library.credentials, ESTABLISH_CREDENTIALS);
        match self.done(Stage::Credentials, code) {
            Ok(()) => self.has_credentials = true,
            Err(step) if self.authenticated => return Err(step),
            // Modules that have not seen his secret may have none for him.
            Err(_) => {}
        }
        let code = self.call(self.library.open, 0);
        self.done(Stage::Session, code)?;
        self.is_open = true;
        Ok(())
    }

    /// `NAME=VALUE` each, for the environment of sessions.
    pub fn variables(&self) -> Vec<Vec<u8>> {
        let mut variables = Vec::new();
        // SAFETY: the handle is open; the answer is a list that ends with a null pointer, of texts, all of
        // which are ours to free.
        unsafe {
            let list = (self.library.list)(self.handle);
            let mut at = list;
            while !at.is_null() && !(*at).is_null() {
                variables.push(CStr::from_ptr(*at).to_bytes().to_vec());
                libc::free((*at).cast());
                at = at.add(1);
            }
            libc::free(list.cast());
        }
        variables
    }

    fn call(&mut self, call: Call, flags: c_int) -> c_int {
        // SAFETY: the handle is open, and each of these calls takes it and flags.
        self.code = unsafe { call(self.handle, flags) };
        self.code
    }

    fn done(&self, stage: Stage, code: c_int) -> Result<(), Step> {
        match code {
            SUCCESS => Ok(()),
            code => Err(Step { stage, why: self.library.words(self.handle, code) }),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            self.call(self.library.close, 0);
        }
        if self.has_credentials {
            self.call(self.library.credentials, DELETE_CREDENTIALS);
        }
        let code = self.code;
        // SAFETY: the handle is open, and is used no more.
        unsafe { (self.library.end)(self.handle, code) };
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
}
