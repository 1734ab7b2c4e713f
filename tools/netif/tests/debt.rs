// SPDX-License-Identifier: GPL-2.0

//! Which notifications of a guest's own frames are put off.

use netif::debt::{Debt, MOST};

/// How many notifications of one small frame are sent before the first that is put off.
fn prompt(debt: &mut Debt) -> usize {
    (0..2000).take_while(|_| !debt.may_wait(1, 60)).count()
}

/// So many small frames whose notification is put off, and then sent.
fn put_off(debt: &mut Debt, frames: u32) {
    for _ in 0..frames {
        assert!(debt.may_wait(1, 60));
    }
    debt.told();
}

#[test]
fn a_new_guest_is_told_at_once() {
    let mut debt = Debt::new();
    assert_eq!(prompt(&mut debt), 8);
    // From now on, as long as more comes meanwhile, notifications are put off.
    put_off(&mut debt, 4);
    for frames in 5..20 {
        put_off(&mut debt, frames);
    }
}

#[test]
fn a_guest_that_waits_is_told_at_once_ever_longer() {
    for window in 1..=4 {
        let mut debt = Debt::new();
        assert_eq!(prompt(&mut debt), 8);
        for expected in [8, 16, 32, 64, 64, 64] {
            // The first of the window is the one before which `prompt` stopped.
            put_off(&mut debt, window - 1);
            assert_eq!(prompt(&mut debt), expected);
        }
        // One that goes on after all is trusted again, until it has waited twice.
        put_off(&mut debt, 4);
        put_off(&mut debt, window);
        put_off(&mut debt, window);
        assert_eq!(prompt(&mut debt), 8);
    }
}

#[test]
fn much_does_not_wait() {
    let mut debt = Debt::new();
    prompt(&mut debt);
    assert!(debt.may_wait(MOST, 4096));
    assert!(!debt.may_wait(MOST + 1, 60));
    prompt(&mut debt);
    assert!(!debt.may_wait(1, 4097));
    prompt(&mut debt);
    assert!(!debt.may_wait(u32::MAX, u32::MAX));
    prompt(&mut debt);
    assert!(debt.may_wait(MOST, 0));
}
