// SPDX-License-Identifier: GPL-2.0

//! The xenstore side of negotiation: writing what we offer, reading what the
//! frontend asks for.

use crate::netif::negotiate::{
    self,
    Features,
    Offer,
    QueueKeys,
    Queues, //
};
use crate::sys::params;
use crate::vif::connection::{
    Failure,
    Reason, //
};
use crate::xen::store::{
    self,
    Transaction, //
};
use crate::xen::xenbus;
use kernel::prelude::*;
use kernel::str::CString;

/// What this driver offers to a frontend.
pub(super) fn offer() -> Offer {
    Offer {
        max_queues: params::max_queues(),
        split_event_channels: params::separate_tx_rx_irq(),
        multicast_control: true,
        ctrl_ring: true,
        xdp_headroom: params::provides_xdp_headroom(),
    }
}

/// Writes the keys of an offer into the device's directory, all or none.
pub(super) fn advertise(device: &xenbus::Device, offer: &Offer) -> Result {
    Transaction::run(|transaction| {
        for (key, value) in offer.advertised() {
            let key = CString::try_from_fmt(fmt!("{}", key))?;
            let value = CString::try_from_fmt(fmt!("{}", value))?;
            transaction.write(device.nodename(), &key, &value)?;
        }
        Ok(())
    })
}

/// Reads what the frontend whose directory is `frontend` asks for, and the keys
/// of its queues.
pub(super) fn read(frontend: &CStr, offer: &Offer) -> Result<(Features, KVec<QueueKeys>), Failure> {
    let features = negotiate::read_features(offer, |key| read_key(frontend, None, key))?;
    let queues = read_queues(frontend, features.queues)?;
    if let Some(ctrl) = &features.ctrl {
        negotiate::check_ctrl(&queues, ctrl)?;
    }
    Ok((features, queues))
}

/// Reads the XDP headroom that a frontend asks for.
pub(super) fn read_xdp_headroom(frontend: &CStr) -> Result<u16, Failure> {
    negotiate::read_xdp_headroom(|key| read_key(frontend, None, key))
}

/// Reads whether a frontend wants its multicast filter to be in force.
pub(super) fn read_multicast_control(frontend: &CStr) -> Result<bool, Failure> {
    negotiate::read_multicast_control(|key| read_key(frontend, None, key))
}

/// Reads the keys of a frontend's queues.
fn read_queues(frontend: &CStr, queues: Queues) -> Result<KVec<QueueKeys>, Failure> {
    let mut all = KVec::with_capacity(queues.count().into(), GFP_KERNEL)
        .map_err(|error| reading(error.into()))?;

    for number in 0..queues.count() {
        let keys = match queues {
            Queues::One(keys) => keys,
            Queues::Several(_) => {
                let directory = CString::try_from_fmt(fmt!("{}/queue-{}", frontend, number))
                    .map_err(reading)?;
                negotiate::read_queue(Some(number), |key| read_key(&directory, Some(number), key))?
            }
        };

        negotiate::check_rings(&all, &keys)?;
        all.push(keys, GFP_KERNEL)
            .map_err(|error| reading(error.into()))?;
    }
    Ok(all)
}

/// Reads a number that the frontend wrote, for one of several queues or all.
fn read_key(
    directory: &CStr,
    queue: Option<u16>,
    key: &'static str,
) -> Result<Option<u32>, Failure> {
    let failed = |error| Failure::reading(queue, key, error);
    let name = CString::try_from_fmt(fmt!("{}", key)).map_err(failed)?;

    match store::NIL.read(directory, &name).map_err(failed)? {
        Some(value) => negotiate::read_value(key, value.as_bytes())
            .map_err(|error| error.in_queue(queue).into()),
        None => Ok(None),
    }
}

fn reading(error: Error) -> Failure {
    Reason::Step("reading the frontend's keys", error).into()
}
