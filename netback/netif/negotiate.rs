// SPDX-License-Identifier: GPL-2.0

//! Negotiation: what the backend offers and what a frontend asks for, as xenstore keys.
//!
//! A frontend is free to write anything into its directory. Each key that is used is read once, as
//! strict decimal, and either all of them make sense or the first that does not is named, with the
//! reason. Keys that are not used are not read: they are left-overs of earlier frontends.
//!
//! Where the keys come from is the caller's business: reading is a closure from the name of a key
//! to its number, `None` if there is no such key. Its error type may hold more than a [`KeyError`],
//! xenstore's own errors for instance.

use core::{
    fmt,
    num::NonZeroU16, //
};

use super::rx::{
    GsoMode,
    RxOptions,
    MAX_XDP_HEADROOM, //
};

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not there.
    Missing,
    /// It has no value.
    Empty,
    /// It has a sign.
    Negative,
    /// It is something else than decimal digits.
    NotANumber,
    /// It does not fit the type.
    TooLarge,
    /// It is not within these bounds.
    OutOfRange {
        /// Least value.
        min: u32,
        /// Largest value.
        max: u32,
    },
    /// Another key has the same value, and must not.
    SameAs(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Empty => f.write_str("empty"),
            Self::Negative => f.write_str("negative"),
            Self::NotANumber => f.write_str("not a number"),
            Self::TooLarge => f.write_str("too large"),
            Self::OutOfRange { min, max } if min == max => write!(f, "must be {min}"),
            Self::OutOfRange { min, max } => write!(f, "must be {min} to {max}"),
            Self::SameAs(key) => write!(f, "used for {key} already"),
        }
    }
}

/// A key that cannot be used, and why. It displays as a sentence for xenstore's error node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// The queue in whose directory the key is; `None`: the frontend's own.
    pub queue: Option<u16>,
    /// Its name.
    pub key: &'static str,
    /// What is wrong with it.
    pub why: Why,
}

impl KeyError {
    /// An error of a key in the frontend's own directory.
    pub const fn new(key: &'static str, why: Why) -> Self {
        Self {
            queue: None,
            key,
            why,
        }
    }

    /// The same, in a queue's directory.
    pub const fn in_queue(self, queue: Option<u16>) -> Self {
        Self { queue, ..self }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(queue) = self.queue {
            write!(f, "queue-{queue}/")?;
        }
        write!(f, "{}: {}", self.key, self.why)
    }
}

/// Parses a decimal number: digits and nothing else.
pub fn parse_u64(text: &[u8]) -> Result<u64, Why> {
    match text {
        [] => return Err(Why::Empty),
        [b'-', ..] => return Err(Why::Negative),
        _ => {}
    }
    let mut number = 0u64;
    let mut fits = true;
    for byte in text {
        if !byte.is_ascii_digit() {
            return Err(Why::NotANumber);
        }
        let digit = u64::from(byte - b'0');
        match number.checked_mul(10).and_then(|n| n.checked_add(digit)) {
            Some(next) => number = next,
            None => fits = false,
        }
    }
    if fits {
        Ok(number)
    } else {
        Err(Why::TooLarge)
    }
}

/// Parses a decimal number of 32 bits.
pub fn parse_u32(text: &[u8]) -> Result<u32, Why> {
    u32::try_from(parse_u64(text)?).map_err(|_| Why::TooLarge)
}

/// Parses the value of a key.
pub fn parse_key(key: &'static str, text: &[u8]) -> Result<u32, KeyError> {
    parse_u32(text).map_err(|why| KeyError::new(key, why))
}

/// Whether a key says what the frontend would like, and not how it is reached.
fn is_wish(key: &str) -> bool {
    key.starts_with("feature-") || key == MULTICAST_CONTROL || key == XDP_HEADROOM
}

/// Reads a key's value as `read` functions do that look into xenstore.
///
/// A wish that is no number counts as not uttered, as with xen-netback: nothing depends on it.
pub fn read_value(key: &'static str, text: &[u8]) -> Result<Option<u32>, KeyError> {
    match parse_key(key, text) {
        Err(error) if is_wish(key) && error.why != Why::TooLarge => Ok(None),
        value => value.map(Some),
    }
}

