//! Flow control and the order of channel messages, kept from outside by what both sides have said.

use std::collections::BTreeMap;

use crate::wire::auth::{
    PublicKeyOk, UserAuthBanner, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use crate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure, ChannelOpen,
    ChannelOpenConfirmation, ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust,
    GlobalRequest, OpenHead, RequestFailure, RequestSuccess,
};
use crate::wire::request::ChannelRequest;
use crate::wire::transport::{
    Debug, Disconnect, ExtInfo, Ignore, Ping, Pong, ServiceAccept, ServiceRequest, Unimplemented,
};
use crate::wire::{Malformed, Message, number};

/// What the puppet has granted, and what the subject has made of it. Keyed by the puppet's own
/// channel numbers; a script may use one number twice, and then their credits add up here.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    channels: BTreeMap<u32, Account>,
    /// The subject's number of a channel, and the puppet's.
    numbers: BTreeMap<u32, u32>,
    /// By the subject's numbers: what it has granted and what the puppet has sent, in bytes.
    granted: BTreeMap<u32, u64>,
    sent: BTreeMap<u32, u64>,
    requests: u64,
    replies: u64,
}

#[derive(Debug, Default)]
struct Account {
    credit: u64,
    packet_max: u32,
    opened: u32,
    ended: u32,
    closed: u32,
}

impl Ledger {
    /// Something the puppet sends. What is no message grants nothing.
    pub(super) fn said(&mut self, payload: &[u8]) {
        match payload.first() {
            Some(&number::CHANNEL_OPEN) => match ChannelOpen::parse(payload) {
                Ok(open) => self.grant(open.sender.0, open.window_bytes, open.packet_bytes_max),
                // A name in it is too long; it is answered by the number.
                Err(Malformed::OverLimit) => {
                    if let Ok(head) = OpenHead::of(payload) {
                        self.account(head.sender.0);
                    }
                }
                Err(_) => {}
            },
            Some(&number::CHANNEL_OPEN_CONFIRMATION) => {
                if let Ok(opened) = ChannelOpenConfirmation::parse(payload) {
                    self.numbers.insert(opened.recipient.0, opened.sender.0);
                    self.grant(opened.sender.0, opened.window_bytes, opened.packet_bytes_max);
                    self.account(opened.sender.0).opened += 1;
                }
            }
            Some(&number::CHANNEL_WINDOW_ADJUST) => {
                if let Ok(adjust) = ChannelWindowAdjust::parse(payload)
                    && let Some(ours) = self.numbers.get(&adjust.recipient.0).copied()
                {
                    self.account(ours).credit += u64::from(adjust.bytes);
                }
            }
            Some(&number::CHANNEL_DATA) => {
                if let Ok(message) = ChannelData::parse(payload) {
                    self.send(message.recipient.0, message.data.len());
                }
            }
            Some(&number::CHANNEL_EXTENDED_DATA) => {
                if let Ok(message) = ChannelExtendedData::parse(payload) {
                    self.send(message.recipient.0, message.data.len());
                }
            }
            Some(&(number::CHANNEL_REQUEST | number::GLOBAL_REQUEST)) => self.requests += 1,
            _ => {}
        }
    }

    /// Whether the puppet has sent more than it was ever let, on a channel that there is.
    pub(super) fn overran(&self) -> bool {
        let over = |(theirs, sent): (&u32, &u64)| {
            self.granted.get(theirs).is_some_and(|granted| sent > granted)
        };
        self.sent.iter().any(over)
    }

    fn send(&mut self, theirs: u32, len: usize) {
        *self.sent.entry(theirs).or_default() += len as u64;
    }

    /// Something the subject has sent: a message of the right shape, within its rights.
    pub(super) fn heard(&mut self, payload: &[u8]) {
        self.check(payload).expect("the subject's messages can be read");
    }

