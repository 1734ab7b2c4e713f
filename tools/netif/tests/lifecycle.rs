// SPDX-License-Identifier: GPL-2.0

//! The rules of "Life cycle": the whole table, line by line.

use netif::{
    lifecycle::{
        on_frontend, on_hotplug, on_probed, on_remove, Action, Backend, Conditions, XenbusState,
        MAX_STEPS,
    },
    scenario::walk,
};

use netif::lifecycle::XenbusState as X;
use Action::{Admit, Announce, Complain, Connect, Disconnect, Reread, Unregister};
use Backend as B;

/// Online, hotplug done.
const READY: Conditions = Conditions {
    online: true,
    hotplug: true,
};

/// What a pair of states asks for, with the device online and hotplug done, and the state after it.
fn expected(backend: Backend, frontend: X) -> (Vec<Action>, Backend) {
    let to_init_wait = Announce(X::InitWait);
    let to_connected = Announce(X::Connected);
    let to_reconfigured = Announce(X::Reconfigured);
    let to_closing = Announce(X::Closing);
    let to_closed = Announce(X::Closed);
    match (backend, frontend) {
        // A frontend that starts, or starts again.
        (B::Initialising, X::Initialising) => (vec![to_init_wait], B::InitWait),
        (B::InitWait, X::Initialising) => (vec![], B::InitWait),
        (B::Attached, X::Initialising) => (
            vec![Disconnect, to_closing, to_closed, to_init_wait],
            B::InitWait,
        ),
        (B::Connected, X::Initialising) => (
            vec![Disconnect, to_closing, to_closed, to_init_wait],
            B::InitWait,
        ),
        (B::Reconfigured, X::Initialising) => (
            vec![Disconnect, to_closing, to_closed, to_init_wait],
            B::InitWait,
        ),
        (B::Closing, X::Initialising) => (vec![to_closed, to_init_wait], B::InitWait),
        (B::Closed, X::Initialising) => (vec![to_init_wait], B::InitWait),

        // A frontend on its way.
        (any, X::Initialised) => (vec![], any),

        // A frontend that is ready.
        (B::Initialising, X::Connected) => (
            vec![to_init_wait, Connect, Admit, to_connected],
            B::Connected,
        ),
        (B::InitWait, X::Connected) => (vec![Connect, Admit, to_connected], B::Connected),
        (B::Attached, X::Connected) => (vec![Admit, to_connected], B::Connected),
        (B::Connected, X::Connected) => (vec![], B::Connected),
        (B::Reconfigured, X::Connected) => (vec![Reread, Admit, to_connected], B::Connected),
        (B::Closing, X::Connected) => (
            vec![to_closed, to_init_wait, Connect, Admit, to_connected],
            B::Connected,
        ),
        (B::Closed, X::Connected) => (
            vec![to_init_wait, Connect, Admit, to_connected],
            B::Connected,
        ),

        // A frontend that changes its XDP headroom.
        (B::Attached, X::Reconfiguring) => (vec![Reread, to_reconfigured], B::Reconfigured),
        (B::Connected, X::Reconfiguring) => (vec![Reread, to_reconfigured], B::Reconfigured),
        (B::Reconfigured, X::Reconfiguring) => (vec![Reread], B::Reconfigured),
        (any, X::Reconfiguring) => (vec![], any),

        // A frontend that goes.
        (B::Initialising, X::Closing) => (vec![to_init_wait, to_closing], B::Closing),
        (B::InitWait, X::Closing) => (vec![to_closing], B::Closing),
        (B::Attached, X::Closing) => (vec![Disconnect, to_closing], B::Closing),
        (B::Connected, X::Closing) => (vec![Disconnect, to_closing], B::Closing),
        (B::Reconfigured, X::Closing) => (vec![Disconnect, to_closing], B::Closing),
        (B::Closing, X::Closing) => (vec![], B::Closing),
        (B::Closed, X::Closing) => (vec![to_closing], B::Closing),

        // A frontend that is gone, for the time being.
        (B::Initialising, X::Closed) => (vec![to_closed], B::Closed),
        (B::InitWait, X::Closed) => (vec![to_closing, to_closed], B::Closed),
        (B::Attached, X::Closed) => (vec![Disconnect, to_closing, to_closed], B::Closed),
        (B::Connected, X::Closed) => (vec![Disconnect, to_closing, to_closed], B::Closed),
        (B::Reconfigured, X::Closed) => (vec![Disconnect, to_closing, to_closed], B::Closed),
        (B::Closing, X::Closed) => (vec![to_closed], B::Closed),
        (B::Closed, X::Closed) => (vec![], B::Closed),

        // A frontend that is gone for good.
        (any, X::Unknown) => {
            let (mut actions, end) = expected(any, X::Closed);
            actions.push(Unregister);
            (actions, end)
        }

        // Not a frontend's states.
        (any, X::InitWait | X::Reconfigured | X::Invalid) => (vec![Complain], any),
    }
}