/// What the backend offers.
///
/// What it does not do is refused by name, with a 0: another backend may have served the vif before
/// and have left its own offers in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// One event channel per direction.
    pub split_event_channels: bool,
    /// A multicast filter, to be switched on at any time.
    pub multicast_control: bool,
    /// A control ring.
    pub ctrl_ring: bool,
    /// Headroom for XDP.
    pub xdp_headroom: bool,
    /// The most queues.
    pub max_queues: NonZeroU16,
}

impl Default for Offer {
    /// Nothing beyond what every backend does.
    fn default() -> Self {
        Self {
            split_event_channels: false,
            multicast_control: false,
            ctrl_ring: false,
            xdp_headroom: false,
            max_queues: NonZeroU16::MIN,
        }
    }
}

impl Offer {
    /// The keys to write into the backend's directory.
    pub fn advertised(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [
            ("feature-sg", 1),
            ("feature-gso-tcpv4", 1),
            ("feature-gso-tcpv6", 1),
            ("feature-ipv6-csum-offload", 1),
            ("feature-rx-copy", 1),
            ("feature-rx-flip", 0),
            (
                "feature-split-event-channels",
                self.split_event_channels.into(),
            ),
            ("feature-multicast-control", self.multicast_control.into()),
            (
                "feature-dynamic-multicast-control",
                self.multicast_control.into(),
            ),
            ("feature-xdp-headroom", self.xdp_headroom.into()),
            ("feature-ctrl-ring", self.ctrl_ring.into()),
            ("multi-queue-max-queues", self.max_queues.get().into()),
        ]
        .into_iter()
    }
}

/// The event channels of a queue: remote ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One for both directions.
    Single(u32),
    /// One for each.
    Split {
        /// Guest transmit.
        tx: u32,
        /// Guest receive.
        rx: u32,
    },
}

/// What a queue is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueKeys {
    /// Grant reference of the transmit ring.
    pub tx_ring_ref: u32,
    /// Grant reference of the receive ring.
    pub rx_ring_ref: u32,
    /// Event channels.
    pub channels: Channels,
}

/// Keys that are named more than once here.
const TX_RING_REF: &str = "tx-ring-ref";
/// See [`TX_RING_REF`].
const RX_RING_REF: &str = "rx-ring-ref";
/// Where the control ring is; see [`TX_RING_REF`].
const CTRL_RING_REF: &str = "ctrl-ring-ref";
/// See [`TX_RING_REF`].
const EVENT_CHANNEL: &str = "event-channel";
/// See [`TX_RING_REF`].
const EVENT_CHANNEL_TX: &str = "event-channel-tx";
/// See [`TX_RING_REF`].
const EVENT_CHANNEL_RX: &str = "event-channel-rx";

