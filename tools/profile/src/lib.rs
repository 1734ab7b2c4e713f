// SPDX-License-Identifier: GPL-2.0

//! A plugin of QEMU's TCG that counts how often each block of code is executed.
//!
//! `-plugin libnetback_profile.so,socket=PATH` makes it listen on a socket of that path. A client
//! sends one line: `reset` begins to count anew; `dump` answers with a line for each block that
//! was executed since, `ADDRESS HOST INSTRUCTIONS COUNT`, numbers in hexadecimal but the last two:
//! where the block is for the machine, where it is in the emulator's memory (the same address may
//! be different code in different domains), how many instructions it has, and how often it was
//! begun. Either answer ends with a line `.`.

mod blocks;
mod qemu;

use std::ffi::CStr;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::slice;

use blocks::BLOCKS;

/// Version of the interface that this was written for.
#[no_mangle]
pub static qemu_plugin_version: i32 = 4;

/// A block is translated: has QEMU count it.
extern "C" fn translated(_id: qemu::Id, block: *mut qemu::Block) {
    // SAFETY: QEMU passes a block that is valid during this call.
    let block = unsafe { qemu::Translation::new(block) };
    if let Some(place) = BLOCKS.place(block.key()) {
        block.count_at(place);
    }
}

fn answer(stream: &UnixStream) -> io::Result<()> {
    let mut command = String::new();
    BufReader::new(stream).read_line(&mut command)?;
    let mut out = BufWriter::new(stream);
    match command.trim() {
        "reset" => BLOCKS.reset(),
        "dump" => BLOCKS.for_each(|key, count| {
            writeln!(
                out,
                "{:x} {:x} {} {count}",
                key.address, key.host, key.instructions
            )
        })?,
        other => writeln!(out, "no command {other:?}")?,
    }
    writeln!(out, ".")?;
    out.flush()
}

fn serve(listener: UnixListener) {
    for stream in listener.incoming() {
        if let Err(e) = stream.and_then(|stream| answer(&stream)) {
            eprintln!("netback-profile: {e}");
        }
    }
}

/// What QEMU calls when it has loaded the plugin.
///
/// # Safety
///
/// `argv` must be `argc` strings.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: qemu::Id,
    _info: *const core::ffi::c_void,
    argc: i32,
    argv: *const *const core::ffi::c_char,
) -> i32 {
    // SAFETY: the caller passes as many strings.
    let arguments = unsafe { slice::from_raw_parts(argv, argc.max(0) as usize) };
    let path = arguments.iter().find_map(|&argument| {
        // SAFETY: each is a string that ends in NUL.
        let text = unsafe { CStr::from_ptr(argument) }.to_str().ok()?;
        text.strip_prefix("socket=")
    });
    let Some(path) = path else {
        eprintln!("netback-profile: say socket=PATH");
        return -1;
    };
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("netback-profile: cannot listen on {path}: {e}");
            return -1;
        }
    };
    blocks::begin();
    std::thread::spawn(move || serve(listener));
    qemu::on_translation(id, translated);
    0
}