#[test]
fn every_pair_of_states() {
    for backend in Backend::ALL {
        for frontend in XenbusState::ALL {
            let steps = on_frontend(backend, frontend, READY);
            let (actions, end) = expected(backend, frontend);
            assert_eq!(steps.end(), end, "{backend:?} {frontend:?}");
            assert!(steps.clone().count() <= MAX_STEPS);
            let got: Vec<_> = steps.clone().map(|step| step.action).collect();
            assert_eq!(got, actions, "{backend:?} {frontend:?}");
            assert_eq!(walk(backend, steps, || false), end);
        }
    }
}

#[test]
fn a_device_that_is_not_wanted_is_unregistered_once_closed() {
    for backend in Backend::ALL {
        for frontend in XenbusState::ALL {
            let online = on_frontend(backend, frontend, READY);
            let offline = on_frontend(
                backend,
                frontend,
                Conditions {
                    online: false,
                    ..READY
                },
            );
            let mut expected: Vec<_> = online.map(|step| step.action).collect();
            if frontend == X::Closed {
                expected.push(Unregister);
            }
            let got: Vec<_> = offline.map(|step| step.action).collect();
            assert_eq!(got, expected, "{backend:?} {frontend:?}");
        }
    }
}

#[test]
fn hotplug_holds_back_the_guests_frames_and_the_announcement() {
    for backend in Backend::ALL {
        for frontend in XenbusState::ALL {
            let ready = on_frontend(backend, frontend, READY);
            let early = on_frontend(
                backend,
                frontend,
                Conditions {
                    hotplug: false,
                    ..READY
                },
            );
            let mut expected: Vec<_> = ready.clone().map(|step| step.action).collect();
            let held = expected.last() == Some(&Announce(X::Connected));
            if held {
                expected.pop();
                // What the guest sends waits, too.
                assert_eq!(expected.pop(), Some(Admit));
            }
            let got: Vec<_> = early.clone().map(|step| step.action).collect();
            assert_eq!(got, expected, "{backend:?} {frontend:?}");
            if held {
                assert_eq!(early.end(), B::Attached);
                // The script arrives.
                let late: Vec<_> = on_hotplug(early.end()).collect();
                let actions: Vec<_> = late.iter().map(|step| step.action).collect();
                assert_eq!(actions, [Admit, Announce(X::Connected)]);
                assert_eq!(late[1].state, ready.end());
            } else {
                assert_eq!(early.end(), ready.end());
            }
        }
    }
}

#[test]
fn hotplug_at_any_other_time_means_nothing() {
    for backend in Backend::ALL {
        if backend != B::Attached {
            let steps = on_hotplug(backend);
            assert_eq!(steps.end(), backend);
            assert_eq!(steps.count(), 0);
        }
    }
}

#[test]
fn removal_lets_go_of_the_rings_and_says_nothing() {
    for backend in Backend::ALL {
        let actions: Vec<_> = on_remove(backend).map(|step| step.action).collect();
        if backend.has_rings() {
            assert_eq!(actions, [Disconnect]);
        } else {
            assert_eq!(actions, []);
        }
    }
}

