// SPDX-License-Identifier: GPL-2.0

//! The part of QEMU's plugin interface that is used here.

use core::ffi::c_void;
use std::sync::OnceLock;

use crate::blocks::{Key, CAPACITY};

/// A plugin's number.
pub type Id = u64;

/// `struct qemu_plugin_tb`.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Instruction {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counter {
    score: *mut Scoreboard,
    offset: usize,
}

/// `QEMU_PLUGIN_INLINE_ADD_U64`.
const ADD: i32 = 0;

extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Block));
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_haddr(instruction: *const Instruction) -> *mut c_void;
    fn qemu_plugin_scoreboard_new(element: usize) -> *mut Scoreboard;
    fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut Block,
        operation: i32,
        counter: Counter,
        value: u64,
    );
    fn qemu_plugin_u64_sum(counter: Counter) -> u64;
}

/// The counters of all blocks, for each virtual processor.
struct Counters(*mut Scoreboard);

// SAFETY: QEMU hands out the scoreboard for use from any thread.
unsafe impl Send for Counters {}
// SAFETY: as above.
unsafe impl Sync for Counters {}

fn counter(place: usize) -> Counter {
    static COUNTERS: OnceLock<Counters> = OnceLock::new();

    let counters = COUNTERS.get_or_init(|| {
        // SAFETY: called after the plugin was loaded.
        Counters(unsafe { qemu_plugin_scoreboard_new(CAPACITY * size_of::<u64>()) })
    });
    Counter {
        score: counters.0,
        offset: place * size_of::<u64>(),
    }
}

/// Makes the counters.
pub fn begin() {
    counter(0);
}

/// How often the block at `place` was executed so far.
pub fn count(place: usize) -> u64 {
    // SAFETY: the counter lies within the scoreboard, as `place` is below `CAPACITY`.
    unsafe { qemu_plugin_u64_sum(counter(place)) }
}

/// Has `callback` called for every block that is translated.
pub fn on_translation(id: Id, callback: extern "C" fn(Id, *mut Block)) {
    // SAFETY: the callback is of the type that is wanted.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, callback) };
}

/// A block that is being translated.
pub struct Translation(*mut Block);

impl Translation {
    /// # Safety
    ///
    /// The block must be valid as long as this is.
    pub unsafe fn new(block: *mut Block) -> Self {
        Self(block)
    }

    /// Which block it is.
    pub fn key(&self) -> Key {
        // SAFETY: the block is valid and has at least one instruction.
        unsafe {
            Key {
                address: qemu_plugin_tb_vaddr(self.0),
                host: qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(self.0, 0)) as u64,
                instructions: qemu_plugin_tb_n_insns(self.0) as u32,
            }
        }
    }

    /// Has its executions counted.
    pub fn count_at(&self, place: usize) {
        // SAFETY: the block is valid, the counter lies within the scoreboard.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(self.0, ADD, counter(place), 1)
        };
    }
}
