// SPDX-License-Identifier: GPL-2.0

//! What a guest can do wrong: faults, which end its connection, and reasons to drop a frame.

use core::fmt;

/// Declares an enumeration whose values index a table of counters and have two names each: a short
/// one for statistics and a sentence for people.
macro_rules! reasons {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$doc:meta])* $variant:ident = $short:literal, $sentence:literal; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name {
            $( $(#[$doc])* $variant, )*
        }

        impl $name {
            /// All of them, in the order of their indices.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// How many there are: the length of a table of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// Place in a table of counters, below [`Self::COUNT`].
            #[inline]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Short name of lower-case letters and underscores, for statistics.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $short, )*
                }
            }

            /// What happened, as a clause for a log line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $sentence, )*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Something that no working frontend does: its interface is disabled until it reconnects,
    /// and its rings are not touched again.
    pub enum Fault {
        /// More requests are outstanding than a ring has slots (XSA-39).
        ProducerOverrun = "producer_overrun",
            "more requests outstanding than the ring has slots";
        /// The request producer moved backwards, taking back what it had produced.
        ProducerBackwards = "producer_backwards",
            "the request producer moved backwards";
        /// A chain of slots runs past the requests produced.
        ChainCutShort = "chain_cut_short",
            "a frame's slots run past the requests produced";
        /// A chain is longer than the fatal limit.
        TooManySlots = "too_many_slots",
            "a frame has more slots than the fatal limit";
        /// `offset + size` of a slot goes beyond its page.
        CrossesPage = "crosses_page",
            "a slot's data go beyond its page";
        /// An extra info of a type that does not exist.
        ExtraType = "extra_type",
            "an extra info has an unknown type";
        /// A chain of extra infos runs past the requests produced.
        ExtraCutShort = "extra_cut_short",
            "extra infos run past the requests produced";
        /// A GSO frame without a segment size.
        GsoSize = "gso_size",
            "the segment size of a GSO frame is zero";
        /// A GSO type other than TCP over IPv4 or IPv6.
        GsoType = "gso_type",
            "the GSO type of a frame is unknown";
    }
}

reasons! {
    /// Why one frame is dropped. The connection goes on.
    ///
    /// The transmit parser of [`super::tx`] produces those that can be told from the slots; the
    /// others are the module's, and are named here so that one table counts them all.
    pub enum DropReason {
        /// Guest transmit: more slots than a backend must take, fewer than the fatal limit.
        SlotLimit = "slot_limit",
            "more slots than a frame may have";
        /// Guest transmit: a slot is larger than what remains of its frame, whose size wrapped.
        SlotBeyondFrame = "slot_beyond_frame",
            "a slot is larger than what remains of its frame";
        /// Guest transmit: shorter than an Ethernet header.
        TooShort = "too_short",
            "shorter than an Ethernet header";
        /// Guest transmit: a grant copy failed.
        CopyFailed = "copy_failed",
            "a grant copy failed";
        /// Either direction: no memory.
        NoMemory = "no_memory",
            "no memory";
        /// Guest transmit: the checksum could not be set up.
        ChecksumSetup = "checksum_setup",
            "the checksum could not be set up";
        /// Guest transmit: the GSO type does not fit what is in the frame.
        GsoMismatch = "gso_mismatch",
            "the GSO type does not fit the frame";
        /// Guest receive: the address is not in the multicast filter.
        MulticastFiltered = "multicast_filtered",
            "not in the multicast filter";
        /// Guest receive: there is no frontend connected.
        NotConnected = "not_connected",
            "no frontend is connected";
        /// Guest receive: waited too long for buffers.
        Expired = "expired",
            "waited too long for buffers";
        /// Guest receive: too much waits for buffers already.
        BacklogFull = "backlog_full",
            "too much waits for buffers already";
        /// Guest receive: more than the frontend can take as one frame.
        TooLong = "too_long",
            "more than the frontend can take as one frame";
        /// Guest receive: still queued when the frontend disconnected.
        Purged = "purged",
            "still queued at disconnect";
    }
}
