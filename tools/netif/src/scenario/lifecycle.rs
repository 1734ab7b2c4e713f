// SPDX-License-Identifier: GPL-2.0

//! A hostile guest, and a toolstack in a hurry, change their states.

use crate::{
    hostile::Source,
    lifecycle::{self, Action, Backend, Conditions, Steps, XenbusState},
};

/// Takes steps as the device does, checks that each can be taken, and returns the state after
/// them. A connect fails if `fails` says so.
pub fn walk(mut state: Backend, steps: Steps, mut fails: impl FnMut() -> bool) -> Backend {
    let end = steps.end();
    for step in steps {
        match step.action {
            Action::Connect => {
                assert!(!state.has_rings());
                assert!(step.state.has_rings());
                if fails() {
                    return Backend::Closing;
                }
            }
            Action::Disconnect => {
                assert!(state.has_rings());
                assert!(!step.state.has_rings());
            }
            Action::Reread | Action::Admit => {
                assert!(state.has_rings());
                assert!(step.state.has_rings());
            }
            Action::Announce(announced) => {
                assert_eq!(step.state.announced(), announced);
                assert_eq!(step.state.has_rings(), state.has_rings());
            }
            Action::Complain => assert_eq!(step.state, state),
            Action::Unregister => {
                assert_eq!(state, Backend::Closed);
                assert_eq!(step.state, Backend::Closed);
            }
        }
        state = step.state;
    }
    assert_eq!(state, end);
    state
}

/// A hostile guest, and a toolstack in a hurry, change their states.
pub fn lifecycle(data: &[u8]) {
    let source = Source::new(data);
    let mut state = Backend::Initialising;
    // Normally probe is over before the frontend is looked at.
    if source.u8() & 7 != 0 {
        state = walk(state, lifecycle::on_probed(state), || false);
    }
    while !source.is_empty() {
        // What people are told names it.
        let named = |other: &XenbusState| other.as_str() == state.announced().as_str();
        assert_eq!(
            XenbusState::ALL.iter().filter(|other| named(other)).count(),
            1
        );
        let event = source.u8();
        let conditions = Conditions {
            online: event & 16 != 0,
            hotplug: event & 32 != 0,
        };
        let steps = match event & 15 {
            number @ 0..=9 => {
                let frontend = XenbusState::new(u32::from(number));
                assert_eq!(frontend.number(), u32::from(number));
                lifecycle::on_frontend(state, frontend, conditions)
            }
            10..=11 => lifecycle::on_hotplug(state),
            12 => {
                state = walk(state, lifecycle::on_remove(state), || false);
                assert!(!state.has_rings());
                // The next driver.
                state = Backend::Initialising;
                lifecycle::on_probed(state)
            }
            _ => continue,
        };
        let last = steps.clone().last();
        state = walk(state, steps, || event & 192 == 192);
        if let Some(step) = last {
            if step.action == Action::Unregister {
                return;
            }
        }
    }
}
