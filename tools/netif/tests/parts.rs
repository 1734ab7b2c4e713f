// SPDX-License-Identifier: GPL-2.0

//! The smaller parts: pending ring, shares of a batch, credit, multicast filter, hash.

use std::collections::BTreeSet;

use netif::{
    credit::{Credit, NanosUntil, Rate, RateError, SharedCredit, MIN_DEPTH},
    extra::MulticastOp,
    hash::{HashType, Key, Mapping, MappingError, KEY_SIZE, MAX_MAPPING},
    multicast::{is_multicast, Filter, FilterError, MAX_ADDRESSES},
    negotiate::Why,
    pending::{Pending, PENDING_SIZE},
    share::{Share, QUANTUM},
};

mod pending {
    use super::*;

    #[test]
    fn every_place_is_handed_out_once() {
        for start in [0, 100, 0xffff_ff00, u32::MAX] {
            let mut pending = Pending::starting_at(start);
            for _ in 0..3 {
                assert_eq!(pending.available(), 256);
                let taken: Vec<_> = std::iter::from_fn(|| pending.alloc()).collect();
                let places: BTreeSet<_> = taken.iter().map(|index| index.get()).collect();
                assert_eq!(places, (0..PENDING_SIZE).collect());
                assert_eq!(pending.available(), 0);
                assert_eq!(pending.alloc(), None);
                for index in taken.into_iter().rev() {
                    pending.free(index);
                }
            }
        }
    }

    #[test]
    fn the_oldest_free_place_comes_first() {
        let mut pending = Pending::default();
        let first = pending.alloc().unwrap();
        let place = first.get();
        pending.free(first);
        for _ in 1..PENDING_SIZE {
            let index = pending.alloc().unwrap();
            assert_ne!(index.get(), place);
        }
        assert_eq!(pending.alloc().unwrap().get(), place);
    }
}

mod shares {
    use super::*;

    /// How many frames of so many bytes and slots a queue gets of a batch.
    fn frames_of(share: &mut Share<'_>, bytes: u32, slots: u32) -> usize {
        std::iter::from_fn(|| share.is_left().then(|| share.spend(bytes, slots))).count()
    }

    #[test]
    fn a_queue_alone_takes_what_fits() {
        for (frames, slots, bytes, each, expected) in [
            (64, 256, 60, 1, 64),
            (64, 256, 65_535, 16, 16),
            (64, 256, 65_535, 17, 16),
            (256, 256, 60, 1, 256),
            (0, 256, 60, 1, 0),
            (64, 0, 60, 1, 0),
        ] {
            let mut deficit = 0;
            // Of a batch without queues there is no less.
            for queues in [0, 1] {
                let mut share = Share::new(&mut deficit, queues, frames, slots);
                assert_eq!(frames_of(&mut share, bytes, each), expected);
            }
            assert!(deficit >= 0);
        }
    }

    #[test]
    fn several_get_a_quantum_each() {
        let mut deficit = 0;
        let mut share = Share::new(&mut deficit, 2, 1000, 1000);
        assert_eq!(frames_of(&mut share, 1024, 1), QUANTUM as usize / 1024);
        // And of frames and slots their part, rounded up.
        let mut deficit = 0;
        assert_eq!(
            frames_of(&mut Share::new(&mut deficit, 3, 64, 256), 1, 1),
            22
        );
        let mut deficit = 0;
        assert_eq!(frames_of(&mut Share::new(&mut deficit, 3, 64, 10), 1, 2), 2);
    }