/// Reads the keys of one queue, whose number is `None` if they are in the frontend's own
/// directory. `read` looks into the directory that belongs to it.
///
/// Two event channels go before a single one. Where one of the two is missing and there is no
/// single one either, the missing one is named.
pub fn read_queue<E>(
    queue: Option<u16>,
    mut read: impl FnMut(&'static str) -> Result<Option<u32>, E>,
) -> Result<QueueKeys, E>
where
    E: From<KeyError>,
{
    let error = |key, why| E::from(KeyError::new(key, why).in_queue(queue));
    let missing = |key| error(key, Why::Missing);

    let tx_ring_ref = read(TX_RING_REF)?.ok_or_else(|| missing(TX_RING_REF))?;
    let rx_ring_ref = read(RX_RING_REF)?.ok_or_else(|| missing(RX_RING_REF))?;
    if tx_ring_ref == rx_ring_ref {
        return Err(error(RX_RING_REF, Why::SameAs(TX_RING_REF)));
    }

    let tx = read(EVENT_CHANNEL_TX)?;
    let rx = read(EVENT_CHANNEL_RX)?;
    let channels = match (tx, rx) {
        (Some(tx), Some(rx)) if tx == rx => {
            return Err(error(EVENT_CHANNEL_RX, Why::SameAs(EVENT_CHANNEL_TX)));
        }
        (Some(tx), Some(rx)) => Channels::Split { tx, rx },
        _ => match read(EVENT_CHANNEL)? {
            Some(both) => Channels::Single(both),
            None => {
                return Err(missing(match (tx, rx) {
                    (Some(_), None) => EVENT_CHANNEL_RX,
                    (None, Some(_)) => EVENT_CHANNEL_TX,
                    _ => EVENT_CHANNEL,
                }))
            }
        },
    };
    Ok(QueueKeys {
        tx_ring_ref,
        rx_ring_ref,
        channels,
    })
}

/// Refuses several queues of which two share a ring: `queues` are those before, `last` is queue
/// number `queues.len()`.
pub fn check_rings(queues: &[QueueKeys], last: &QueueKeys) -> Result<(), KeyError> {
    let number = u16::try_from(queues.len()).ok();
    for other in queues {
        for (key, mine) in [
            (TX_RING_REF, last.tx_ring_ref),
            (RX_RING_REF, last.rx_ring_ref),
        ] {
            let taken = if mine == other.tx_ring_ref {
                TX_RING_REF
            } else if mine == other.rx_ring_ref {
                RX_RING_REF
            } else {
                continue;
            };
            return Err(KeyError::new(key, Why::SameAs(taken)).in_queue(number));
        }
    }
    Ok(())
}

/// Where the keys of a frontend's queues are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// One queue, its keys in the frontend's own directory.
    One(QueueKeys),
    /// Several, two at least, each in a directory `queue-N`: to be read with [`read_queue`].
    Several(NonZeroU16),
}

impl Queues {
    /// How many queues there are.
    pub const fn count(&self) -> u16 {
        match self {
            Self::One(_) => 1,
            Self::Several(count) => count.get(),
        }
    }
}

/// The control ring of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtrlKeys {
    /// Grant reference of the ring.
    pub ring_ref: u32,
    /// Remote port of its event channel.
    pub port: u32,
}

/// What a frontend asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Its queues.
    pub queues: Queues,
    /// It notifies when it posts receive buffers.
    pub rx_notify: bool,
    /// It takes frames that span several buffers.
    pub sg: bool,
    /// How it takes TCP over IPv4 to be segmented.
    pub gso_v4: GsoMode,
    /// How it takes TCP over IPv6 to be segmented.
    pub gso_v6: GsoMode,
    /// It takes blank checksums of TCP and UDP over IPv4.
    pub ip_csum: bool,
    /// It takes blank checksums of TCP and UDP over IPv6.
    pub ipv6_csum: bool,
    /// It wants the multicast filter to be in force.
    pub multicast_control: bool,
    /// Bytes to be left free at the start of a frame's first buffer.
    pub xdp_headroom: u16,
    /// Its control ring.
    pub ctrl: Option<CtrlKeys>,
}

impl Features {
    /// What shapes the frames for this frontend. No hash algorithm is set at first.
    pub const fn rx_options(&self) -> RxOptions {
        RxOptions {
            sg: self.sg,
            gso_v4: self.gso_v4,
            gso_v6: self.gso_v6,
            hash: false,
            xdp_headroom: self.xdp_headroom,
        }
    }
}

/// A number held to bounds.
fn within(key: &'static str, value: u32, min: u32, max: u32) -> Result<u32, KeyError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(KeyError::new(key, Why::OutOfRange { min, max }))
    }
}

/// How frames to be segmented are announced, from the two keys; the extra info is the newer way
/// and goes before the prefix.
const fn gso_mode(extra: bool, prefix: bool) -> GsoMode {
    if extra {
        GsoMode::Extra
    } else if prefix {
        GsoMode::Prefix
    } else {
        GsoMode::No
    }
}

/// The key with which a frontend asks for room at the start of each frame's first buffer.
const XDP_HEADROOM: &str = "xdp-headroom";

