use std::ffi::CString;

use super::fs::{FsJob, Subject};
use super::handles::HandleName;
use super::options::Options;
use super::waiting::{Class, CopyAsk, HandleAsk, Waiting, What};
use crate::limits::{SFTP_REQUEST_BYTES_MAX, SFTP_WAITING_BYTES_MAX};
use crate::wire::Writer;
use crate::wire::sftp::{Attributes, Operation, Request, StatusCode, extension, open};

/// Permissions of a new file, and of a new directory, when the client names none; the umask of the
/// account applies.
const FILE_PERMISSIONS: u32 = 0o666;
const DIRECTORY_PERMISSIONS: u32 = 0o777;
/// A request that is written again may have permissions that it had not.
const UNREAD_BYTES_MAX: usize = SFTP_REQUEST_BYTES_MAX as usize + 16;

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

/// A request that [`wait`] read, as it can be read again by a session with the same base and options. `None`
/// for what comes of no request.
pub fn unread(waiting: &Waiting, base: &[u8], options: &Options) -> Option<Vec<u8>> {
    let put = |operation: Operation<'_>| {
        let mut space = vec![0; UNREAD_BYTES_MAX];
        let mut out = Writer::new(&mut space);
        let operation = match operation {
            Operation::SymbolicLink { target: path, path: target } if options.link_first => {
                Operation::SymbolicLink { target, path }
            }
            operation => operation,
        };
        let written = Request { id: waiting.id, operation }.write(&mut out);
        written.is_ok().then(|| out.written().to_vec())
    };
    match &waiting.what {
        What::Read { handle, offset, len } => {
            put(Operation::Read { handle: &handle.to_bytes(), offset: *offset, len: *len })
        }
        What::Handle { name, ask } => put(unread_ask(&name.to_bytes(), ask)),
        What::Copy(ask) => put(Operation::CopyData {
            from: &ask.from.0.to_bytes(),
            from_offset: ask.from.1,
            len: ask.len,
            to: &ask.to.0.to_bytes(),
            to_offset: ask.to.1,
        }),
        What::Limits => put(Operation::Limits),
        What::Job { job, .. } | What::Forbidden(job) => put(unread_job(job, base)?),
        What::Init | What::Status(_) => None,
    }
}

fn unread_ask<'a>(handle: &'a [u8], ask: &HandleAsk) -> Operation<'a> {
    match ask {
        HandleAsk::Close => Operation::Close { handle },
        HandleAsk::Stat => Operation::HandleStat { handle },
        HandleAsk::SetStat(attributes) => {
            Operation::HandleSetStat { handle, attributes: **attributes }
        }
        HandleAsk::ReadDirectory => Operation::ReadDirectory { handle },
        HandleAsk::VfsStat => Operation::HandleVfsStat { handle },
        HandleAsk::Fsync => Operation::Fsync { handle },
        HandleAsk::Hash { offset, len, block } => Operation::CheckFile {
            handle,
            hashes: extension::CHECK_FILE_HASH,
            offset: *offset,
            len: *len,
            block: *block,
        },
    }
}

