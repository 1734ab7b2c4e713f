// SPDX-License-Identifier: GPL-2.0

//! What a backend module itself allocates for a vif, apart from what the kernel does for it.
//!
//! Objects: the kernel's tracepoints for allocations, with their stacks, while the thread that
//! serves xenbus sets a vif up. What is not freed again counts as the module's if the module is the
//! first in the stack that is no allocator. Large areas: /proc/vmallocinfo names who asked for
//! them.

use std::collections::HashMap;

use anyhow::{ensure, Context, Result};

use super::station::Station;

const BEGIN: &str = "
    t=/sys/kernel/tracing
    [ -e $t/trace ] || mount -t tracefs tracefs $t || exit 1
    for p in /proc/[0-9]*; do
        read -r name < $p/comm && [ \"$name\" = xenwatch ] && pid=${p#/proc/}
    done 2>/dev/null
    [ -n \"$pid\" ] || exit 1
    echo 0 > $t/tracing_on
    echo > $t/trace
    echo 16384 > $t/buffer_size_kb
    echo $pid > $t/set_event_pid
    echo 1 > $t/options/stacktrace
    # Otherwise functions come without the names of their modules.
    echo 1 > $t/options/sym-offset
    for e in kmalloc kmem_cache_alloc kfree kmem_cache_free; do
        echo 1 > $t/events/kmem/$e/enable || exit 1
    done
    echo 1 > $t/tracing_on";

const END: &str = "
    t=/sys/kernel/tracing
    echo 0 > $t/tracing_on
    echo 0 > $t/events/kmem/enable
    # The names are found when it is read.
    cat $t/trace
    echo 0 > $t/options/stacktrace
    echo 0 > $t/options/sym-offset
    echo > $t/trace
    echo > $t/set_event_pid";

/// Starts to look at what is allocated.
pub fn begin(station: &Station) -> Result<()> {
    let limit = station.limit(60);
    station.dom0().run_within(BEGIN, limit).map(drop)
}

/// Ends that, and returns the bytes of the objects that the module has kept.
pub fn end(station: &Station) -> Result<f64> {
    let trace = station.dom0().run_within(END, station.limit(120))?.stdout;
    let objects = kept(&trace, station.driver().module());
    ensure!(
        objects > 0,
        "no object of the module's in {} lines of trace",
        trace.lines().count()
    );
    Ok(objects as f64)
}

/// The value of `key=value` in a line.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Bytes that `module` has allocated in `trace` and not freed.
fn kept(trace: &str, module: &str) -> u64 {
    let marker = format!("[{module}]");
    let mut objects: HashMap<&str, u64> = HashMap::new();
    // What was allocated last, until its stack tells by whom.
    let mut last: Option<(&str, u64)> = None;
    for line in trace.lines() {
        if let Some(function) = line.trim_start().strip_prefix("=> ") {
            if function.contains(&marker) {
                objects.extend(last.take());
            } else if !is_allocator(function) {
                last = None;
            }
        } else if line.contains("free: ") {
            if let Some(object) = field(line, "ptr") {
                objects.remove(object);
            }
        } else if line.contains(": kmalloc: ") || line.contains(": kmem_cache_alloc: ") {
            let bytes = field(line, "bytes_alloc").and_then(|b| b.parse().ok());
            last = field(line, "ptr").zip(bytes);
        }
    }
    objects.values().sum()
}

/// Whether a function allocates memory for its caller. What makes a `struct net_device` does not: that
/// is the kernel's.
fn is_allocator(function: &str) -> bool {
    const PARTS: [&str; 7] = [
        "kmalloc",
        "krealloc",
        "kvmalloc",
        "kvrealloc",
        "kmem_cache_alloc",
        // The tracepoint itself, and what Rust has around the kernel's functions.
        "trace_event",
        "6kernel5alloc",
    ];
    function.starts_with("rust_helper_") || PARTS.iter().any(|part| function.contains(part))
}

/// KiB of the areas that the module has asked for.
pub fn areas(station: &Station) -> Result<f64> {
    let script = format!(
        "awk '/\\[{}\\].* vmalloc/ {{ sum += $2 }} END {{ print sum / 1024 }}' /proc/vmallocinfo",
        station.driver().module()
    );
    let text = station.dom0().run(&script)?;
    text.text().parse().context("no sum of areas")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_own_objects_are_found() {
        let trace = "\
# tracer: nop
 xenwatch-41 [000] ..... 1.0: kmalloc: call_site=a+0x1 ptr=00000001 bytes_req=100 bytes_alloc=128 gfp_flags=GFP_KERNEL
 xenwatch-41 [000] ..... 1.0: <stack trace>
 => __kmalloc_node_track_caller_noprof+0x2b/0x6f0
 => krealloc_node_align_noprof+0x50/0x90
 => _RNvXs_NtNtCs_6kernel5alloc9allocatorNtB4_7Kmalloc7realloc
 => _RNvMs_7netback3vif7connect+0x10/0x80 [netback]
 => xenwatch_thread
 xenwatch-41 [000] ..... 1.1: kmem_cache_alloc: call_site=b+0x1 ptr=00000002 bytes_req=200 bytes_alloc=256 gfp_flags=GFP_KERNEL
 xenwatch-41 [000] ..... 1.1: <stack trace>
 => kmem_cache_alloc_noprof
 => register_netdevice
 => netback_register+0x1d/0x40 [netback]
 xenwatch-41 [000] ..... 1.2: kmalloc: call_site=b+0x1 ptr=00000004 bytes_req=4000 bytes_alloc=4096 gfp_flags=GFP_KERNEL
 xenwatch-41 [000] ..... 1.2: <stack trace>
 => __kvmalloc_node_noprof+0x5a/0x300
 => alloc_netdev_mqs+0x51/0x430
 => netback_probe+0x1/0x9 [netback]
 xenwatch-41 [000] ..... 1.2: kmalloc: call_site=a+0x1 ptr=00000003 bytes_req=60 bytes_alloc=64 gfp_flags=GFP_KERNEL
 xenwatch-41 [000] ..... 1.2: <stack trace>
 => __kmalloc_cache_noprof+0x5a/0x300
 => netback_probe+0x1/0x9 [netback]
 xenwatch-41 [000] ..... 1.3: kfree: call_site=a+0x1 ptr=00000003
 xenwatch-41 [000] ..... 1.3: <stack trace>
 => kfree
 => netback_probe [netback]
";
        assert_eq!(kept(trace, "netback"), 128);
        assert_eq!(kept(trace, "xen_netback"), 0);
    }
}
