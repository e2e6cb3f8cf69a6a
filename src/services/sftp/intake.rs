use std::ffi::CString;

use super::fs::{FsJob, Subject};
use super::handles::HandleName;
use super::options::Options;
use super::waiting::{Class, CopyAsk, HandleAsk, Waiting, What};
use crate::limits::SFTP_WAITING_BYTES_MAX;
use crate::wire::sftp::{Operation, Request, StatusCode, extension, open};

/// Permissions of a new file, and of a new directory, when the client names none; the umask of the
/// account applies.
const FILE_PERMISSIONS: u32 = 0o666;
const DIRECTORY_PERMISSIONS: u32 = 0o777;

/// Turns a request into what waits for its turn. `base` is where relative paths start.
pub fn wait(request: &Request<'_>, base: &[u8], options: &Options) -> Waiting {
    let permitted = options.permit_operation(&request.operation);
    let what = match request.operation {
        Operation::SymbolicLink { target: path, path: target } if options.link_first => {
            what(&Operation::SymbolicLink { target, path }, base, options.umask)
        }
        ref operation => what(operation, base, options.umask),
    };
    let what = match what {
        Some(What::Job { job, .. }) if !permitted => What::Forbidden(job),
        _ if !permitted => What::Status(StatusCode::PermissionDenied),
        what => what.unwrap_or(What::Status(StatusCode::BadMessage)),
    };
    Waiting { id: request.id, what }
}

/// `None` for a path with a NUL in it, which no system call can take.
fn what(operation: &Operation<'_>, base: &[u8], umask: Option<u32>) -> Option<What> {
    let at = |path: &[u8]| absolute(base, path);
    Some(match *operation {
        Operation::Init { .. } => What::Init,
        Operation::Open { path, flags, attributes } => {
            let permissions = masked(attributes.permissions.unwrap_or(FILE_PERMISSIONS), umask);
            job(Class::Alone, FsJob::Open { path: at(path)?, flags, permissions, umask })
        }
        Operation::Read { handle, offset, len } => {
            What::Read { handle: HandleName::parse(handle), offset, len }
        }
        Operation::Close { handle } => on(handle, HandleAsk::Close),
        Operation::HandleStat { handle } => on(handle, HandleAsk::Stat),
        Operation::HandleSetStat { handle, attributes } => {
            on(handle, HandleAsk::SetStat(Box::new(attributes)))
        }
        Operation::ReadDirectory { handle } => on(handle, HandleAsk::ReadDirectory),
        Operation::HandleVfsStat { handle } => on(handle, HandleAsk::VfsStat),
        Operation::Fsync { handle } => on(handle, HandleAsk::Fsync),
        Operation::CopyData { from, from_offset, len, to, to_offset } => {
            What::Copy(Box::new(CopyAsk {
                from: (HandleName::parse(from), from_offset),
                to: (HandleName::parse(to), to_offset),
                len,
            }))
        }
        Operation::CheckFile { handle, hashes, offset, len, block } => {
            let known = |name: &[u8]| name == extension::CHECK_FILE_HASH;
            if !hashes.split(|byte| *byte == b',').any(known) {
                return Some(What::Status(StatusCode::OpUnsupported));
            }
            on(handle, HandleAsk::Hash { offset, len, block })
        }
        Operation::Limits => What::Limits,
        // Its data streams; the service never builds one of these.
        Operation::Write { .. } | Operation::Extended { .. } | Operation::Unknown { .. } => {
            What::Status(StatusCode::OpUnsupported)
        }
        Operation::NamesById { users, groups } => {
            job(Class::Look, FsJob::NamesById { users: users.into(), groups: groups.into() })
        }
        Operation::HomeDirectory { user } => {
            job(Class::Look, FsJob::HomeDirectory { user: user.into() })
        }
        _ => path_job(operation, base, umask)?,
    })
}

/// What `-u` takes away is taken away here as well, for a sandbox may keep the thread that makes the
/// file from having a umask of its own.
fn masked(permissions: u32, umask: Option<u32>) -> u32 {
    permissions & !umask.unwrap_or(0)
}

