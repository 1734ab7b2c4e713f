// SPDX-License-Identifier: GPL-2.0

//! A data race, made on purpose: where KCSAN watches, it has to be reported, or
//! what KCSAN does not report elsewhere says nothing of the module.
//!
//! Part of the module if it is built with `CONFIG_NETBACK_KUNIT=y`.

use super::workqueue::Workqueue;
use core::cell::UnsafeCell;
use kernel::impl_has_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::workqueue::{
    new_work,
    Work,
    WorkItem, //
};

/// How often each of two processors writes: some tenths of a second under KCSAN.
const WRITES: u32 = 300_000;

/// What is written without a mark.
struct Raced(UnsafeCell<u32>);

// SAFETY: it is not, and that is the point: nobody relies on the value, and a plain
// write of an aligned word leaves one of those that were written.
unsafe impl Sync for Raced {}

static RACED: Raced = Raced(UnsafeCell::new(0));

/// Writes at the same time as others do.
#[pin_data]
struct Writer {
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Writer { self.work }
}

impl WorkItem for Writer {
    type Pointer = Arc<Self>;

    fn run(_this: Arc<Self>) {
        for _ in 0..WRITES {
            write();
        }
    }
}

/// Named in the report.
#[inline(never)]
fn write() {
    // SAFETY: the word is always there; see `Raced`.
    unsafe { *core::hint::black_box(RACED.0.get()) += 1 };
}

/// Has two processors write at once, and waits until they have.
fn race() -> Result {
    let queue = Workqueue::new(c"netback_race")?;

    for _ in 0..2 {
        let writer = Arc::pin_init(
            pin_init!(Writer {
                work <- new_work!("Writer::work"),
            }),
            GFP_KERNEL,
        )?;

        queue.enqueue(writer).map_err(|_| EBUSY)?;
    }
    Ok(())
}

/// The race, as KUnit sees it. It fails where no work can be queued; what KCSAN makes
/// of it is in the log.
#[kunit_tests(netback_race)]
mod tests {
    use super::*;

    #[test]
    fn a_data_race_is_made() -> Result {
        super::race()
    }
}
