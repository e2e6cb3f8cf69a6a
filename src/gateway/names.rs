//! Names that the system knows: of clients (UseDNS), which decide only where they lead back to the
//! address, and of services.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::ptr::null_mut;
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use tracing::{debug, info};

use crate::base::escape;

/// What the system's resolver says. Calls block, for as long as the resolver's time-outs let them.
pub trait Resolver: Send + Sync {
    /// The name that is registered for an address.
    fn name_of(&self, address: IpAddr) -> Option<String>;

    /// The addresses of a name.
    ///
    /// # Errors
    /// There are none, or nobody answers.
    fn addresses_of(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's own: nsswitch.conf(5) says where it looks.
pub struct System;

impl Resolver for System {
    fn name_of(&self, address: IpAddr) -> Option<String> {
        let socket = SockaddrStorage::from(std::net::SocketAddr::new(address, 0));
        let mut name = [0; libc::NI_MAXHOST as usize];
        // SAFETY: the address and the buffer are valid for their lengths, which are passed along;
        // no name of a service is asked for.
        let failed = unsafe {
            libc::getnameinfo(
                socket.as_ptr(),
                socket.len(),
                name.as_mut_ptr().cast(),
                name.len() as libc::socklen_t,
                null_mut(),
                0,
                libc::NI_NAMEREQD,
            )
        };
        if failed != 0 {
            return None;
        }
        CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
    }

    fn addresses_of(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
    }
}

/// The peer's name in lower case; `None` where it has none that can be believed: whoever holds an
/// address may register any name for it, so the name's own addresses must hold it too.
pub fn of_peer(resolver: &dyn Resolver, address: IpAddr) -> Option<Arc<str>> {
    let address = address.to_canonical();
    let Some(name) = resolver.name_of(address) else {
        debug!(%address, "There is no name for {address}");
        return None;
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let shown = escape(name.as_bytes());
    // A name that reads as an address would pass for that address in patterns.
    if name.is_empty() || name.parse::<IpAddr>().is_ok() {
        info!(%address, %shown, "The name of {address} is {shown}, which is no name; ignored");
        return None;
    }
    match resolver.addresses_of(&name) {
        Ok(found) if found.iter().any(|found| found.to_canonical() == address) => Some(name.into()),
        Ok(_) => {
            info!(
                %address, %shown,
                "Address {address} maps to {shown}, but this does not map back to the address."
            );
            None
        }
        Err(why) => {
            info!(%address, %shown, "The addresses of {shown} ({address}) are not known: {why}");
            None
        }
    }
}

/// The TCP port of a service by its name in services(5), like `ssh`.
pub fn service_port(name: &str) -> Option<u16> {
    // A number is no name, and the C library would take it for one with blanks before it.
    if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let name = CString::new(name).ok()?;
    // SAFETY: all of its fields are numbers and pointers, for which zero stands for nothing.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    (hints.ai_family, hints.ai_socktype) = (libc::AF_INET, libc::SOCK_STREAM);
    let mut found: *mut libc::addrinfo = null_mut();
    // SAFETY: the name ends with NUL, and hints and found outlive the call.
    let failed =
        unsafe { libc::getaddrinfo(null_mut(), name.as_ptr(), &raw const hints, &raw mut found) };
    if failed != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so there is a first item, and its address of the family that was
    // asked for is as long as it says.
    let address = unsafe { SockaddrStorage::from_raw((*found).ai_addr, Some((*found).ai_addrlen)) };
    // SAFETY: it came from getaddrinfo and is not used again.
    unsafe { libc::freeaddrinfo(found) };
    Some(address?.as_sockaddr_in()?.port())
}

/// Whether there is a network device of this name.
pub fn is_device(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_ports() {
        for none in ["", "22", " 22", "0x16", "no-such-service", "a\0b"] {
            assert_eq!(service_port(none), None, "{none:?}");
        }
        // Where services(5) is installed at all.
        assert!(service_port("ssh").is_none_or(|port| port == 22));
    }

    struct Book(&'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

    impl Resolver for Book {
        fn name_of(&self, address: IpAddr) -> Option<String> {
            let found = self.0.iter().find(|(known, _)| *known == address.to_string());
            found.map(|(_, name)| (*name).to_owned())
        }

        fn addresses_of(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let found = self.1.iter().filter(|(known, _)| *known == name);
            let found = found.map(|(_, address)| address.parse().expect("an address"));
            Some(found.collect::<Vec<_>>())
                .filter(|found| !found.is_empty())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn a_name_counts_where_it_leads_back() {
        let book = Book(
            &[
                ("192.0.2.1", "One.Example."),
                ("192.0.2.2", "bank.example"),
                ("192.0.2.3", "192.0.2.9"),
                ("192.0.2.4", "nowhere.example"),
                ("192.0.2.5", "."),
                ("2001:db8::1", "six.example"),
            ],
            &[
                ("one.example", "192.0.2.77"),
                ("one.example", "192.0.2.1"),
                ("bank.example", "198.51.100.1"),
                ("192.0.2.9", "192.0.2.3"),
                ("six.example", "2001:db8::1"),
            ],
        );
        for (address, name) in [
            ("192.0.2.1", Some("one.example")),
            ("::ffff:192.0.2.1", Some("one.example")),
            ("192.0.2.2", None),
            ("192.0.2.3", None),
            ("192.0.2.4", None),
            ("192.0.2.5", None),
            ("192.0.2.6", None),
            ("2001:db8::1", Some("six.example")),
        ] {
            let found = of_peer(&book, address.parse().expect("an address"));
            assert_eq!(found.as_deref(), name, "{address}");
        }
    }

    #[test]
    fn the_system_knows_its_own_name() {
        // /etc/hosts has it everywhere; where it has not, there is nothing to see.
        let Some(name) = System.name_of([127, 0, 0, 1].into()) else { return };
        let addresses = System.addresses_of(&name).expect("addresses");
        let leads_back = addresses.iter().any(|found| *found == IpAddr::from([127, 0, 0, 1]));
        let found = of_peer(&System, [127, 0, 0, 1].into());
        assert_eq!(found.as_deref(), leads_back.then_some(name.to_ascii_lowercase()).as_deref());
    }
}
