/// Where a connection is routed: on Linux the name of the network device (a VRF, as a rule) that its
/// socket is bound to; empty for none. 15 bytes at most, by the kernel's own bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutingDomain {
    name: [u8; 15],
    len: u8,
}

impl RoutingDomain {
    /// What stands before the first NUL, which is where the kernel's names end; a name that is too
    /// long is none.
    pub fn new(name: &[u8]) -> RoutingDomain {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let mut domain = RoutingDomain::default();
        if let (Some(name), Some(room)) = (name.get(..end), domain.name.get_mut(..end)) {
            room.copy_from_slice(name);
            domain.len = end as u8;
        }
        domain
    }

    pub fn name(&self) -> Option<&str> {
        let name = self.name.get(..usize::from(self.len))?;
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_and_what_is_none_is_none() {
        assert_eq!(RoutingDomain::new(b"vrf-blue").name(), Some("vrf-blue"));
        assert_eq!(RoutingDomain::new(b"lo\0\0rest").name(), Some("lo"));
        assert_eq!(RoutingDomain::new(b"fifteen-bytes-x").name(), Some("fifteen-bytes-x"));
        for none in [&b""[..], b"\0x", b"sixteen-bytes-xy", b"\xff"] {
            assert_eq!(RoutingDomain::new(none).name(), None);
        }
    }
}
