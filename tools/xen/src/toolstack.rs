// SPDX-License-Identifier: GPL-2.0

//! Hypercalls that a toolstack makes, in dom0.

use std::fs::File;
use std::io;

use crate::device::{ioctl, open, PRIVCMD_HYPERCALL};
use crate::grant::SharedPages;

// Numbers of xen/include/public: xen.h, domctl.h, event_channel.h, hvm/hvm_op.h, hvm/params.h.
const EVENT_CHANNEL_OP: u64 = 32;
const HVM_OP: u64 = 34;
const DOMCTL: u64 = 36;
const DOMCTL_SOFT_RESET: u32 = 79;
const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;
const HVMOP_SET_PARAM: u64 = 0;

/// The domctl interface is that of one version of Xen; these are the ones of 4.16 and later, in which a
/// soft reset is asked for in the same words.
const DOMCTL_VERSIONS: std::ops::RangeInclusive<u32> = 0x14..=0x20;
/// Length of `struct xen_domctl`.
const DOMCTL_LENGTH: usize = 144;

/// A parameter of an HVM or PVH guest that its kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HvmParam {
    /// The guest's port of the event channel to xenstored.
    StoreEventChannel = 2,
    /// The guest's port of the event channel to xenconsoled.
    ConsoleEventChannel = 18,
}

/// Access to the hypervisor with dom0's rights.
pub struct Toolstack {
    privcmd: File,
    /// Memory that stays where it is while the hypervisor reads and writes it.
    buffer: SharedPages,
}

impl Toolstack {
    /// Opens the devices, which only dom0 has.
    pub fn open() -> io::Result<Self> {
        let hypercall = open("/dev/xen/hypercall", 0)?;
        Ok(Self {
            privcmd: open("/dev/xen/privcmd", 0)?,
            buffer: SharedPages::map(hypercall, 0, 1, false)?,
        })
    }

    /// Makes a hypercall with a command, if it takes one, and the address of a structure, which is as the
    /// hypervisor has left it afterwards.
    fn call(&mut self, number: u64, command: Option<u64>, structure: &mut [u8]) -> io::Result<()> {
        self.buffer.write(0, 0, structure);
        let address = self.buffer.page(0).as_ptr() as u64;
        let mut request = vec![number];
        request.extend(command);
        request.push(address);
        request.resize(6, 0);
        let mut words: Vec<u32> = request
            .iter()
            .flat_map(|&long| [long as u32, (long >> 32) as u32])
            .collect();
        ioctl(&self.privcmd, PRIVCMD_HYPERCALL, &mut words)?;
        structure.copy_from_slice(&self.buffer.read(0, 0, structure.len()));
        Ok(())
    }

    /// Resets a guest that was shut down to be reset, and has its processors go on: its event channels are
    /// closed, its memory is left as it is.
    pub fn soft_reset(&mut self, domid: u16) -> io::Result<()> {
        let mut refused = io::Error::from(io::ErrorKind::Unsupported);
        for version in DOMCTL_VERSIONS {
            let mut domctl = [0; DOMCTL_LENGTH];
            domctl[..4].copy_from_slice(&DOMCTL_SOFT_RESET.to_le_bytes());
            domctl[4..8].copy_from_slice(&version.to_le_bytes());
            domctl[8..10].copy_from_slice(&domid.to_le_bytes());
            match self.call(DOMCTL, None, &mut domctl) {
                // The answer to another version's request.
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => refused = e,
                other => return other,
            }
        }
        Err(refused)
    }

    /// Makes an event channel of the guest `domid` that the domain `remote` may bind; says its port.
    pub fn offer_event_channel(&mut self, domid: u16, remote: u16) -> io::Result<u32> {
        let mut structure = [0; 8];
        structure[..2].copy_from_slice(&domid.to_le_bytes());
        structure[2..4].copy_from_slice(&remote.to_le_bytes());
        self.call(
            EVENT_CHANNEL_OP,
            Some(EVTCHNOP_ALLOC_UNBOUND),
            &mut structure,
        )?;
        let [_, _, _, _, port @ ..] = structure;
        Ok(u32::from_le_bytes(port))
    }

    /// Sets what an HVM or PVH guest is told when it asks for a parameter.
    pub fn set_hvm_param(&mut self, domid: u16, param: HvmParam, value: u64) -> io::Result<()> {
        let mut structure = [0; 16];
        structure[..2].copy_from_slice(&domid.to_le_bytes());
        structure[4..8].copy_from_slice(&(param as u32).to_le_bytes());
        structure[8..].copy_from_slice(&value.to_le_bytes());
        self.call(HVM_OP, Some(HVMOP_SET_PARAM), &mut structure)
    }
}
