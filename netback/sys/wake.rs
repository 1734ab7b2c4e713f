// SPDX-License-Identifier: GPL-2.0

//! Who is told when something happens.

/// Told of an event, a timer or a frame.
pub(crate) trait Wake: Send + Sync + 'static {
    /// Something happened. Any context, hard interrupt included.
    fn wake(&self);
}
