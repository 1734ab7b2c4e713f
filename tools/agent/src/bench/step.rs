// SPDX-License-Identifier: GPL-2.0

//! Measurements that begin in step with the machine's clocks.
//!
//! Where time counts instructions, what is left to chance is when the lab's messages arrive. So
//! whatever is measured begins at an instant that is a whole number of periods after the machine's
//! start: kernels' ticks and the hypervisor's come at the same instants of it each time.

use std::thread;
use std::time::Duration;

/// A multiple of the ticks of Linux (4 ms at 250 Hz, 10 ms at 100 Hz), and of Xen's credit
/// scheduler (10 ms, accounts each 30 ms).
const PERIOD: Duration = Duration::from_millis(300);

/// The monotonic clock.
fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one structure, and nothing else can go wrong with this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long it is from `now` to the next instant but one, so that it is never too short.
fn left(now: Duration) -> Duration {
    let period = PERIOD.as_nanos();
    let next = (now.as_nanos() / period + 2) * period;
    Duration::from_nanos((next - now.as_nanos()) as u64)
}

/// Waits for an instant to begin at.
pub fn wait() {
    thread::sleep(left(now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_whole_periods() {
        for ms in [0, 1, 299, 300, 301, 12345] {
            let now = Duration::from_millis(ms);
            let left = left(now);
            assert!(left > PERIOD && left <= 2 * PERIOD);
            assert_eq!((now + left).as_nanos() % PERIOD.as_nanos(), 0);
        }
    }
}
