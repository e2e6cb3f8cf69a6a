//! Critical options and extensions: names and values (PROTOCOL.certkeys). A critical option that is
//! not understood refuses the certificate; an extension that is not is passed over.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    limits::{
        CERTIFICATE_BYTES_MAX, CERTIFICATE_NETWORKS_MAX, CERTIFICATE_OPTIONS_MAX, NAME_BYTES_MAX,
    },
    wire::{Malformed, NoSpace, Reader, Writer},
};

pub(super) const FORCE_COMMAND: &str = "force-command";
pub(super) const SOURCE_ADDRESS: &str = "source-address";
pub(super) const VERIFY_REQUIRED: &str = "verify-required";

/// Options in the order they came.
pub(super) struct Options(Box<[NamedOption]>);

/// A name and the bytes it came with.
struct NamedOption {
    name: Box<str>,
    data: Box<[u8]>,
}

impl Options {
    pub(super) fn decode(packed: &[u8]) -> Result<Options, Malformed> {
        let mut list = Vec::new();
        let mut body = Reader::new(packed);
        while !body.is_empty() {
            if list.len() == CERTIFICATE_OPTIONS_MAX {
                return Err(Malformed::OverLimit);
            }
            let name = Box::from(body.utf8(NAME_BYTES_MAX)?);
            list.push(NamedOption { name, data: Box::from(body.string(CERTIFICATE_BYTES_MAX)?) });
        }
        Ok(Options(list.into()))
    }

    /// The name of the first.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.first().map(|option| &*option.name)
    }
}

/// What the critical options of a user certificate ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Critical {
    pub(super) force_command: Option<Box<str>>,
    pub(super) source_address: Option<SourceAddress>,
    pub(super) verify_required: bool,
}

/// Why critical options refuse a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadCritical {
    Unknown(Box<str>),
    Repeated(&'static str),
    Value(&'static str),
}

impl Critical {
    pub(super) fn read(options: &Options) -> Result<Critical, BadCritical> {
        let mut critical = Critical::default();
        for option in &options.0 {
            match &*option.name {
                FORCE_COMMAND if critical.force_command.is_some() => {
                    return Err(BadCritical::Repeated(FORCE_COMMAND));
                }
                SOURCE_ADDRESS if critical.source_address.is_some() => {
                    return Err(BadCritical::Repeated(SOURCE_ADDRESS));
                }
                VERIFY_REQUIRED if critical.verify_required => {
                    return Err(BadCritical::Repeated(VERIFY_REQUIRED));
                }
                FORCE_COMMAND => {
                    let command = option.text().filter(|text| !text.contains('\0'));
                    let command = command.ok_or(BadCritical::Value(FORCE_COMMAND))?;
                    critical.force_command = Some(command.into());
                }
                SOURCE_ADDRESS => {
                    let networks = option.text().and_then(SourceAddress::new);
                    let networks = networks.ok_or(BadCritical::Value(SOURCE_ADDRESS))?;
                    critical.source_address = Some(networks);
                }
                VERIFY_REQUIRED if option.data.is_empty() => critical.verify_required = true,
                VERIFY_REQUIRED => return Err(BadCritical::Value(VERIFY_REQUIRED)),
                other => return Err(BadCritical::Unknown(other.into())),
            }
        }
        Ok(critical)
    }
}

impl NamedOption {
    /// The string that fills the data.
    fn text(&self) -> Option<&str> {
        let mut body = Reader::new(&self.data);
        let text = body.utf8(CERTIFICATE_BYTES_MAX).ok()?;
        body.end().ok().map(|()| text)
    }
}

/// Where a certificate may be used from: one network at least, so that an empty list is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceAddress(Box<[IpNet]>);

impl SourceAddress {
    /// `192.0.2.0/24,2001:db8::1`: addresses and networks alone, no names, patterns or negation.
    /// As with sshd, bits behind the mask must be zero and an empty item spoils the list.
    pub(super) fn new(text: &str) -> Option<SourceAddress> {
        if text.split(',').count() > CERTIFICATE_NETWORKS_MAX {
            return None;
        }
        let networks = text.split(',').map(network).collect::<Option<Vec<_>>>()?;
        Some(SourceAddress(networks.into()))
    }

    /// An IPv4 address that arrived mapped into IPv6 is judged as IPv4.
    pub(super) fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Some(network),
        Ok(_) => None,
        Err(_) => text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical())),
    }
}

/// What a user certificate permits. Without an extension the thing is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub x11_forwarding: bool,
    pub agent_forwarding: bool,
    pub port_forwarding: bool,
    pub pty: bool,
    pub user_rc: bool,
    /// Signatures of a security key count although nobody touched it.
    pub no_touch_required: bool,
}

impl Extensions {
    /// What `ssh-keygen -s` puts into a user certificate unless told otherwise.
    pub const USUAL: Extensions = Extensions {
        x11_forwarding: true,
        agent_forwarding: true,
        port_forwarding: true,
        pty: true,
        user_rc: true,
        no_touch_required: false,
    };

    pub(super) fn read(options: &Options) -> Extensions {
        let mut extensions = Extensions::default();
        for option in &options.0 {
            // An unknown extension means nothing to us, and may.
            if let Some((_, flag)) =
                extensions.fields().into_iter().find(|(name, _)| *name == &*option.name)
            {
                *flag = true;
            }
        }
        extensions
    }

    /// Written in the order of their names, as PROTOCOL.certkeys asks.
    pub(super) fn write(mut self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        for (name, present) in self.fields() {
            if *present {
                out.string(name.as_bytes())?;
                out.string(b"")?;
            }
        }
        Ok(())
    }

    /// In the order of their names.
    const fn fields(&mut self) -> [(&'static str, &mut bool); 6] {
        [
            ("no-touch-required", &mut self.no_touch_required),
            ("permit-X11-forwarding", &mut self.x11_forwarding),
            ("permit-agent-forwarding", &mut self.agent_forwarding),
            ("permit-port-forwarding", &mut self.port_forwarding),
            ("permit-pty", &mut self.pty),
            ("permit-user-rc", &mut self.user_rc),
        ]
    }
}
