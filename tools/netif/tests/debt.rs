// SPDX-License-Identifier: GPL-2.0

//! Which notifications of a guest's own frames are put off.

use netif::debt::{Account, Debt, Reminder, MOST, MOST_RESTLESS};

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

/// A guest that was told at once often enough to be put off with the next batch.
fn waiting() -> Account {
    let mut account = Account::default();
    for _ in 0..8 {
        assert!(account.publish(true, 1, 60, false));
        assert!(!account.is_put_off());
        assert!(account.close());
        assert_eq!(account.rest(0, false, false), Reminder::Unwanted);
    }
    account
}

#[test]
fn what_is_put_off_is_told_when_the_alarm_reminds() {
    let mut account = waiting();
    assert!(!account.publish(true, 1, 60, false));
    assert!(account.is_put_off());
    assert!(!account.close());
    assert_eq!(account.rest(1, false, false), Reminder::Wanted);
    // More comes, and the alarm stays as it is; set for something else it serves as well.
    assert!(!account.publish(true, 2, 60, false));
    assert_eq!(account.rest(2, false, false), Reminder::Stands);
    assert!(!account.publish(true, 3, 60, false));
    assert_eq!(account.rest(3, false, true), Reminder::Wanted);
    // It goes off: the guest is told, though nothing came.
    assert!(account.publish(false, 3, 0, true));
    assert!(!account.is_put_off());
    assert!(account.close());
    assert!(!account.close());
    assert_eq!(account.rest(0, true, false), Reminder::Unwanted);
    // An alarm that goes off for something else reminds of nothing.
    let mut account = waiting();
    assert!(!account.publish(true, 1, 60, true));
    assert!(account.is_put_off());
}

#[test]
fn an_alarm_without_need_is_left_alone_once() {
    let mut account = waiting();
    assert!(!account.publish(true, 1, 60, false));
    assert_eq!(account.rest(1, false, false), Reminder::Wanted);
    // Told for another reason meanwhile: many at once.
    assert!(account.publish(true, MOST + 1, 60, false));
    assert!(account.close());
    assert_eq!(account.rest(0, false, false), Reminder::Stands);
    assert_eq!(account.rest(0, true, false), Reminder::Unwanted);
    assert_eq!(account.rest(0, false, false), Reminder::Unwanted);
}

#[test]
fn a_queue_that_does_not_rest_puts_off_for_a_few_batches() {
    let mut account = waiting();
    for unsettled in 1..=MOST_RESTLESS + 1 {
        assert!(!account.publish(true, unsettled, 60, false));
        assert!(account.is_put_off());
        assert!(!account.close());
    }
    assert!(account.publish(true, MOST_RESTLESS + 2, 60, false));
    assert!(account.close());
    // One that rests in between sets an alarm each time.
    let mut account = waiting();
    for unsettled in 1..=MOST {
        assert!(!account.publish(true, unsettled, 60, false));
        account.rest(unsettled, false, false);
    }
    assert!(account.publish(true, MOST + 1, 60, false));
}

#[test]
fn a_guest_is_told_once_a_poll() {
    let mut account = Account::default();
    assert!(account.publish(true, 1, 60, false));
    assert!(!account.publish(true, 2, 60, false));
    assert!(account.close());
    assert!(!account.close());
    // Of nothing there is nothing to tell.
    assert!(!account.publish(false, 0, 0, false));
    assert!(!account.publish(true, 0, 60, false));
    assert!(!account.close());
}
