// SPDX-License-Identifier: GPL-2.0

//! What network devices can do in the stack's place.
//!
//! C header: [`include/linux/netdev_features.h`](srctree/include/linux/netdev_features.h)

use crate::bindings;
use core::ops::{
    BitAnd,
    BitOr,
    Not, //
};

/// What a device can take off the stack's hands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features(u64);

impl Features {
    /// Frames in several pieces.
    pub(crate) const SG: Self = Self(bindings::NETBACK_F_SG);
    /// TCP and UDP checksums over IPv4.
    pub(crate) const IP_CSUM: Self = Self(bindings::NETBACK_F_IP_CSUM);
    /// TCP and UDP checksums over IPv6.
    pub(crate) const IPV6_CSUM: Self = Self(bindings::NETBACK_F_IPV6_CSUM);
    /// TCP segmentation over IPv4.
    pub(crate) const TSO: Self = Self(bindings::NETBACK_F_TSO);
    /// TCP segmentation over IPv6.
    pub(crate) const TSO6: Self = Self(bindings::NETBACK_F_TSO6);

    /// The features as the bits of `netdev_features_t`.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`Features::bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// `self` if `condition` holds, otherwise nothing.
    pub(crate) fn when(self, condition: bool) -> Self {
        if condition {
            self
        } else {
            Self(0)
        }
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Features {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Features {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}