    fn check(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        match payload[0] {
            number::DISCONNECT => drop(Disconnect::parse(payload)?),
            number::IGNORE => drop(Ignore::parse(payload)?),
            number::UNIMPLEMENTED => drop(Unimplemented::parse(payload)?),
            number::DEBUG => drop(Debug::parse(payload)?),
            number::SERVICE_REQUEST => drop(ServiceRequest::parse(payload)?),
            number::SERVICE_ACCEPT => drop(ServiceAccept::parse(payload)?),
            number::EXT_INFO => drop(ExtInfo::parse(payload)?),
            number::USERAUTH_REQUEST => drop(UserAuthRequest::parse(payload)?),
            number::USERAUTH_FAILURE => drop(UserAuthFailure::parse(payload)?),
            number::USERAUTH_SUCCESS => drop(UserAuthSuccess::parse(payload)?),
            number::USERAUTH_BANNER => drop(UserAuthBanner::parse(payload)?),
            number::USERAUTH_PK_OK => drop(PublicKeyOk::parse(payload)?),
            number::GLOBAL_REQUEST => drop(GlobalRequest::parse(payload)?),
            number::REQUEST_SUCCESS => drop(RequestSuccess::parse(payload)?),
            number::REQUEST_FAILURE => {
                RequestFailure::parse(payload)?;
                self.replied();
            }
            number::PING => drop(Ping::parse(payload)?),
            number::PONG => drop(Pong::parse(payload)?),
            _ => self.check_channel(payload)?,
        }
        Ok(())
    }

    fn check_channel(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        match payload[0] {
            number::CHANNEL_OPEN => {
                let open = ChannelOpen::parse(payload)?;
                *self.granted.entry(open.sender.0).or_default() += u64::from(open.window_bytes);
            }
            number::CHANNEL_OPEN_CONFIRMATION => {
                let opened = ChannelOpenConfirmation::parse(payload)?;
                self.numbers.insert(opened.sender.0, opened.recipient.0);
                let granted = self.granted.entry(opened.sender.0).or_default();
                *granted += u64::from(opened.window_bytes);
                self.known(opened.recipient.0).opened += 1;
            }
            number::CHANNEL_OPEN_FAILURE => {
                let failed = ChannelOpenFailure::parse(payload)?;
                self.known(failed.recipient.0);
            }
            number::CHANNEL_WINDOW_ADJUST => {
                let adjust = ChannelWindowAdjust::parse(payload)?;
                assert!(adjust.bytes > 0, "an adjustment by nothing");
                let ours = adjust.recipient.0;
                self.open(ours);
                // A script may give one number to several channels: then any of them may be meant.
                for (theirs, named) in &self.numbers {
                    if *named == ours {
                        *self.granted.entry(*theirs).or_default() += u64::from(adjust.bytes);
                    }
                }
            }
            number::CHANNEL_DATA => {
                let message = ChannelData::parse(payload)?;
                self.data(message.recipient.0, message.data.len());
            }
            number::CHANNEL_EXTENDED_DATA => {
                let message = ChannelExtendedData::parse(payload)?;
                self.data(message.recipient.0, message.data.len());
            }
            number::CHANNEL_EOF => {
                let account = self.open(ChannelEof::parse(payload)?.recipient.0);
                account.ended += 1;
                assert!(account.ended <= account.opened, "EOF twice");
            }
            number::CHANNEL_CLOSE => {
                let account = self.open(ChannelClose::parse(payload)?.recipient.0);
                account.closed += 1;
            }
            number::CHANNEL_REQUEST => {
                let request = ChannelRequest::parse(payload)?;
                self.open(request.recipient.0);
            }
            number::CHANNEL_SUCCESS => {
                self.open(ChannelSuccess::parse(payload)?.recipient.0);
                self.replied();
            }
            number::CHANNEL_FAILURE => {
                self.open(ChannelFailure::parse(payload)?.recipient.0);
                self.replied();
            }
            other => panic!("the subject sent message {other}"),
        }
        Ok(())
    }

    fn data(&mut self, ours: u32, len: usize) {
        let account = self.open(ours);
        assert!(account.ended < account.opened, "data behind EOF");
        assert!(len > 0, "data of no bytes");
        assert!(len as u64 <= account.credit, "{len} bytes past the window");
        assert!(len <= account.packet_max as usize, "a packet past the limit");
        account.credit -= len as u64;
    }

    fn replied(&mut self) {
        self.replies += 1;
        assert!(self.replies <= self.requests, "more replies than requests");
    }

    fn grant(&mut self, ours: u32, window: u32, packet_max: u32) {
        let account = self.account(ours);
        account.credit += u64::from(window);
        account.packet_max = account.packet_max.max(packet_max);
    }

    fn account(&mut self, ours: u32) -> &mut Account {
        self.channels.entry(ours).or_default()
    }

    /// A channel the puppet has spoken of.
    fn known(&mut self, ours: u32) -> &mut Account {
        self.channels.get_mut(&ours).unwrap_or_else(|| panic!("channel {ours} out of nowhere"))
    }

    /// One that the subject may still speak on.
    fn open(&mut self, ours: u32) -> &mut Account {
        let account = self.known(ours);
        assert!(account.closed < account.opened, "a message behind CLOSE, on channel {ours}");
        account
    }
}
