// SPDX-License-Identifier: GPL-2.0

//! The smaller parts, each against a model of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    credit::{Credit, NanosUntil, Rate, RateError},
    extra::MulticastOp,
    hash::{Key, Mapping},
    hostile::Source,
    multicast::{Filter, FilterError, MAX_ADDRESSES},
    pending::Pending,
    share::{Share, QUANTUM},
};

/// The smaller parts, each against a model of it.
pub fn parts(data: &[u8]) {
    let source = Source::new(data);
    let mut now = u64::from(source.u32());
    let mut credit = Credit::new(any_rate(&source), now);
    let mut pending = Pending::starting_at(source.u32());
    let mut places = BTreeMap::new();
    let mut deficit = 0;
    let mut filter = Filter::default();
    let mut group = BTreeSet::new();
    let mut mapping = Mapping::new();
    let mut table: Vec<u32> = Vec::new();
    while !source.is_empty() {
        match source.u8() & 7 {
            // A frame is paid for, now or after the time told.
            0 => {
                now += u64::from(source.u16());
                let len = source.u32() & 0x3ffff;
                if let Err(NanosUntil(wait)) = credit.take(len, now) {
                    assert!(wait > 0);
                    if wait < 1 << 40 {
                        now += wait;
                        assert_eq!(credit.take(len, now), Ok(()));
                    }
                }
            }
            1 => credit.set_rate(any_rate(&source), now),
            2 => match pending.alloc() {
                Some(place) => assert!(places.insert(place.get(), place).is_none()),
                None => assert_eq!(places.len(), 256),
            },
            3 => {
                let at = usize::from(source.u8());
                if let Some(place) = places.remove(&at) {
                    pending.free(place);
                }
            }
            4 => {
                let addr = [source.u8(), 0, 0, 0, 0, source.u8()];
                if source.u8() & 3 == 0 {
                    assert_eq!(filter.apply(MulticastOp::Del(addr)), Ok(()));
                    group.remove(&addr);
                } else {
                    let expected = if addr[0] & 1 == 0 {
                        Err(FilterError::NotMulticast)
                    } else if group.len() == MAX_ADDRESSES && !group.contains(&addr) {
                        Err(FilterError::Full)
                    } else {
                        group.insert(addr);
                        Ok(())
                    };
                    assert_eq!(filter.apply(MulticastOp::Add(addr)), expected);
                }
                assert_eq!(
                    (filter.len(), filter.is_empty()),
                    (group.len(), group.is_empty())
                );
                assert!(filter.len() <= MAX_ADDRESSES);
                let expected = addr[0] & 1 == 0 || group.contains(&addr);
                assert_eq!(filter.passes(&addr), expected);
            }
            // A queue takes what it gets of a batch.
            5 => {
                let (queues, frames, bytes) = (source.u16(), source.u16(), source.u16());
                let (queues, frames) = (u32::from(queues), u32::from(frames));
                let before = deficit;
                let mut share = Share::new(&mut deficit, queues, frames, 256);
                let mut taken = 0;
                while share.is_left() {
                    share.spend(bytes.into(), 1);
                    taken += 1;
                }
                assert!(taken <= frames.div_ceil(queues.max(1)) && taken <= 256);
                let earned = (before + QUANTUM).min(QUANTUM);
                let left = earned - i64::from(taken) * i64::from(bytes);
                let alone = queues < 2 && taken != 0;
                assert_eq!(deficit, if alone { 0 } else { left });
                assert!(deficit > -i64::from(u16::MAX));
            }
            6 => {
                if source.u8() & 1 == 0 {
                    let size = source.u32() & 0x800000ff;
                    match mapping.resize(size) {
                        Ok(()) => table = vec![0; size as usize],
                        Err(_) => assert!(size > 128),
                    }
                } else {
                    let offset = source.u32();
                    let len = usize::from(source.u8());
                    let entries: Vec<_> = source.bytes(len).iter().map(|&b| b.into()).collect();
                    let end = u64::from(offset) + entries.len() as u64;
                    let fits = end <= table.len() as u64 && entries.iter().all(|&e: &u32| e < 200);
                    assert_eq!(mapping.set(offset, &entries, 200).is_ok(), fits);
                    if fits {
                        table[offset as usize..end as usize].copy_from_slice(&entries);
                    }
                }
                let hash = source.u32();
                let queue = match table.len() as u32 {
                    0 => hash % 200,
                    size => table[(hash % size) as usize],
                };
                assert_eq!(u32::from(mapping.queue(hash, 200)), queue);
                assert_eq!(mapping.size() as usize, table.len());
            }
            _ => {
                let key = source.bytes(usize::from(source.u8() & 63));
                let Some(key) = Key::new(key) else {
                    assert!(key.len() > 40);
                    continue;
                };
                // Without carry, a hash of a sum is the sum of the hashes.
                let [a, b] = [source.u32().to_be_bytes(), source.u32().to_be_bytes()];
                let sum: Vec<_> = a.iter().zip(b).map(|(a, b)| a ^ b).collect();
                assert_eq!(key.hash(&sum), key.hash(&a) ^ key.hash(&b));
            }
        }
    }
    assert_eq!(pending.available() as usize + places.len(), 256);
}

/// A rate as a toolstack may write it.
fn any_rate(source: &Source<'_>) -> Option<Rate> {
    let text = match source.u8() {
        tag @ 0..=127 => format!("{},{}", u32::from(tag) << (tag & 15), source.u16()),
        128..=191 => format!("{},{}", source.u32(), source.u32()),
        tag => {
            let text = source.bytes((tag & 31).into());
            return Rate::parse(text).unwrap_or_else(|error| {
                assert!(error.to_string().starts_with("rate: "));
                None
            });
        }
    };
    match Rate::parse(text.as_bytes()) {
        Ok(rate) => rate,
        Err(error) => {
            assert_eq!(error, RateError::Nothing);
            assert!(text.starts_with("0,"));
            None
        }
    }
}
