// SPDX-License-Identifier: GPL-2.0

//! The life cycle: how the backend answers the frontend's states.
//!
//! A pure table: from the backend's state, the frontend's state and a few conditions to the steps
//! to take. Whoever takes them does so in order and adopts the state that comes with each step once
//! it is done; so a step that fails leaves a state that is true.
//!
//! ```text
//!               frontend: Initialising   Connected        Closing      Closed, Unknown
//!  Initialising           > InitWait     > InitWait       > InitWait   > Closed
//!                                        > Connected      > Closing
//!  InitWait               .              > Connected      > Closing    > Closing > Closed
//!  Connected and the like > Closing      .                > Closing    > Closing > Closed
//!                         > Closed
//!                         > InitWait
//!  Closing                > Closed       > Closed         .            > Closed
//!                         > InitWait     > InitWait
//!                                        > Connected
//!  Closed                 > InitWait     > InitWait       > Closing    .
//!                                        > Connected
//! ```
//!
//! The way to Connected leads through attaching to the rings, the way from there through letting
//! go of them. These are the walks of the C driver, which frontends know.
//!
//! *Attached* is nearly Connected: the rings are in use, but the announcement waits for the
//! toolstack's hotplug script, and so does what the guest sends. It may well send something: another
//! backend has announced Connected before. See [`Action::Admit`].

/// The states of xenbus, as either end writes them to xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum XenbusState {
    /// There is no such device, or no such end of it any more.
    Unknown = 0,
    /// Starting up.
    Initialising = 1,
    /// Backend: ready for the frontend's details.
    InitWait = 2,
    /// Frontend: its details are there, it waits for the backend.
    Initialised = 3,
    /// At work.
    Connected = 4,
    /// On its way to Closed.
    Closing = 5,
    /// Not in use.
    Closed = 6,
    /// Frontend: changes its details while connected.
    Reconfiguring = 7,
    /// Backend: has taken note of the change.
    Reconfigured = 8,
    /// No state at all, but what the other end wrote.
    Invalid = 9,
}

impl XenbusState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
        Self::Invalid,
    ];

    /// The state of a number in xenstore. None at all is not invalid but unknown, number 0.
    pub const fn new(number: u32) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            7 => Self::Reconfiguring,
            8 => Self::Reconfigured,
            _ => Self::Invalid,
        }
    }

    /// Its number in xenstore.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Initialising => "Initialising",
            Self::InitWait => "InitWait",
            Self::Initialised => "Initialised",
            Self::Connected => "Connected",
            Self::Closing => "Closing",
            Self::Closed => "Closed",
            Self::Reconfiguring => "Reconfiguring",
            Self::Reconfigured => "Reconfigured",
            Self::Invalid => "Invalid",
        }
    }
}

/// The states of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Between the start of probe and its end.
    Initialising,
    /// Features are advertised, no rings.
    InitWait,
    /// The rings are in use, Connected is not announced yet.
    Attached,
    /// The rings are in use.
    Connected,
    /// The rings are in use, a change of the frontend's details is under way.
    Reconfigured,
    /// No rings, not coming back as it is.
    Closing,
    /// No rings.
    Closed,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Initialising,
        Self::InitWait,
        Self::Attached,
        Self::Connected,
        Self::Reconfigured,
        Self::Closing,
        Self::Closed,
    ];

    /// Whether rings are in use.
    pub const fn has_rings(self) -> bool {
        matches!(self, Self::Attached | Self::Connected | Self::Reconfigured)
    }

    /// What the frontend has been told.
    pub const fn announced(self) -> XenbusState {
        match self {
            Self::Initialising => XenbusState::Initialising,
            Self::InitWait | Self::Attached => XenbusState::InitWait,
            Self::Connected => XenbusState::Connected,
            Self::Reconfigured => XenbusState::Reconfigured,
            Self::Closing => XenbusState::Closing,
            Self::Closed => XenbusState::Closed,
        }
    }
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this state to our directory.
    Announce(XenbusState),
    /// Read the frontend's details and attach to its rings. If that fails, nothing is left
    /// attached, the frontend is told why and that we are Closing, the state is
    /// [`Backend::Closing`] and the remaining steps are not taken.
    Connect,
    /// The hotplug script is done: let in what the guest sends. Until then the interface may be up
    /// with nobody there who takes its frames.
    Admit,
    /// Let go of the rings.
    Disconnect,
    /// Read what a connected frontend may change: its XDP headroom.
    Reread,
    /// Complain in the log and in xenstore that the frontend is in a state that it cannot be in.
    Complain,
    /// Unregister the device: the end.
    Unregister,
}

/// An action, and the state once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The backend's state after it.
    pub state: Backend,
}

/// The most steps there ever are.
pub const MAX_STEPS: usize = 5;

/// Steps to take, in order.
#[derive(Clone, Debug)]
pub struct Steps {
    /// The steps, those from `next` up to `len` still to be taken.
    steps: [Step; MAX_STEPS],
    /// How many there are.
    len: usize,
    /// The next one.
    next: usize,
    /// The state after the last one.
    state: Backend,
}