/// Reads the XDP headroom that a frontend asks for.
pub fn read_xdp_headroom<E>(
    mut read: impl FnMut(&'static str) -> Result<Option<u32>, E>,
) -> Result<u16, E>
where
    E: From<KeyError>,
{
    let headroom = read(XDP_HEADROOM)?.unwrap_or(0);
    Ok(within(XDP_HEADROOM, headroom, 0, MAX_XDP_HEADROOM.into())? as u16)
}

/// The key with which a frontend puts its multicast filter in force. It may do so at any time.
pub const MULTICAST_CONTROL: &str = "request-multicast-control";

/// Reads whether a frontend wants its multicast filter to be in force.
pub fn read_multicast_control<E>(
    mut read: impl FnMut(&'static str) -> Result<Option<u32>, E>,
) -> Result<bool, E>
where
    E: From<KeyError>,
{
    Ok(read(MULTICAST_CONTROL)?.unwrap_or(0) != 0)
}

/// Refuses a control ring that is also a ring of one of the `queues`.
pub fn check_ctrl(queues: &[QueueKeys], ctrl: &CtrlKeys) -> Result<(), KeyError> {
    for queue in queues {
        let taken = if ctrl.ring_ref == queue.tx_ring_ref {
            TX_RING_REF
        } else if ctrl.ring_ref == queue.rx_ring_ref {
            RX_RING_REF
        } else {
            continue;
        };
        return Err(KeyError::new(CTRL_RING_REF, Why::SameAs(taken)));
    }
    Ok(())
}

/// Reads the control ring that a frontend asks for.
fn read_ctrl<E>(
    mut read: impl FnMut(&'static str) -> Result<Option<u32>, E>,
) -> Result<Option<CtrlKeys>, E>
where
    E: From<KeyError>,
{
    const PORT: &str = "event-channel-ctrl";
    let Some(ring_ref) = read(CTRL_RING_REF)? else {
        return Ok(None);
    };
    match read(PORT)? {
        Some(port) => Ok(Some(CtrlKeys { ring_ref, port })),
        None => Err(KeyError::new(PORT, Why::Missing).into()),
    }
}

/// Reads what a frontend asks for, of what was offered to it.
pub fn read_features<E>(
    offer: &Offer,
    mut read: impl FnMut(&'static str) -> Result<Option<u32>, E>,
) -> Result<Features, E>
where
    E: From<KeyError>,
{
    const RX_COPY: &str = "request-rx-copy";
    const NUM_QUEUES: &str = "multi-queue-num-queues";

    let rx_copy = read(RX_COPY)?.ok_or(KeyError::new(RX_COPY, Why::Missing))?;
    within(RX_COPY, rx_copy, 1, 1)?;

    let count = read(NUM_QUEUES)?.unwrap_or(1);
    let count = within(NUM_QUEUES, count, 1, offer.max_queues.get().into())?;
    let queues = match NonZeroU16::new(count as u16) {
        Some(count) if count.get() > 1 => Queues::Several(count),
        _ => Queues::One(read_queue(None, &mut read)?),
    };

    let mut flag = |key| Ok::<bool, E>(read(key)?.unwrap_or(0) != 0);
    let rx_notify = flag("feature-rx-notify")?;
    let sg = flag("feature-sg")?;
    let gso_v4 = gso_mode(
        flag("feature-gso-tcpv4")?,
        flag("feature-gso-tcpv4-prefix")?,
    );
    let gso_v6 = gso_mode(
        flag("feature-gso-tcpv6")?,
        flag("feature-gso-tcpv6-prefix")?,
    );
    let ip_csum = !flag("feature-no-csum-offload")?;
    let ipv6_csum = flag("feature-ipv6-csum-offload")?;
    let multicast_control = offer.multicast_control && flag(MULTICAST_CONTROL)?;
    let xdp_headroom = if offer.xdp_headroom {
        read_xdp_headroom(&mut read)?
    } else {
        0
    };
    let ctrl = if offer.ctrl_ring {
        read_ctrl(&mut read)?
    } else {
        None
    };
    Ok(Features {
        queues,
        rx_notify,
        sg,
        gso_v4,
        gso_v6,
        ip_csum,
        ipv6_csum,
        multicast_control,
        xdp_headroom,
        ctrl,
    })
}
