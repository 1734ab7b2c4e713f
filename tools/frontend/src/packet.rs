// SPDX-License-Identifier: GPL-2.0

//! Frames, made and taken apart.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Type, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use netif::abi::PAGE_SIZE;

use crate::slots::{chain, Slot};

/// The Ethernet type for experiments, which nobody listens to.
pub const EXPERIMENT: u16 = 0x88b5;

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

const TTL: u8 = 64;

/// Who sends, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Our Ethernet address.
    pub from: [u8; 6],
    /// Theirs.
    pub to: [u8; 6],
    /// Our IPv4 address.
    pub source: Ipv4Addr,
    /// Theirs.
    pub destination: Ipv4Addr,
}

impl Route {
    /// A request for their Ethernet address.
    pub fn arp(&self) -> Result<Vec<u8>> {
        self.of_arp(ArpOperation::REQUEST, BROADCAST, [0; 6])
    }

    /// The answer to their request for ours.
    pub fn arp_reply(&self) -> Result<Vec<u8>> {
        self.of_arp(ArpOperation::REPLY, self.to, self.to)
    }

    fn of_arp(&self, operation: ArpOperation, to: [u8; 6], target: [u8; 6]) -> Result<Vec<u8>> {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &self.from,
            &self.source.octets(),
            &target,
            &self.destination.octets(),
        )?;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, to)
            .arp(packet)
            .write(&mut frame)?;
        Ok(frame)
    }

    /// An ICMP echo request with a payload of `size` bytes, each of them `sequence`.
    pub fn echo(&self, id: u16, sequence: u16, size: usize) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(self.source.octets(), self.destination.octets(), TTL)
            .icmpv4_echo_request(id, sequence)
            .write(&mut frame, &vec![sequence as u8; size])?;
        Ok(frame)
    }

    /// A datagram.
    pub fn udp(&self, source: u16, destination: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(self.source.octets(), self.destination.octets(), TTL)
            .udp(source, destination)
            .write(&mut frame, payload)?;
        Ok(frame)
    }

    /// A TCP segment, which may be one to be segmented, of no connection.
    pub fn tcp(&self, source: u16, destination: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(self.source.octets(), self.destination.octets(), TTL)
            .tcp(source, destination, 1, 1024)
            .ack(1)
            .write(&mut frame, payload)?;
        Ok(frame)
    }
}

/// A frame of `size` bytes that means nothing to anybody.
pub fn meaningless(from: [u8; 6], to: [u8; 6], size: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size);
    frame.extend(to);
    frame.extend(from);
    frame.extend(EXPERIMENT.to_be_bytes());
    frame.resize(size.max(14), 0xa5);
    frame
}

/// Slots for a frame of `size` bytes, as few as there can be.
pub fn slots_for(size: usize) -> Result<Vec<Slot>> {
    let size = u16::try_from(size).context("a frame has at most 65535 bytes")?;
    let page = PAGE_SIZE as u16;
    let mut rest = size.saturating_sub(page);
    let mut others = Vec::new();
    while rest > 0 {
        let share = rest.min(page);
        others.push(share);
        rest -= share;
    }
    Ok(chain(size, &others))
}

/// What a frame is, as far as somebody here waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer to an ARP request: whose address, and the address.
    Arp(Ipv4Addr, [u8; 6]),
    /// An ARP request: whose address is asked for; who asks, and the address to answer to.
    ArpRequest(Ipv4Addr, Ipv4Addr, [u8; 6]),
    /// An answer to an echo request: identifier, sequence number, payload.
    EchoReply(u16, u16, Vec<u8>),
    /// A datagram: source port, destination port, payload.
    Udp(u16, u16, Vec<u8>),
    /// A TCP segment: source port, destination port, payload.
    Tcp(u16, u16, Vec<u8>),
    /// Anything else.
    Other,
}

/// Tells what a frame is.
pub fn kind(frame: &[u8]) -> Kind {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return Kind::Other;
    };
    if let Some(NetSlice::Arp(arp)) = &packet.net {
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from);
        let sender = address(arp.sender_protocol_addr());
        let target = address(arp.target_protocol_addr());
        let mac = <[u8; 6]>::try_from(arp.sender_hw_addr());
        return match (arp.operation(), sender, target, mac) {
            (ArpOperation::REPLY, Ok(sender), _, Ok(mac)) => Kind::Arp(sender, mac),
            (ArpOperation::REQUEST, Ok(sender), Ok(target), Ok(mac)) => {
                Kind::ArpRequest(target, sender, mac)
            }
            _ => Kind::Other,
        };
    }
    match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::EchoReply(echo) => {
                Kind::EchoReply(echo.id, echo.seq, icmp.payload().to_vec())
            }
            _ => Kind::Other,
        },
        Some(TransportSlice::Udp(udp)) => Kind::Udp(
            udp.source_port(),
            udp.destination_port(),
            udp.payload().to_vec(),
        ),
        Some(TransportSlice::Tcp(tcp)) => Kind::Tcp(
            tcp.source_port(),
            tcp.destination_port(),
            tcp.payload().to_vec(),
        ),
        _ => Kind::Other,
    }
}

#[cfg(test)]
impl Route {
    /// A way to nowhere, for tests.
    pub const SOME: Self = Self {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
        source: Ipv4Addr::new(10, 0, 0, 2),
        destination: Ipv4Addr::new(10, 0, 0, 1),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = Route::SOME;

    #[test]
    fn frames_are_what_they_were_made_as() {
        let udp = ROUTE.udp(5, 9, b"abc").unwrap();
        assert_eq!(udp.len(), 14 + 20 + 8 + 3);
        assert_eq!(kind(&udp), Kind::Udp(5, 9, b"abc".to_vec()));
        let tcp = ROUTE.tcp(5, 9, &[1; 20_000]).unwrap();
        assert_eq!(kind(&tcp), Kind::Tcp(5, 9, vec![1; 20_000]));
        let Route { from, source, .. } = ROUTE;
        let request = ROUTE.arp().unwrap();
        assert_eq!(request.len(), 42);
        assert_eq!(
            kind(&request),
            Kind::ArpRequest(ROUTE.destination, source, from)
        );
        let reply = ROUTE.arp_reply().unwrap();
        assert_eq!(reply.len(), 42);
        assert_eq!(kind(&reply), Kind::Arp(source, from));
        assert_eq!(kind(&ROUTE.echo(1, 2, 56).unwrap()), Kind::Other);
        assert_eq!(kind(&meaningless([0; 6], [0; 6], 60)), Kind::Other);
    }

    #[test]
    fn large_frames_take_several_slots() {
        assert_eq!(slots_for(60).unwrap().len(), 1);
        assert_eq!(slots_for(4096).unwrap().len(), 1);
        assert_eq!(slots_for(4097).unwrap().len(), 2);
        assert_eq!(slots_for(65_535).unwrap().len(), 16);
        assert!(slots_for(65_536).is_err());
    }
}