/// The requests that are about paths alone.
fn path_job(operation: &Operation<'_>, base: &[u8], umask: Option<u32>) -> Option<What> {
    let at = |path: &[u8]| absolute(base, path);
    Some(match *operation {
        Operation::Stat { path } => {
            job(Class::Look, FsJob::Stat { subject: Subject::Path(at(path)?) })
        }
        Operation::LinkStat { path } => {
            job(Class::Look, FsJob::Stat { subject: Subject::Link(at(path)?) })
        }
        Operation::VfsStat { path } => {
            job(Class::Look, FsJob::VfsStat { subject: Subject::Path(at(path)?) })
        }
        Operation::ReadLink { path } => job(Class::Look, FsJob::ReadLink { path: at(path)? }),
        Operation::RealPath { path } => {
            job(Class::Look, FsJob::RealPath { base: base.into(), path: path.into() })
        }
        Operation::ExpandPath { path } => {
            job(Class::Look, FsJob::ExpandPath { base: base.into(), path: path.into() })
        }
        Operation::SetStat { path, attributes } => {
            job(Class::Alone, FsJob::SetStat { subject: Subject::Path(at(path)?), attributes })
        }
        Operation::LinkSetStat { path, attributes } => {
            job(Class::Alone, FsJob::SetStat { subject: Subject::Link(at(path)?), attributes })
        }
        Operation::OpenDirectory { path } => {
            job(Class::Alone, FsJob::OpenDirectory { path: at(path)? })
        }
        Operation::Remove { path } => job(Class::Alone, FsJob::Remove { path: at(path)? }),
        Operation::MakeDirectory { path, attributes } => {
            let permissions =
                masked(attributes.permissions.unwrap_or(DIRECTORY_PERMISSIONS), umask);
            job(Class::Alone, FsJob::MakeDirectory { path: at(path)?, permissions, umask })
        }
        Operation::RemoveDirectory { path } => {
            job(Class::Alone, FsJob::RemoveDirectory { path: at(path)? })
        }
        Operation::Rename { from, to } => {
            job(Class::Alone, FsJob::Rename { from: at(from)?, to: at(to)?, replace: false })
        }
        Operation::PosixRename { from, to } => {
            job(Class::Alone, FsJob::Rename { from: at(from)?, to: at(to)?, replace: true })
        }
        // What a link says is its own affair: it is not made absolute.
        Operation::SymbolicLink { target, path } => {
            let target = CString::new(target).ok()?;
            job(Class::Alone, FsJob::SymbolicLink { target, path: at(path)? })
        }
        Operation::HardLink { existing, path } => {
            job(Class::Alone, FsJob::HardLink { existing: at(existing)?, path: at(path)? })
        }
        _ => What::Status(StatusCode::OpUnsupported),
    })
}

/// A process serves many sessions, so it cannot be in each one's directory: relative paths are put
/// behind the base. An empty path stays empty, and fails as one.
pub(in crate::services) fn absolute(base: &[u8], path: &[u8]) -> Option<CString> {
    if path.is_empty() || path.starts_with(b"/") {
        return CString::new(path).ok();
    }
    let mut joined = Vec::with_capacity(base.len() + 1 + path.len() + 1);
    joined.extend_from_slice(base);
    if !base.ends_with(b"/") {
        joined.push(b'/');
    }
    joined.extend_from_slice(path);
    CString::new(joined).ok()
}

fn job(class: Class, job: FsJob) -> What {
    What::Job { class, job: Box::new(job) }
}

fn on(handle: &[u8], ask: HandleAsk) -> What {
    What::Handle { name: HandleName::parse(handle), ask }
}

/// Whether a handle opened with these wire flags can be written.
pub const fn writable(flags: u32) -> bool {
    flags & open::WRITE != 0
}

const _: () = assert!(SFTP_WAITING_BYTES_MAX >= crate::limits::SFTP_REQUEST_BYTES_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_base() {
        let at = |base: &str, path: &str| {
            absolute(base.as_bytes(), path.as_bytes()).map(|p| p.into_string().expect("UTF-8"))
        };
        assert_eq!(at("/home/me", "a/b"), Some("/home/me/a/b".into()));
        assert_eq!(at("/", "a"), Some("/a".into()));
        assert_eq!(at("/home/me", "/a"), Some("/a".into()));
        assert_eq!(at("/home/me", ""), Some("".into()));
        assert_eq!(at("/home/me", "a\0b"), None);
        // The draft's order from the clients that keep to it, and OpenSSH's from all others.
        for (ident, target, path) in [
            ("SSH-2.0-OpenSSH_9.2p1", "rel", "/h/l"),
            ("SSH-2.0-libssh2_1.10.0", "rel", "/h/l"),
            ("SSH-2.0-libssh_0.10.6", "l", "/h/rel"),
            ("SSH-2.0-AsyncSSH_2.10.1", "l", "/h/rel"),
        ] {
            let mut options = Options::default();
            options.know_client(ident.as_bytes());
            let operation = Operation::SymbolicLink { target: b"rel", path: b"l" };
            let waiting = wait(&Request { id: 1, operation }, b"/h", &options);
            let What::Job { job, .. } = waiting.what else { panic!("a job") };
            let FsJob::SymbolicLink { target: to, path: at } = *job else { panic!("a link") };
            assert_eq!((to.to_str(), at.to_str()), (Ok(target), Ok(path)), "{ident}");
        }
        let operation = Operation::SymbolicLink { target: b"rel", path: b"l" };
        let Some(What::Job { job, .. }) = what(&operation, b"/h", None) else { panic!("a job") };
        let FsJob::SymbolicLink { target, path } = *job else { panic!("a link") };
        assert_eq!((target.as_bytes(), path.as_bytes()), (&b"rel"[..], &b"/h/l"[..]));
    }

    #[test]
    fn nul_bytes_are_bad_messages() {
        let request = Request { id: 4, operation: Operation::Stat { path: b"a\0b" } };
        let waiting = wait(&request, b"/", &Options::default());
        assert!(matches!(waiting, Waiting { id: 4, what: What::Status(StatusCode::BadMessage) }));
    }
}
