// SPDX-License-Identifier: GPL-2.0

//! The xenstore side of negotiation: writing what we offer, reading what the
//! frontend asks for.

use crate::netif::negotiate::{
    self,
    Features,
    KeyError,
    Offer, //
};
use crate::sys::params;
use crate::vif::connection::Failure;
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
        split_event_channels: params::separate_tx_rx_irq(),
        ..Offer::default()
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

/// Reads what the frontend whose directory is `frontend` asks for.
pub(super) fn read(frontend: &CStr, offer: &Offer) -> Result<Features, Failure> {
    negotiate::read_features(offer, |key| {
        let step = |error| Failure::Step("reading the frontend's keys", error);
        let name = CString::try_from_fmt(fmt!("{}", key)).map_err(step)?;

        match store::NIL.read(frontend, &name).map_err(step)? {
            Some(value) => Ok(Some(negotiate::parse_key(key, value.as_bytes())?)),
            None => Ok(None),
        }
    })
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}
