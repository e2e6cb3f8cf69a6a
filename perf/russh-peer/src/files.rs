//! Files over SFTP, as much of it as `sftp` and `scp` need to move them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as Entry, FileAttributes, Handle, Name, OpenFlags, Packet,
    Status, StatusCode, Version,
};
use russh_sftp::server::Handler;

/// What `limits@openssh.com` answers: the largest packet that russh-sftp takes, and what fits into it.
const PACKET_BYTES_MAX: u64 = 256 * 1024;
const DATA_BYTES_MAX: u64 = 255 * 1024;

#[derive(Default)]
pub struct Files {
    open: HashMap<String, File>,
    next: u64,
}

type Answer<T> = Result<T, StatusCode>;

fn code(error: io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NoSuchFile,
        io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
        _ => StatusCode::Failure,
    }
}

fn done(id: u32) -> Answer<Status> {
    let (error_message, language_tag) = (String::new(), String::new());
    Ok(Status { id, status_code: StatusCode::Ok, error_message, language_tag })
}

fn attributes(id: u32, metadata: io::Result<fs::Metadata>) -> Answer<Attrs> {
    Ok(Attrs { id, attrs: FileAttributes::from(&metadata.map_err(code)?) })
}

impl Files {
    fn file(&self, handle: &str) -> Answer<&File> {
        self.open.get(handle).ok_or(StatusCode::Failure)
    }
}

impl Handler for Files {
    type Error = StatusCode;

    fn unimplemented(&self) -> StatusCode {
        StatusCode::OpUnsupported
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Answer<Version> {
        let mut version = Version::new();
        version.extensions.insert("limits@openssh.com".into(), "1".into());
        Ok(version)
    }

    async fn extended(&mut self, id: u32, request: String, _: Vec<u8>) -> Answer<Packet> {
        if request != "limits@openssh.com" {
            return Err(StatusCode::OpUnsupported);
        }
        let limits = [PACKET_BYTES_MAX, DATA_BYTES_MAX, DATA_BYTES_MAX, 0];
        let data = limits.iter().flat_map(|limit| limit.to_be_bytes()).collect();
        Ok(Packet::ExtendedReply(ExtendedReply { id, data }))
    }

    async fn open(
        &mut self,
        id: u32,
        name: String,
        flags: OpenFlags,
        _: FileAttributes,
    ) -> Answer<Handle> {
        let file = OpenOptions::from(flags).open(name).map_err(code)?;
        self.next += 1;
        let handle = self.next.to_string();
        self.open.insert(handle.clone(), file);
        Ok(Handle { id, handle })
    }

    async fn close(&mut self, id: u32, handle: String) -> Answer<Status> {
        self.open.remove(&handle).ok_or(StatusCode::Failure)?;
        done(id)
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, len: u32) -> Answer<Data> {
        let mut data = vec![0; len.min(DATA_BYTES_MAX as u32) as usize];
        match self.file(&handle)?.read_at(&mut data, offset).map_err(code)? {
            0 => Err(StatusCode::Eof),
            got => {
                data.truncate(got);
                Ok(Data { id, data })
            }
        }
    }

    async fn write(&mut self, id: u32, handle: String, at: u64, data: Vec<u8>) -> Answer<Status> {
        self.file(&handle)?.write_all_at(&data, at).map_err(code)?;
        done(id)
    }

    async fn stat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        attributes(id, fs::metadata(path))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        attributes(id, fs::symlink_metadata(path))
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Answer<Attrs> {
        attributes(id, self.file(&handle)?.metadata())
    }

    /// Modes and times are taken and not set; the data is what is measured.
    async fn setstat(&mut self, id: u32, _: String, _: FileAttributes) -> Answer<Status> {
        done(id)
    }

    async fn fsetstat(&mut self, id: u32, _: String, _: FileAttributes) -> Answer<Status> {
        done(id)
    }

    async fn remove(&mut self, id: u32, path: String) -> Answer<Status> {
        fs::remove_file(path).map_err(code)?;
        done(id)
    }

    async fn realpath(&mut self, id: u32, path: String) -> Answer<Name> {
        let path = fs::canonicalize(&path).map_or(path, |path| path.display().to_string());
        Ok(Name { id, files: vec![Entry::dummy(path)] })
    }
}