    #[test]
    fn what_a_frame_took_beyond_counts_later_and_what_is_left_over_does_not() {
        let mut deficit = 0;
        let large = QUANTUM as u32 - 1;
        assert_eq!(
            frames_of(&mut Share::new(&mut deficit, 2, 64, 256), large, 16),
            2
        );
        assert_eq!(deficit, 2 - QUANTUM);
        assert_eq!(
            frames_of(&mut Share::new(&mut deficit, 2, 64, 256), large, 16),
            1
        );
        // Alone, nothing is owed to anybody.
        assert_eq!(
            frames_of(&mut Share::new(&mut deficit, 1, 4, 256), large, 16),
            4
        );
        assert_eq!(deficit, 0);
        for _ in 0..10 {
            Share::new(&mut deficit, 2, 64, 256);
            assert_eq!(deficit, QUANTUM);
        }
    }
}

mod credit {
    use super::*;

    const MSEC: u64 = 1_000_000;

    fn rate(bytes: u64, usec: u64) -> Rate {
        Rate::new(bytes, usec).unwrap().unwrap()
    }

    #[test]
    fn the_rate_key_is_bytes_and_microseconds() {
        let parse = |text: &str| Rate::parse(text.as_bytes());
        assert_eq!(parse("125000,50000"), Ok(Some(rate(125000, 50000))));
        assert_eq!(parse("1,1"), Ok(Some(rate(1, 1))));
        assert_eq!(parse("1000,0"), Ok(None), "an interval of no length");
        // More than 32 bits are held to them.
        let large = parse("18446744073709551615,18446744073709551615").unwrap();
        let large = large.unwrap();
        assert_eq!((large.bytes(), large.usec()), (u32::MAX, u32::MAX));
        for (text, error, sentence) in [
            (
                "",
                RateError::Form,
                "rate: not of the form bytes,microseconds",
            ),
            (
                "125000",
                RateError::Form,
                "rate: not of the form bytes,microseconds",
            ),
            (",", RateError::Bytes(Why::Empty), "rate: bytes empty"),
            (
                "1,",
                RateError::Usec(Why::Empty),
                "rate: microseconds empty",
            ),
            (
                "-1,5",
                RateError::Bytes(Why::Negative),
                "rate: bytes negative",
            ),
            (
                "1,5,6",
                RateError::Usec(Why::NotANumber),
                "rate: microseconds not a number",
            ),
            (
                "1, 5",
                RateError::Usec(Why::NotANumber),
                "rate: microseconds not a number",
            ),
            (
                "0,50000",
                RateError::Nothing,
                "rate: zero bytes would never let a frame pass",
            ),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut credit = Credit::new(None, 0);
        for _ in 0..1000 {
            assert_eq!(credit.take(u32::MAX, 0), Ok(()));
        }
        assert_eq!(credit.rate(), None);
    }

    #[test]
    fn a_burst_of_128_kib_passes_however_slow_the_rate() {
        let mut credit = Credit::new(Some(rate(1, u64::from(u32::MAX))), 0);
        assert_eq!(credit.take(MIN_DEPTH, 0), Ok(()));
        assert!(credit.take(1, 0).is_err());
        // A larger interval's worth passes at once too.
        let mut credit = Credit::new(Some(rate(1_000_000, 50_000)), 0);
        assert_eq!(credit.take(1_000_000, 0), Ok(()));
        assert!(credit.take(1, 0).is_err());
    }

    #[test]
    fn a_held_frame_passes_after_exactly_the_time_told() {
        for (bytes, usec) in [
            (1, 1),
            (1, 1_000_000),
            (7, 3),
            (62_500, 50_000),
            (625_000, 50_000),
            (3, 4_000_000_000),
            (u64::from(u32::MAX), 1),
            (u64::from(u32::MAX), u64::from(u32::MAX)),
            (1, u64::from(u32::MAX)),
        ] {
            let rate = rate(bytes, usec);
            let start = 12_345_678_901;
            for len in [1, 60, 1514, 65535] {
                let mut credit = Credit::new(Some(rate), start);
                credit.take(rate.depth(), start).unwrap();
                let NanosUntil(wait) = credit.take(len, start).unwrap_err();
                assert!(wait > 0);
                // Nothing is paid by asking, and a little earlier is too early.
                if let Some(early) = wait.checked_sub(1000) {
                    let mut credit = credit.clone();
                    assert!(credit.take(len, start + early).is_err(), "{rate:?} {len}");
                }
                assert_eq!(credit.take(len, start + wait), Ok(()), "{rate:?} {len}");
            }
        }
    }

    #[test]
    fn the_rate_is_kept_for_tiny_and_huge_frames() {
        for megabits in [10u64, 100, 1000] {
            for len in [60, 1514, 65535] {
                let per_second = megabits * 1_000_000 / 8;
                let rate = rate(per_second / 20, 50_000);
                let mut credit = Credit::new(Some(rate), 0);
                credit.take(rate.depth(), 0).unwrap();
                let mut now = 0;
                let mut sent = 0u64;
                while now < 2_000 * MSEC {
                    match credit.take(len, now) {
                        Ok(()) => sent += u64::from(len),
                        Err(NanosUntil(wait)) => now += wait,
                    }
                }
                let expected = per_second * 2;
                let error = sent.abs_diff(expected);
                assert!(error <= expected / 1000 + 65535, "{megabits} {len}: {sent}");
            }
        }
    }

    #[test]
    fn waiting_long_does_not_wrap() {
        let mut credit = Credit::new(Some(rate(u64::from(u32::MAX), 1)), 0);
        credit.take(u32::MAX, 0).unwrap();
        assert_eq!(credit.take(u32::MAX, u64::MAX), Ok(()));
        let mut credit = Credit::new(Some(rate(1, 1)), 0);
        credit.take(MIN_DEPTH, 0).unwrap();
        assert_eq!(credit.take(MIN_DEPTH, u64::MAX), Ok(()));
        assert!(
            credit.take(MIN_DEPTH, u64::MAX).is_err(),
            "full, not fuller"
        );
    }

    #[test]
    fn time_that_goes_back_earns_nothing() {
        let mut credit = Credit::new(Some(rate(1000, 1000)), 1000 * MSEC);
        credit.take(MIN_DEPTH, 1000 * MSEC).unwrap();
        assert!(credit.take(1, 0).is_err());
        assert!(credit.take(1000, 1000 * MSEC).is_err());
        assert_eq!(credit.take(1000, 1001 * MSEC), Ok(()));
    }

    #[test]
    fn a_frame_larger_than_the_bucket_waits_until_it_is_full() {
        let mut credit = Credit::new(Some(rate(1000, 1000)), 0);
        credit.take(MIN_DEPTH, 0).unwrap();
        let NanosUntil(wait) = credit.take(10 * MIN_DEPTH, 0).unwrap_err();
        assert_eq!(wait, u64::from(MIN_DEPTH) * 1000);
        assert_eq!(credit.take(10 * MIN_DEPTH, wait), Ok(()));
    }

    #[test]
    fn a_queue_with_a_large_frame_passes_beside_one_with_small_ones() {
        // 10 Mbit/s. Queue 1 has 60 bytes whenever it may, queue 0 a frame of 64 KiB.
        let rate = rate(62_500, 50_000);
        let mut credit = SharedCredit::new(Some(rate), 0);
        credit.take(1, rate.depth(), 0).unwrap();
        let NanosUntil(told) = credit.take(0, 65535, 0).unwrap_err();
        let (mut ask_small, mut small) = (0, 0);
        let mut ask_large = told;
        let mut large = Vec::new();
        while large.len() < 3 {
            if ask_small < ask_large {
                match credit.take(1, 60, ask_small) {
                    Ok(()) => small += 1,
                    Err(NanosUntil(wait)) => ask_small += wait,
                }
            } else {
                match credit.take(0, 65535, ask_large) {
                    Ok(()) => large.push(ask_large),
                    Err(NanosUntil(wait)) => ask_large += wait,
                }
            }
        }
        assert_eq!(large[0], told, "first in line, first served");
        // 65535 bytes are earned in 52.4 ms, and the other queue has a frame in between.
        assert!(large[2] < 2 * 53 * MSEC + told, "{large:?}");
        assert!(small >= 2, "{small}");
    }

    #[test]
    fn nobody_waits_behind_a_queue_that_is_gone() {
        let mut credit = SharedCredit::new(Some(rate(1000, 1000)), 0);
        credit.take(0, MIN_DEPTH, 0).unwrap();
        credit.take(0, 60_000, 0).unwrap_err();
        credit.take(1, 60, 10 * MSEC).unwrap_err();
        credit.forget();
        assert_eq!(credit.take(1, 60, 10 * MSEC), Ok(()));
        credit.take(0, 60_000, 10 * MSEC).unwrap_err();
        credit.set_rate(Some(rate(2000, 1000)), 10 * MSEC);
        assert_eq!(credit.take(1, 60, 10 * MSEC), Ok(()));
    }

    #[test]
    fn the_rate_changes_live() {
        let slow = rate(1000, 1_000_000);
        let fast = rate(1_000_000, 1_000);
        let mut credit = Credit::new(Some(slow), 0);
        credit.take(MIN_DEPTH, 0).unwrap();
        // What was earned under the old rate stays.
        credit.set_rate(Some(fast), 10_000 * MSEC);
        assert_eq!(credit.rate(), Some(fast));
        assert_eq!(credit.take(10_000, 10_000 * MSEC), Ok(()));
        assert!(credit.take(1, 10_000 * MSEC).is_err());
        assert_eq!(credit.take(1_000_000, 10_001 * MSEC), Ok(()));
        // A shallower bucket holds less.
        credit.set_rate(Some(slow), 20_000 * MSEC);
        assert_eq!(credit.take(MIN_DEPTH, 20_000 * MSEC), Ok(()));
        assert!(credit.take(1, 20_000 * MSEC).is_err());
        // No limit, and a limit again: a full bucket.
        credit.set_rate(None, 20_000 * MSEC);
        assert_eq!(credit.take(u32::MAX, 20_000 * MSEC), Ok(()));
        credit.set_rate(Some(slow), 20_000 * MSEC);
        assert_eq!(credit.take(MIN_DEPTH, 20_000 * MSEC), Ok(()));
        assert!(credit.take(1, 20_000 * MSEC).is_err());
    }
}

mod multicast {
    use super::*;

