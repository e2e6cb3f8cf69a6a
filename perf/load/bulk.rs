//! One channel that moves bytes one way: to or from a socket behind the server, or a command there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use tidegate::connection::{ChannelId, ChannelRequest};

use crate::client::{Client, Heard, Target};

/// Written to a socket, or put on a channel, at once.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Down,
    Up,
}

/// Moves so many bytes by the channel that `over` names: `tcp` or `exec`.
pub fn run(target: &Target, bytes: u64, way: Way, over: &str) -> Result<()> {
    let mut client = Client::login(target)?;
    match over {
        "tcp" => {
            let place = Place::start(bytes, way)?;
            let id = client.direct_tcpip(place.port)?;
            carry(&mut client, id, bytes, way)?;
            let seen = place.thread.join().expect("no panic")?;
            ensure!(seen == bytes, "the place saw {seen} of {bytes} bytes");
        }
        "exec" => {
            let command = match way {
                Way::Down => format!("exec head -c {bytes} /dev/zero"),
                Way::Up => "exec cat > /dev/null".to_owned(),
            };
            let command = command.into_bytes().into();
            let id = client.session(&[ChannelRequest::Exec { command }])?;
            carry(&mut client, id, bytes, way)?;
        }
        _ => bail!("{over} is neither tcp nor exec"),
    }
    client.disconnect()
}

/// The bytes of one way, and the end of both.
fn carry(client: &mut Client<'_>, id: ChannelId, bytes: u64, way: Way) -> Result<()> {
    if way == Way::Up {
        client.put(id, bytes)?;
    }
    client.eof(id)?;
    let mut got = 0;
    client.wait(|heard| match heard {
        Heard::Data { bytes } => {
            got += bytes.len() as u64;
            None
        }
        Heard::Closed => Some(()),
        _ => None,
    })?;
    let wanted = if way == Way::Down { bytes } else { 0 };
    ensure!(got == wanted, "{got} of {wanted} bytes came");
    client.close(id)
}

/// A listening socket behind the server that sends what goes down or takes what goes up.
struct Place {
    port: u16,
    thread: JoinHandle<Result<u64>>,
}

impl Place {
    fn start(bytes: u64, way: Way) -> Result<Place> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let serve = move || {
            let (mut socket, _) = listener.accept().context("accept")?;
            let mut moved = 0;
            if way == Way::Down {
                let piece = vec![0; PIECE_BYTES];
                while moved < bytes {
                    let some = (bytes - moved).min(PIECE_BYTES as u64) as usize;
                    socket.write_all(&piece[..some])?;
                    moved += some as u64;
                }
                socket.shutdown(Shutdown::Write)?;
            }
            let mut room = vec![0; PIECE_BYTES];
            loop {
                match socket.read(&mut room)? {
                    0 => return Ok(moved),
                    got => moved += got as u64,
                }
            }
        };
        Ok(Place { port, thread: thread::spawn(serve) })
    }
}

/// Takes every connection and keeps it open while the program runs; answers its port.
pub fn keep() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let mut kept: Vec<TcpStream> = Vec::new();
        kept.extend(listener.incoming().map_while(Result::ok));
    });
    Ok(port)
}
