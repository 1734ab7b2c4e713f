// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells of an interface's queues by netlink: `include/uapi/linux/netdev.h`.

use anyhow::{anyhow, Context, Result};
use neli::attr::Attribute;
use neli::consts::nl::{NlmF, NlmFFlags};
use neli::consts::socket::NlFamily;
use neli::genl::{Genlmsghdr, Nlattr};
use neli::nl::{NlPayload, Nlmsghdr};
use neli::socket::NlSocketHandle;
use neli::types::GenlBuffer;

const NETDEV_CMD_QSTATS_GET: u8 = 12;
const NETDEV_A_QSTATS_IFINDEX: u16 = 1;
const NETDEV_A_QSTATS_QUEUE_TYPE: u16 = 2;
const NETDEV_A_QSTATS_QUEUE_ID: u16 = 3;
const NETDEV_A_QSTATS_SCOPE: u16 = 4;
/// Packets and bytes received, and packets and bytes sent, follow one another.
const NETDEV_A_QSTATS_RX_PACKETS: u16 = 8;
const NETDEV_A_QSTATS_TX_PACKETS: u16 = 10;
const NETDEV_QSTATS_SCOPE_QUEUE: u32 = 1;

/// A number that netlink sends in as many bytes as it takes.
fn number(attribute: &Nlattr<u16, neli::types::Buffer>) -> Result<u64> {
    let bytes = attribute.payload().as_ref();
    match bytes.len() {
        4 => Ok(u32::from_ne_bytes(bytes.try_into()?).into()),
        8 => Ok(u64::from_ne_bytes(bytes.try_into()?)),
        n => Err(anyhow!("a number of {n} bytes")),
    }
}

/// Prints a line for each queue of `interface` and direction: direction, queue, packets, bytes.
pub fn show(interface: &str) -> Result<()> {
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))
        .with_context(|| format!("there is no interface {interface}"))?
        .trim()
        .parse()?;
    let mut socket = NlSocketHandle::connect(NlFamily::Generic, None, &[])?;
    let family = socket.resolve_genl_family("netdev")?;
    let mut attributes = GenlBuffer::new();
    for (kind, value) in [
        (NETDEV_A_QSTATS_IFINDEX, index),
        (NETDEV_A_QSTATS_SCOPE, NETDEV_QSTATS_SCOPE_QUEUE),
    ] {
        attributes.push(Nlattr::new(false, false, kind, value)?);
    }
    socket.send(Nlmsghdr::new(
        None,
        family,
        NlmFFlags::new(&[NlmF::Request, NlmF::Dump]),
        None,
        None,
        NlPayload::Payload(Genlmsghdr::new(NETDEV_CMD_QSTATS_GET, 1, attributes)),
    ))?;
    for message in socket.iter::<u16, Genlmsghdr<u8, u16>>(false) {
        let message = message?;
        let NlPayload::Payload(payload) = message.nl_payload else {
            continue;
        };
        let handle = payload.get_attr_handle();
        let value = |kind| {
            handle
                .get_attribute(kind)
                .with_context(|| format!("the kernel leaves out attribute {kind}"))
                .and_then(number)
        };
        let (direction, first) = match value(NETDEV_A_QSTATS_QUEUE_TYPE)? {
            0 => ("rx", NETDEV_A_QSTATS_RX_PACKETS),
            _ => ("tx", NETDEV_A_QSTATS_TX_PACKETS),
        };
        println!(
            "{direction} {} {} {}",
            value(NETDEV_A_QSTATS_QUEUE_ID)?,
            value(first)?,
            value(first + 1)?
        );
    }
    Ok(())
}