    fn address(number: u8) -> [u8; 6] {
        [1, 0, 0x5e, 0, 0, number]
    }

    #[test]
    fn broadcast_and_single_stations_always_pass() {
        let filter = Filter::new();
        assert!(filter.passes(&[0xff; 6]));
        assert!(filter.passes(&[0, 0x16, 0x3e, 1, 2, 3]));
        assert!(filter.passes(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert!(!filter.passes(&address(1)));
        assert!(filter.is_empty());
        assert!(is_multicast(&[0xff; 6]));
    }

    #[test]
    fn only_addresses_in_the_filter_pass() {
        let mut filter = Filter::default();
        filter.apply(MulticastOp::Add(address(1))).unwrap();
        filter.apply(MulticastOp::Add(address(2))).unwrap();
        assert!(filter.passes(&address(1)) && filter.passes(&address(2)));
        assert!(!filter.passes(&address(3)));
        filter.apply(MulticastOp::Del(address(1))).unwrap();
        assert!(!filter.passes(&address(1)) && filter.passes(&address(2)));
        // Not there any more: no error.
        filter.apply(MulticastOp::Del(address(1))).unwrap();
        assert_eq!(filter.len(), 1);
        assert_eq!(filter.addresses().collect::<Vec<_>>(), [address(2)]);
    }

    #[test]
    fn at_most_64_addresses() {
        let mut filter = Filter::new();
        for number in 0..64 {
            assert_eq!(filter.add(&address(number)), Ok(()));
        }
        assert_eq!(filter.len(), MAX_ADDRESSES);
        assert_eq!(filter.add(&address(64)), Err(FilterError::Full));
        // One that is there already takes no room.
        assert_eq!(filter.add(&address(63)), Ok(()));
        filter.del(&address(0));
        assert_eq!(filter.add(&address(64)), Ok(()));
        for number in 1..=64 {
            assert!(filter.passes(&address(number)));
        }
        assert!(!filter.passes(&address(0)));
    }

    #[test]
    fn a_single_stations_address_is_refused() {
        let mut filter = Filter::new();
        let station = [0, 0x16, 0x3e, 1, 2, 3];
        let refused = filter.apply(MulticastOp::Add(station));
        assert_eq!(refused, Err(FilterError::NotMulticast));
        assert!(filter.is_empty());
    }
}

mod hash {
    use super::*;

    /// The key of the published test vectors.
    const KEY: [u8; KEY_SIZE] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// Bytes of an address and a port list, in the order in which they are hashed.
    fn v4(src: [u8; 4], dst: [u8; 4], ports: Option<(u16, u16)>) -> Vec<u8> {
        let mut data = [src, dst].concat();
        if let Some((src, dst)) = ports {
            data.extend(src.to_be_bytes());
            data.extend(dst.to_be_bytes());
        }
        data
    }

    #[test]
    fn toeplitz_of_the_published_vectors_for_ipv4() {
        let key = Key::new(&KEY).unwrap();
        // Source, destination, ports, hash of the addresses, hash with ports.
        for (src, src_port, dst, dst_port, l3, l4) in [
            (
                [66, 9, 149, 187],
                2794,
                [161, 142, 100, 80],
                1766,
                0x323e_8fc2u32,
                0x51cc_c178u32,
            ),
            (
                [199, 92, 111, 2],
                14230,
                [65, 69, 140, 83],
                4739,
                0xd718_262a,
                0xc626_b0ea,
            ),
            (
                [24, 19, 198, 95],
                12898,
                [12, 22, 207, 184],
                38024,
                0xd2d0_a5de,
                0x5c2b_394a,
            ),
            (
                [38, 27, 205, 30],
                48228,
                [209, 142, 163, 6],
                2217,
                0x8298_9176,
                0xafc7_327f,
            ),
            (
                [153, 39, 163, 191],
                44251,
                [202, 188, 127, 2],
                1303,
                0x5d18_09c5,
                0x10e8_28a2,
            ),
        ] {
            assert_eq!(key.hash(&v4(src, dst, None)), l3);
            assert_eq!(key.hash(&v4(src, dst, Some((src_port, dst_port)))), l4);
        }
    }

    #[test]
    fn toeplitz_of_the_published_vectors_for_ipv6() {
        let key = Key::new(&KEY).unwrap();
        for (src, src_port, dst, dst_port, l3, l4) in [
            (
                "3ffe:2501:200:1fff::7",
                2794u16,
                "3ffe:2501:200:3::1",
                1766u16,
                0x2cc1_8cd5u32,
                0x4020_7d3du32,
            ),
            (
                "3ffe:501:8::260:97ff:fe40:efab",
                14230,
                "ff02::1",
                4739,
                0x0f0c_461c,
                0xdde5_1bbf,
            ),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                44251,
                "fe80::200:f8ff:fe21:67cf",
                38024,
                0x4b61_e985,
                0x02d1_feef,
            ),
        ] {
            let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let mut data = [octets(src), octets(dst)].concat();
            assert_eq!(key.hash(&data), l3);
            data.extend(src_port.to_be_bytes());
            data.extend(dst_port.to_be_bytes());
            assert_eq!(key.hash(&data), l4);
        }
    }

    /// The hash as the ABI header puts it: bit by bit, with shift registers.
    fn by_the_header(key: &[u8], data: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| {
            bytes
                .get(at / 8)
                .is_some_and(|byte| (byte >> (7 - at % 8)) & 1 != 0)
        };
        let mut value = 0;
        for at in 0..data.len() * 8 {
            if bit(data, at) {
                for k in 0..32 {
                    value ^= u32::from(bit(key, at + k)) << (31 - k);
                }
            }
        }
        value
    }

    #[test]
    fn short_keys_and_long_data_go_on_with_zeroes() {
        let data: Vec<u8> = (0..60u8).map(|k| k.wrapping_mul(37)).collect();
        for key_len in [0, 1, 3, 4, 5, 8, 16, 39, 40] {
            let key = Key::new(&KEY[..key_len]).unwrap();
            for data_len in [0, 1, 4, 8, 12, 32, 36, 40, 60] {
                assert_eq!(
                    key.hash(&data[..data_len]),
                    by_the_header(&KEY[..key_len], &data[..data_len]),
                    "{key_len} {data_len}"
                );
            }
        }
        assert_eq!(Key::default().hash(&data), 0);
        assert_eq!(Key::new(&[0; 41]), None);
    }

    #[test]
    fn types_have_their_bits() {
        for number in 0..4 {
            let kind = HashType::new(number).unwrap();
            assert_eq!(kind.flag(), 1 << number);
        }
        assert_eq!(HashType::new(4), None);
    }

    #[test]
    fn mapping_bounds_do_not_overflow() {
        // XSA-270.
        let mut mapping = Mapping::default();
        assert_eq!(mapping.resize(MAX_MAPPING + 1), Err(MappingError::Size));
        assert_eq!(mapping.resize(u32::MAX), Err(MappingError::Size));
        assert_eq!(mapping.size(), 0);
        mapping.resize(100).unwrap();
        for (offset, len, expected) in [
            (0, 0, Ok(())),
            (0, 100, Ok(())),
            (100, 0, Ok(())),
            (99, 1, Ok(())),
            (100, 1, Err(MappingError::Range)),
            (0, 101, Err(MappingError::Range)),
            (u32::MAX, 1, Err(MappingError::Range)),
            (u32::MAX, u32::MAX, Err(MappingError::Range)),
            (1, u32::MAX, Err(MappingError::Range)),
            (0x8000_0000, 0x8000_0000, Err(MappingError::Range)),
        ] {
            assert_eq!(mapping.check(offset, len), expected, "{offset} {len}");
        }
        assert_eq!(mapping.set(u32::MAX, &[0], 1), Err(MappingError::Range));
    }

    #[test]
    fn a_mapping_is_set_as_a_whole_or_not_at_all() {
        let mut mapping = Mapping::new();
        mapping.resize(4).unwrap();
        mapping.set(0, &[3, 2, 1, 0], 4).unwrap();
        assert_eq!(mapping.set(1, &[0, 4], 4), Err(MappingError::Queue));
        assert_eq!(mapping.set(0, &[u32::MAX], 4), Err(MappingError::Queue));
        assert_eq!(mapping.set(0, &[65536], 4), Err(MappingError::Queue));
        let queues: Vec<_> = (0..8).map(|hash| mapping.queue(hash, 4)).collect();
        assert_eq!(queues, [3, 2, 1, 0, 3, 2, 1, 0]);
        mapping.set(2, &[2, 2], 4).unwrap();
        let queues: Vec<_> = (0..4).map(|hash| mapping.queue(hash, 4)).collect();
        assert_eq!(queues, [3, 2, 2, 2]);
        // A new size starts over.
        mapping.resize(2).unwrap();
        assert_eq!(mapping.queue(0, 4), 0);
    }

    #[test]
    fn without_a_mapping_it_is_arithmetic() {
        let mapping = Mapping::new();
        assert_eq!(mapping.queue(10, 4), 2);
        assert_eq!(mapping.queue(u32::MAX, 1), 0);
        assert_eq!(mapping.queue(5, 0), 0);
    }
}