fn unread_job<'a>(job: &'a FsJob, base: &[u8]) -> Option<Operation<'a>> {
    let from = |path: &'a CString| relative(base, path.to_bytes());
    let permissions = |bits: &u32| Attributes { permissions: Some(*bits), ..Attributes::EMPTY };
    Some(match job {
        FsJob::Open { path, flags, permissions: bits, .. } => {
            Operation::Open { path: from(path), flags: *flags, attributes: permissions(bits) }
        }
        FsJob::MakeDirectory { path, permissions: bits, .. } => {
            Operation::MakeDirectory { path: from(path), attributes: permissions(bits) }
        }
        FsJob::OpenDirectory { path } => Operation::OpenDirectory { path: from(path) },
        FsJob::Stat { subject: Subject::Path(path) } => Operation::Stat { path: from(path) },
        FsJob::Stat { subject: Subject::Link(path) } => Operation::LinkStat { path: from(path) },
        FsJob::VfsStat { subject: Subject::Path(path) } => Operation::VfsStat { path: from(path) },
        FsJob::SetStat { subject: Subject::Path(path), attributes } => {
            Operation::SetStat { path: from(path), attributes: *attributes }
        }
        FsJob::SetStat { subject: Subject::Link(path), attributes } => {
            Operation::LinkSetStat { path: from(path), attributes: *attributes }
        }
        FsJob::Remove { path } => Operation::Remove { path: from(path) },
        FsJob::RemoveDirectory { path } => Operation::RemoveDirectory { path: from(path) },
        FsJob::RealPath { path, .. } => Operation::RealPath { path },
        FsJob::ExpandPath { path, .. } => Operation::ExpandPath { path },
        FsJob::Rename { from: old, to, replace: false } => {
            Operation::Rename { from: from(old), to: from(to) }
        }
        FsJob::Rename { from: old, to, replace: true } => {
            Operation::PosixRename { from: from(old), to: from(to) }
        }
        FsJob::ReadLink { path } => Operation::ReadLink { path: from(path) },
        FsJob::SymbolicLink { target, path } => {
            Operation::SymbolicLink { target: target.to_bytes(), path: from(path) }
        }
        FsJob::HardLink { existing, path } => {
            Operation::HardLink { existing: from(existing), path: from(path) }
        }
        FsJob::HomeDirectory { user } => Operation::HomeDirectory { user },
        FsJob::NamesById { users, groups } => Operation::NamesById { users, groups },
        FsJob::Base { .. }
        | FsJob::ReadDirectory { .. }
        | FsJob::Close { .. }
        | FsJob::Stat { subject: Subject::Handle(_) }
        | FsJob::SetStat { subject: Subject::Handle(_), .. }
        | FsJob::VfsStat { subject: Subject::Link(_) | Subject::Handle(_) }
        | FsJob::Copy(_)
        | FsJob::Hash(_) => return None,
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

/// What [`absolute`] makes the same path of: as short as the client may have sent it, for its length has a
/// bound.
fn relative<'a>(base: &[u8], path: &'a [u8]) -> &'a [u8] {
    let below = path.strip_prefix(base);
    let below = below.and_then(|rest| match base.ends_with(b"/") {
        true => Some(rest),
        false => rest.strip_prefix(b"/"),
    });
    below.filter(|rest| !rest.is_empty() && !rest.starts_with(b"/")).unwrap_or(path)
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

    /// What is written again is read as what it was, in whatever words it came.
    #[test]
    fn requests_that_wait_can_be_read_again() {
        let (handle, long) = (&[1, 2, 3, 4, 5, 6, 7, 8][..], vec![b'x'; 4_000]);
        let attributes = Attributes { size: Some(9), times: Some((1, 2)), ..Attributes::EMPTY };
        let (hashes, path, deep) = (&b"md5,sha256"[..], &b"a/b"[..], &b"/h/me//c"[..]);
        let operations = [
            Operation::Open { path, flags: 0x1a, attributes },
            Operation::Open { path: deep, flags: 1, attributes: Attributes::EMPTY },
            Operation::Close { handle },
            Operation::Close { handle: b"none" },
            Operation::Read { handle, offset: 1 << 40, len: 77 },
            Operation::LinkStat { path: &long },
            Operation::HandleStat { handle },
            Operation::SetStat { path, attributes },
            Operation::HandleSetStat { handle, attributes },
            Operation::OpenDirectory { path: b"" },
            Operation::ReadDirectory { handle },
            Operation::Remove { path: b"/h/me/" },
            Operation::MakeDirectory { path, attributes },
            Operation::RemoveDirectory { path: b"/h/me" },
            Operation::RealPath { path: b"." },
            Operation::Stat { path: b"/h/me/x" },
            Operation::Rename { from: path, to: b"/h/mex" },
            Operation::ReadLink { path },
            Operation::SymbolicLink { target: b"to", path },
            Operation::PosixRename { from: deep, to: path },
            Operation::VfsStat { path },
            Operation::HandleVfsStat { handle },
            Operation::HardLink { existing: path, path: deep },
            Operation::Fsync { handle },
            Operation::LinkSetStat { path, attributes },
            Operation::Limits,
            Operation::ExpandPath { path: b"~/x" },
            Operation::CopyData { from: handle, from_offset: 5, len: 6, to: handle, to_offset: 7 },
            Operation::HomeDirectory { user: b"ann" },
            Operation::CheckFile { handle, hashes, offset: 1, len: 2, block: 3 },
            Operation::NamesById { users: &[0, 0, 0, 1], groups: &[] },
        ];
        let (mut usual, mut reading) = (Options::default(), Options::default());
        (usual.umask, reading.read_only) = (Some(0o27), true);
        let mut other_order = Options::default();
        other_order.know_client(b"SSH-2.0-libssh_0.10.6");
        for (n, operation) in operations.into_iter().enumerate() {
            for options in [&usual, &reading, &other_order] {
                for base in [&b"/h/me"[..], b"/"] {
                    let first = wait(&Request { id: n as u32, operation }, base, options);
                    let Some(again) = unread(&first, base, options) else {
                        assert!(matches!(first.what, What::Status(_)), "{first:?}");
                        continue;
                    };
                    let request = Request::parse(&again[4..]).expect("a request");
                    let second = wait(&request, base, options);
                    assert_eq!(format!("{first:?}"), format!("{second:?}"));
                }
            }
        }
    }

    #[test]
    fn nul_bytes_are_bad_messages() {
        let request = Request { id: 4, operation: Operation::Stat { path: b"a\0b" } };
        let waiting = wait(&request, b"/", &Options::default());
        assert!(matches!(waiting, Waiting { id: 4, what: What::Status(StatusCode::BadMessage) }));
    }
}