impl Steps {
    /// Nothing to do.
    const fn stay(state: Backend) -> Self {
        const NOTHING: Step = Step {
            action: Action::Complain,
            state: Backend::Initialising,
        };
        Self {
            steps: [NOTHING; MAX_STEPS],
            len: 0,
            next: 0,
            state,
        }
    }

    /// One more step.
    fn push(&mut self, action: Action, state: Backend) {
        if let Some(place) = self.steps.get_mut(self.len) {
            *place = Step { action, state };
            self.len += 1;
            self.state = state;
        }
    }

    /// Announces the state that goes with one of ours.
    fn announce(&mut self, state: Backend) {
        self.push(Action::Announce(state.announced()), state);
    }

    /// Opens for what the guest sends, and announces Connected.
    fn announce_connected(&mut self) {
        self.push(Action::Admit, Backend::Attached);
        self.announce(Backend::Connected);
    }

    /// Lets go of the rings, if there are any.
    fn disconnect(&mut self) {
        if self.state.has_rings() {
            // Until Closing is announced the frontend sees what it saw before.
            self.push(Action::Disconnect, Backend::InitWait);
        }
    }

    /// The state once all steps are taken.
    pub const fn end(&self) -> Backend {
        self.state
    }

    /// Walks to InitWait.
    fn walk_to_init_wait(&mut self) {
        match self.state {
            Backend::InitWait => {}
            Backend::Initialising | Backend::Closed => self.announce(Backend::InitWait),
            Backend::Closing => {
                self.announce(Backend::Closed);
                self.announce(Backend::InitWait);
            }
            Backend::Attached | Backend::Connected | Backend::Reconfigured => {
                self.disconnect();
                self.announce(Backend::Closing);
                self.announce(Backend::Closed);
                self.announce(Backend::InitWait);
            }
        }
    }

    /// Walks to Connected, or as near as may be without the hotplug script.
    fn walk_to_connected(&mut self, hotplug: bool) {
        match self.state {
            Backend::Connected => return,
            Backend::Reconfigured => self.push(Action::Reread, Backend::Attached),
            Backend::Attached => {}
            _ => {
                self.walk_to_init_wait();
                self.push(Action::Connect, Backend::Attached);
            }
        }
        if hotplug {
            self.announce_connected();
        }
    }

    /// Walks to Closing.
    fn walk_to_closing(&mut self) {
        match self.state {
            Backend::Closing => {}
            Backend::Initialising => {
                self.announce(Backend::InitWait);
                self.announce(Backend::Closing);
            }
            _ => {
                self.disconnect();
                self.announce(Backend::Closing);
            }
        }
    }

    /// Walks to Closed.
    fn walk_to_closed(&mut self) {
        match self.state {
            Backend::Closed => {}
            Backend::Initialising => self.announce(Backend::Closed),
            _ => {
                self.walk_to_closing();
                self.announce(Backend::Closed);
            }
        }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.next == self.len {
            return None;
        }
        let step = self.steps.get(self.next).copied();
        self.next += 1;
        step
    }
}

/// What else matters when the frontend changes its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// The toolstack wants the device (its `online` key).
    pub online: bool,
    /// The hotplug script is done (`hotplug-status` is "connected").
    pub hotplug: bool,
}

/// The frontend is in a state, newly or still.
pub fn on_frontend(backend: Backend, frontend: XenbusState, conditions: Conditions) -> Steps {
    let mut steps = Steps::stay(backend);
    match frontend {
        XenbusState::Initialising => steps.walk_to_init_wait(),
        XenbusState::Initialised => {}
        XenbusState::Connected => steps.walk_to_connected(conditions.hotplug),
        XenbusState::Reconfiguring => {
            if backend.has_rings() {
                steps.push(Action::Reread, backend);
                if backend != Backend::Reconfigured {
                    steps.announce(Backend::Reconfigured);
                }
            }
        }
        XenbusState::Closing => steps.walk_to_closing(),
        XenbusState::Closed => {
            steps.walk_to_closed();
            if !conditions.online {
                steps.push(Action::Unregister, Backend::Closed);
            }
        }
        XenbusState::Unknown => {
            steps.walk_to_closed();
            steps.push(Action::Unregister, Backend::Closed);
        }
        XenbusState::InitWait | XenbusState::Reconfigured | XenbusState::Invalid => {
            steps.push(Action::Complain, backend);
        }
    }
    steps
}

/// The hotplug script is done.
pub fn on_hotplug(backend: Backend) -> Steps {
    let mut steps = Steps::stay(backend);
    if backend == Backend::Attached {
        steps.announce_connected();
    }
    steps
}

/// Probe has advertised our features and registered the interface.
pub fn on_probed(backend: Backend) -> Steps {
    let mut steps = Steps::stay(backend);
    if backend == Backend::Initialising {
        steps.announce(Backend::InitWait);
    }
    steps
}

/// The driver leaves the device, whatever the reason: unbind, unload, or the device is gone.
///
/// The state in xenstore stays as it is, so that after an unbind another backend can attach to the
/// rings in use without the frontend noticing.
pub fn on_remove(backend: Backend) -> Steps {
    let mut steps = Steps::stay(backend);
    steps.disconnect();
    steps
}
