// SPDX-License-Identifier: GPL-2.0

//! Flows: what of a frame's headers a hash is computed over.

use super::hash::HashType;

/// Bytes of a frame from which its flow can be told: Ethernet with two VLAN tags, IPv6 with some
/// extension headers, ports.
pub const HEADERS: usize = 128;

/// Bytes of the addresses and ports of the longest kind of flow.
const MAX_INPUT: usize = 36;

/// VLAN tags that are looked behind.
const MAX_TAGS: usize = 2;

/// Extension headers of IPv6 that are looked behind.
const MAX_EXTENSIONS: usize = 6;

/// What stands in an Ethernet header's type.
const ETHERTYPE_IPV4: u16 = 0x0800;
/// See [`ETHERTYPE_IPV4`].
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// See [`ETHERTYPE_IPV4`].
const ETHERTYPE_VLAN: u16 = 0x8100;
/// See [`ETHERTYPE_IPV4`].
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// What stands in an IP header's protocol, or next header.
const TCP: u8 = 6;
/// See [`TCP`]: options for every hop.
const HOP_BY_HOP: u8 = 0;
/// See [`TCP`].
const ROUTING: u8 = 43;
/// See [`TCP`]: options for the destination.
const DESTINATION: u8 = 60;

/// IPv4: more fragments follow, or others came before.
const FRAGMENT: u16 = 0x3fff;

/// The versions of IP, by the length of the two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Two addresses of 4 bytes.
    V4,
    /// Two addresses of 16 bytes.
    V6,
}

impl Version {
    /// Bytes of both addresses.
    const fn addresses(self) -> usize {
        match self {
            Self::V4 => 8,
            Self::V6 => 32,
        }
    }
}

/// The flow that an IP frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Which IP.
    version: Version,
    /// It is TCP, and the ports are in this frame.
    tcp: bool,
    /// Addresses and ports, source before destination, in the order of the wire.
    input: [u8; MAX_INPUT],
}

/// Takes the first `N` bytes off.
#[inline]
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// Takes `n` bytes off.
#[inline]
fn skip(bytes: &mut &[u8], n: usize) -> Option<()> {
    *bytes = bytes.get(n..)?;
    Some(())
}

impl Flow {
    /// The flow of a frame that starts with these bytes; `None` if it is not IP, or cut short.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut rest = frame;
        skip(&mut rest, 12)?;
        let mut ethertype = u16::from_be_bytes(take(&mut rest)?);
        for _ in 0..MAX_TAGS {
            if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
                break;
            }
            skip(&mut rest, 2)?;
            ethertype = u16::from_be_bytes(take(&mut rest)?);
        }
        match ethertype {
            ETHERTYPE_IPV4 => Self::of_ipv4(rest),
            ETHERTYPE_IPV6 => Self::of_ipv6(rest),
            _ => None,
        }
    }

    /// The flow of an IPv4 packet.
    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let mut rest = packet;
        let header: [u8; 12] = take(&mut rest)?;
        let [first, _, _, _, _, _, frag_hi, frag_lo, _, protocol, _, _] = header;
        let addresses: [u8; 8] = take(&mut rest)?;
        let options = (usize::from(first & 15) * 4).checked_sub(20)?;
        if first >> 4 != 4 {
            return None;
        }
        let whole = u16::from_be_bytes([frag_hi, frag_lo]) & FRAGMENT == 0;
        let ports = (whole && protocol == TCP)
            .then(|| skip(&mut rest, options).and_then(|()| take(&mut rest)))
            .flatten();
        Some(Self::new(Version::V4, &addresses, ports))
    }

    /// The flow of an IPv6 packet.
    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let mut rest = packet;
        let [first, _, _, _, _, _, mut next, _] = take(&mut rest)?;
        let addresses: [u8; 32] = take(&mut rest)?;
        if first >> 4 != 6 {
            return None;
        }
        let mut ports = None;
        for _ in 0..=MAX_EXTENSIONS {
            match next {
                TCP => {
                    ports = take(&mut rest);
                    break;
                }
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    // Its length counts units of 8 bytes after the first.
                    let Some([after, units]) = take(&mut rest) else {
                        break;
                    };
                    if skip(&mut rest, 8 * usize::from(units) + 6).is_none() {
                        break;
                    }
                    next = after;
                }
                // Fragments too: ports are in the first one only.
                _ => break,
            }
        }
        Some(Self::new(Version::V6, &addresses, ports))
    }

    /// Puts addresses and ports next to each other.
    fn new(version: Version, addresses: &[u8], ports: Option<[u8; 4]>) -> Self {
        let mut input = [0; MAX_INPUT];
        let bytes = addresses.iter().chain(ports.iter().flatten());
        for (place, byte) in input.iter_mut().zip(bytes) {
            *place = *byte;
        }
        Self {
            version,
            tcp: ports.is_some(),
            input,
        }
    }

    /// What a hash of the flow is computed over, where these types of hash are wanted
    /// ([`HashType::flag`]): ports too if they can be; `None` if no type fits.
    pub fn input(&self, types: u32) -> Option<(HashType, &[u8])> {
        let (plain, with_ports) = match self.version {
            Version::V4 => (HashType::Ipv4, HashType::Ipv4Tcp),
            Version::V6 => (HashType::Ipv6, HashType::Ipv6Tcp),
        };
        let len = self.version.addresses();
        let (kind, len) = if self.tcp && types & with_ports.flag() != 0 {
            (with_ports, len + 4)
        } else if types & plain.flag() != 0 {
            (plain, len)
        } else {
            return None;
        };
        Some((kind, self.input.get(..len)?))
    }
}
