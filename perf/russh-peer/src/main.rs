//! A server made of russh and russh-sftp on aws-lc-rs, to measure beside:
//!
//!     tidegate-russh-peer PORT HOST-KEY AUTHORIZED-KEYS
//!
//! It listens on 127.0.0.1 (or on the address in PEER_ADDRESS), lets in whoever has one of the keys,
//! runs commands by `sh -c` and serves files as the account that started it. What can be chosen is
//! chosen in its favour: TCP_NODELAY, file reads and writes on the spot instead of on another thread,
//! pieces of 255 KiB by `limits@openssh.com`. Neither penalties nor accounts nor logs: it does less
//! than a server that one would run.

mod files;

use std::collections::{HashMap, HashSet};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Msg, Server, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use tokio::io::{AsyncRead, AsyncReadExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Bytes read from a command or a forwarded connection at once.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
struct Peer {
    keys: Arc<Vec<PublicKey>>,
}

impl Server for Peer {
    type Handler = Client;

    fn new_client(&mut self, _: Option<std::net::SocketAddr>) -> Client {
        let keys = Arc::clone(&self.keys);
        Client { keys, channels: HashMap::new(), files: HashSet::new() }
    }
}

struct Client {
    keys: Arc<Vec<PublicKey>>,
    channels: HashMap<ChannelId, Channel<Msg>>,
    /// Those on which SFTP is spoken.
    files: HashSet<ChannelId>,
}

impl russh::server::Handler for Client {
    type Error = anyhow::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth> {
        let known = self.keys.iter().any(|known| known.key_data() == key.public_key.key_data());
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<()> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    /// A forwarded connection.
    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<()> {
        let mut socket = TcpStream::connect((host, u16::try_from(port)?)).await?;
        reply.accept().await;
        tokio::spawn(async move {
            let mut stream = channel.into_stream();
            let size = PIECE_BYTES;
            // An end that has left ends both.
            drop(copy_bidirectional_with_sizes(&mut stream, &mut socket, size, size).await);
        });
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<()> {
        match self.channels.remove(&id).filter(|_| name == "sftp") {
            Some(channel) => {
                session.channel_success(id)?;
                self.files.insert(id);
                russh_sftp::server::run(channel.into_stream(), files::Files::default()).await;
            }
            None => session.channel_failure(id)?,
        }
        Ok(())
    }

    /// `scp` wants to hear how the subsystem ended, and russh-sftp does not say.
    async fn channel_eof(&mut self, id: ChannelId, session: &mut Session) -> Result<()> {
        if self.files.remove(&id) {
            session.exit_status_request(id, 0)?;
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<()> {
        let command = String::from_utf8_lossy(command).into_owned();
        match self.channels.remove(&id) {
            Some(channel) => {
                session.channel_success(id)?;
                tokio::spawn(async move {
                    if let Err(error) = run(channel, &command).await {
                        eprintln!("{command}: {error:#}");
                    }
                });
            }
            None => session.channel_failure(id)?,
        }
        Ok(())
    }
}

/// A command, from its start to its exit status.
async fn run(channel: Channel<Msg>, command: &str) -> Result<()> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (mut input, output) = (child.stdin.take(), child.stdout.take().context("no output")?);
    let (mut from, to) = channel.split();
    let feed = tokio::spawn(async move {
        if let Some(mut input) = input.take() {
            // A command that does not read its input to the end is no error.
            drop(tokio::io::copy(&mut from.make_reader(), &mut input).await);
        }
    });
    pass(output, &to).await?;
    let status = child.wait().await?;
    feed.abort();
    to.eof().await?;
    to.exit_status(status.code().unwrap_or(255) as u32).await?;
    Ok(to.close().await?)
}

async fn pass(mut output: impl AsyncRead + Unpin, to: &russh::ChannelWriteHalf<Msg>) -> Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if output.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        to.data_bytes(piece).await?;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().with_context(|| format!("{what} is missing"));
    let port: u16 = next("PORT")?.parse().context("PORT")?;
    let host_key = russh::keys::load_secret_key(next("HOST-KEY")?, None)?;
    let authorized = std::fs::read_to_string(next("AUTHORIZED-KEYS")?)?;
    let keys: Result<Vec<_>, _> = authorized.lines().map(PublicKey::from_openssh).collect();
    let mut config = Config {
        keys: vec![host_key],
        auth_rejection_time: Duration::ZERO,
        nodelay: true,
        inactivity_timeout: None,
        // With its default of 100 it hangs on `sftp get`: it waits for room for the client's requests
        // while the answers wait for the client's window, which it does not read then.
        channel_buffer_size: 8192,
        event_buffer_size: 1024,
        ..Config::default()
    };
    // Its own list, in its own order, with the one cipher that it knows and does not offer.
    config.preferred.cipher.to_mut().push(russh::cipher::AES_128_GCM);
    let address = std::env::var("PEER_ADDRESS").unwrap_or_else(|_| "127.0.0.1".into());
    let mut peer = Peer { keys: Arc::new(keys?) };
    Ok(peer.run_on_address(Arc::new(config), (address, port)).await?)
}
