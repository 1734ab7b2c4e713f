// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells of an interface's queues by netlink: `include/uapi/linux/netdev.h`.

use anyhow::{bail, Context, Result};
use neli::attr::Attribute;
use neli::consts::nl::{NlmF, Nlmsg};
use neli::consts::socket::NlFamily;
use neli::genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder};
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};
use neli::router::synchronous::NlRouter;
use neli::socket::synchronous::NlSocketHandle;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;

const NETDEV_CMD_QSTATS_GET: u8 = 12;
const NETDEV_A_QSTATS_IFINDEX: u16 = 1;
const NETDEV_A_QSTATS_QUEUE_TYPE: u16 = 2;
const NETDEV_A_QSTATS_QUEUE_ID: u16 = 3;
const NETDEV_A_QSTATS_SCOPE: u16 = 4;
/// Packets and bytes received, and packets and bytes sent, follow one another.
const NETDEV_A_QSTATS_RX_PACKETS: u16 = 8;
const NETDEV_A_QSTATS_TX_PACKETS: u16 = 10;
const NETDEV_QSTATS_SCOPE_QUEUE: u32 = 1;

/// Prints a line for each queue of `interface` and direction: direction, queue, packets, bytes.
pub fn show(interface: &str) -> Result<()> {
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))
        .with_context(|| format!("there is no interface {interface}"))?
        .trim()
        .parse()?;
    let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())?;
    let family = router.resolve_genl_family("netdev")?;
    let socket = NlSocketHandle::connect(NlFamily::Generic, None, Groups::empty())?;
    socket.send(&request(family, index)?)?;
    // The kernel does not mark these messages as parts of one answer, so that the library's own
    // iterators end with the first.
    loop {
        for message in socket.recv_all::<u16, Genlmsghdr<u8, u16>>()?.0 {
            match message.nl_payload() {
                NlPayload::Payload(queue) => show_queue(queue)?,
                NlPayload::Err(refusal) => bail!("the kernel refuses: error {}", refusal.error()),
                _ if *message.nl_type() == u16::from(Nlmsg::Done) => return Ok(()),
                _ => bail!("the kernel answers {message:?}"),
            }
        }
    }
}

fn request(family: u16, interface: u32) -> Result<Nlmsghdr<u16, Genlmsghdr<u8, u16>>> {
    let attributes = [
        (NETDEV_A_QSTATS_IFINDEX, interface),
        (NETDEV_A_QSTATS_SCOPE, NETDEV_QSTATS_SCOPE_QUEUE),
    ]
    .into_iter()
    .map(|(kind, value)| -> Result<Nlattr<u16, Buffer>> {
        let kind = AttrTypeBuilder::default().nla_type(kind).build()?;
        Ok(NlattrBuilder::default()
            .nla_type(kind)
            .nla_payload(value)
            .build()?)
    })
    .collect::<Result<GenlBuffer<u16, Buffer>>>()?;
    let message = GenlmsghdrBuilder::default()
        .cmd(NETDEV_CMD_QSTATS_GET)
        .version(1)
        .attrs(attributes)
        .build()?;
    Ok(NlmsghdrBuilder::default()
        .nl_type(family)
        .nl_flags(NlmF::REQUEST | NlmF::DUMP)
        .nl_payload(NlPayload::Payload(message))
        .build()?)
}

fn show_queue(queue: &Genlmsghdr<u8, u16>) -> Result<()> {
    let attributes = queue.attrs().get_attr_handle();
    let value = |kind| {
        attributes
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
    Ok(())
}

/// A number that netlink sends in as many bytes as it takes.
fn number(attribute: &Nlattr<u16, Buffer>) -> Result<u64> {
    let bytes = attribute.payload().as_ref();
    match bytes.len() {
        4 => Ok(u32::from_ne_bytes(bytes.try_into()?).into()),
        8 => Ok(u64::from_ne_bytes(bytes.try_into()?)),
        n => bail!("a number of {n} bytes"),
    }
}