#[test]
fn probe_announces_init_wait_once() {
    for backend in Backend::ALL {
        let actions: Vec<_> = on_probed(backend).map(|step| step.action).collect();
        if backend == B::Initialising {
            assert_eq!(actions, [Announce(X::InitWait)]);
        } else {
            assert_eq!(actions, []);
        }
    }
}

/// Follows a list of frontend states and returns all actions.
fn follow(frontends: &[X], conditions: Conditions) -> (Vec<Action>, Backend) {
    let mut actions = Vec::new();
    let steps = on_probed(B::Initialising);
    let mut state = steps.end();
    actions.extend(steps.map(|step| step.action));
    for &frontend in frontends {
        let steps = on_frontend(state, frontend, conditions);
        actions.extend(steps.clone().map(|step| step.action));
        state = walk(state, steps, || false);
    }
    (actions, state)
}

#[test]
fn an_ordinary_life() {
    let (actions, end) = follow(
        &[
            X::Initialising,
            X::Connected,
            X::Closing,
            X::Closed,
            X::Unknown,
        ],
        READY,
    );
    assert_eq!(
        actions,
        [
            Announce(X::InitWait),
            Connect,
            Admit,
            Announce(X::Connected),
            Disconnect,
            Announce(X::Closing),
            Announce(X::Closed),
            Unregister,
        ]
    );
    assert_eq!(end, B::Closed);
}

#[test]
fn a_frontend_that_restarts() {
    // kexec and kdump, a reboot inside the guest: with and without closing first.
    let (actions, end) = follow(
        &[
            X::Initialising,
            X::Connected,
            X::Closing,
            X::Closed,
            X::Initialising,
            X::Connected,
            X::Initialising,
            X::Connected,
        ],
        READY,
    );
    assert_eq!(actions.iter().filter(|a| **a == Connect).count(), 3);
    assert_eq!(actions.iter().filter(|a| **a == Disconnect).count(), 2);
    assert_eq!(end, B::Connected);
}

#[test]
fn rebinding_finds_the_frontend_connected() {
    // The state in xenstore is left Connected, the next driver announces InitWait and finds the
    // frontend where it was.
    let (actions, end) = follow(&[X::Connected], READY);
    assert_eq!(
        actions,
        [
            Announce(X::InitWait),
            Connect,
            Admit,
            Announce(X::Connected)
        ]
    );
    assert_eq!(end, B::Connected);
}

#[test]
fn a_connect_that_fails_leaves_closing() {
    let steps = on_frontend(B::Closing, X::Connected, READY);
    let state = walk(B::Closing, steps, || true);
    assert_eq!(state, B::Closing);
    // From there it goes on as for any other frontend.
    let steps = on_frontend(state, X::Closed, READY);
    let state = walk(state, steps, || false);
    let steps = on_frontend(state, X::Initialising, READY);
    assert_eq!(walk(state, steps, || false), B::InitWait);
}

#[test]
fn rings_are_in_use_exactly_between_connect_and_disconnect() {
    // All walks of four frontend states from probe on; `walk` checks each step.
    for a in X::ALL {
        for b in X::ALL {
            for c in X::ALL {
                for d in X::ALL {
                    for hotplug in [false, true] {
                        let conditions = Conditions {
                            online: true,
                            hotplug,
                        };
                        follow(&[a, b, c, d], conditions);
                    }
                }
            }
        }
    }
}

#[test]
fn states_have_the_numbers_of_xenbus() {
    for (number, state) in X::ALL.into_iter().enumerate() {
        assert_eq!(state.number(), number as u32);
        assert_eq!(X::new(number as u32), state);
        assert_eq!(format!("{state:?}"), state.as_str());
    }
    for number in [9, 100, u32::MAX] {
        assert_eq!(X::new(number), X::Invalid);
    }
}
