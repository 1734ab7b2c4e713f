// SPDX-License-Identifier: GPL-2.0

//! What a vif keeps of its guest from one connection to the next.

use crate::vif::patience::Standing;
use crate::vif::police::Police;
use crate::xen::DomId;
use kernel::prelude::*;

/// The guest of a vif, whether it is connected or not.
#[pin_data]
pub(crate) struct Guest {
    /// Its domain.
    pub(crate) domid: DomId,
    /// The vif's rate.
    #[pin]
    pub(crate) police: Police,
    /// Whether it has lately kept others waiting to the end of a connection.
    pub(crate) standing: Standing,
}

impl Guest {
    /// One without a limit to its rate, and of good standing.
    pub(super) fn new(domid: DomId) -> impl PinInit<Self> {
        pin_init!(Self {
            domid,
            police <- Police::new(),
            standing: Standing::new(),
        })
    }
}
