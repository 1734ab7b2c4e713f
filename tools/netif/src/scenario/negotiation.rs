// SPDX-License-Identifier: GPL-2.0

//! A hostile guest writes its keys.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    hostile::Source,
    negotiate::{self, Channels, KeyError, Offer, Queues},
    rx,
};

/// A hostile guest writes its keys.
pub fn negotiate(data: &[u8]) {
    let source = Source::new(data);
    let flags = source.u8();
    let offer = Offer {
        split_event_channels: flags & 1 != 0,
        multicast_control: flags & 2 != 0,
        ctrl_ring: flags & 4 != 0,
        xdp_headroom: flags & 8 != 0,
        max_queues: (1 + u16::from(flags >> 4)).try_into().unwrap(),
    };
    let offered: BTreeMap<_, _> = offer.advertised().collect();
    assert_eq!(offered.len(), offer.advertised().count());
    let mut seen = Vec::new();
    let mut directory = None;
    let mut read = |queue: Option<u16>, key: &'static str| -> Result<Option<u32>, KeyError> {
        if directory != queue {
            directory = queue;
            seen.clear();
        }
        assert!(!seen.contains(&key), "{key} is read twice");
        seen.push(key);
        match source.u8() {
            0..=31 => Ok(None),
            32..=127 => Ok(Some(1)),
            128..=223 => Ok(Some(source.u8().into())),
            tag => negotiate::read_value(key, source.bytes(usize::from(tag & 31))),
        }
    };
    let check_error = |error: KeyError| {
        let text = error.to_string();
        assert!(text.contains(error.key) && text.contains(": "));
    };
    let features = match negotiate::read_features(&offer, |key| read(None, key)) {
        Ok(features) => features,
        Err(error) => return check_error(error),
    };
    let count = features.queues.count();
    assert!((1..=offer.max_queues.get()).contains(&count));
    let mut queues = Vec::new();
    match features.queues {
        Queues::One(queue) => queues.push(queue),
        Queues::Several(_) => {
            for number in 0..count {
                let queue = negotiate::read_queue(Some(number), |key| read(Some(number), key))
                    .and_then(|queue| negotiate::check_rings(&queues, &queue).map(|()| queue));
                match queue {
                    Ok(queue) => queues.push(queue),
                    Err(error) => return check_error(error),
                }
            }
        }
    }
    let mut refs = BTreeSet::new();
    for queue in &queues {
        assert!(refs.insert(queue.tx_ring_ref) && refs.insert(queue.rx_ring_ref));
        if let Channels::Split { tx, rx } = queue.channels {
            assert_ne!(tx, rx);
        }
    }
    if let Some(ctrl) = features.ctrl {
        let taken = refs.contains(&ctrl.ring_ref);
        assert_eq!(negotiate::check_ctrl(&queues, &ctrl).is_err(), taken);
    }
    let options = features.rx_options();
    assert_eq!((options.sg, options.hash), (features.sg, false));
    assert!(features.xdp_headroom <= rx::MAX_XDP_HEADROOM);
    assert!(offer.xdp_headroom || features.xdp_headroom == 0);
    assert!(offer.ctrl_ring || features.ctrl.is_none());
    assert!(offer.multicast_control || !features.multicast_control);
    // Later, at any time.
    match negotiate::read_multicast_control(|key| {
        negotiate::read_value(key, source.bytes(usize::from(source.u8() & 31)))
    }) {
        Ok(_) => {}
        Err(error) => check_error(error),
    }
}
