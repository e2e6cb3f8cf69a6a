//! As much of SFTP as the loads speak: one request after the other.

use anyhow::{Context, Result, bail};
use tidegate::connection::{ChannelId, ChannelRequest};

use crate::client::{Client, Heard, Target};

/// Packet types of the file transfer protocol (draft-ietf-secsh-filexfer-02 §3).
const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
pub const READ: u8 = 5;
const STAT: u8 = 17;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const ATTRS: u8 = 105;

/// A login with an SFTP session.
pub fn start(target: &Target) -> Result<(Client<'_>, ChannelId)> {
    let mut client = Client::login(target)?;
    let id = client.session(&[ChannelRequest::Subsystem { name: "sftp".into() }])?;
    client.write(id, &[0, 0, 0, 5, INIT, 0, 0, 0, 3])?;
    reply(&mut client)?;
    Ok((client, id))
}

/// Opens a file for reading; answers its handle, as a string.
pub fn open(client: &mut Client<'_>, id: ChannelId, file: &str) -> Result<Vec<u8>> {
    let read_only = [0, 0, 0, 1, 0, 0, 0, 0];
    client.write(id, &request(OPEN, &[&string(file.as_bytes()), &read_only]))?;
    let answer = reply(client)?;
    // Length, type, request, and the handle's own length.
    let handle = answer.get(9..).filter(|_| answer.get(4) == Some(&HANDLE));
    Ok(handle.with_context(|| format!("{file} cannot be read"))?.to_vec())
}

/// Asks for the same `count` times: `open` (and CLOSE) or `stat`.
pub fn ask(target: &Target, count: i64, what: &str, file: &str) -> Result<()> {
    let (mut client, id) = start(target)?;
    for _ in 0..count {
        let (kind, field, wanted) = match what {
            "open" => (CLOSE, open(&mut client, id, file)?, STATUS),
            "stat" => (STAT, string(file.as_bytes()), ATTRS),
            other => bail!("{other} is neither open nor stat"),
        };
        client.write(id, &request(kind, &[&field]))?;
        let answer = reply(&mut client)?;
        if answer.get(4) != Some(&wanted) {
            bail!("{what} of {file} is refused");
        }
    }
    client.finish(id)
}

/// One whole SFTP packet; nothing else is under way.
fn reply(client: &mut Client<'_>) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        match client.hear()? {
            Heard::Data { bytes } => answer.extend_from_slice(&bytes),
            Heard::Closed => bail!("the server ended sftp"),
            _ => {}
        }
        if let Some(length) = answer.first_chunk::<4>()
            && answer.len() >= 4 + u32::from_be_bytes(*length) as usize
        {
            return Ok(answer);
        }
    }
}

pub fn request(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 1][..], &fields.concat()].concat();
    string(&body)
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
