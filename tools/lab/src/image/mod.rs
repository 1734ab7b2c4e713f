// SPDX-License-Identifier: GPL-2.0

//! The first root file systems of dom0 and of guests: busybox, the agent, a few modules, and in
//! dom0 Xen's tools.

pub mod cpio;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{write::GzEncoder, Compression};

use crate::cache;
use crate::checkout::Programs;
use crate::process::{capture, capture_text};
use crate::setup::{Kernel, Sdk};
use crate::ui;
use cpio::{Archive, Entry};

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// For dom0.
    Dom0,
    /// For guests.
    Guest,
    /// For guests that serve other guests' vifs.
    DriverDomain,
}

const DOM0_PROGRAMS: &[&str] = &[
    "usr/lib/xen-4.20/bin/xl",
    "usr/lib/xen-4.20/bin/xenstored",
    "usr/lib/xen-4.20/bin/xenconsoled",
    "usr/lib/xen-4.20/bin/xenconsole",
    "usr/lib/xen-4.20/bin/xen-init-dom0",
    "usr/lib/xen-4.20/bin/libxl-save-helper",
    "usr/lib/xen-4.20/bin/lsevtchn",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-list",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-exists",
    "usr/bin/xenstore-chmod",
    "usr/bin/xenstore-watch",
    // busybox's own shell would run its applets in place of the real programs.
    "usr/bin/dash",
    // busybox's insmod tries twice when the module says no.
    "usr/bin/kmod",
    "usr/sbin/ip",
    "usr/sbin/bridge",
    "usr/sbin/tc",
    "usr/bin/ss",
    "usr/sbin/nft",
    "usr/sbin/xtables-nft-multi",
    "usr/lib/x86_64-linux-gnu/xtables/libxt_standard.so",
    "usr/lib/x86_64-linux-gnu/xtables/libxt_physdev.so",
    "usr/lib/x86_64-linux-gnu/xtables/libxt_tcp.so",
    "usr/sbin/ethtool",
    "usr/bin/iperf3",
    // Debian's hotplug scripts, and what they call.
    "usr/bin/bash",
    "usr/bin/logger",
    "usr/bin/flock",
    "usr/bin/udevadm",
];

/// Debian's hotplug scripts, as they are.
const HOTPLUG_SCRIPTS: &[&str] = &[
    "vif-bridge",
    "vif-nat",
    "vif-route",
    "vif-common.sh",
    "xen-hotplug-common.sh",
    "xen-network-common.sh",
    "xen-script-common.sh",
    "hotplugpath.sh",
    "locking.sh",
    "logging.sh",
];

const GUEST_PROGRAMS: &[&str] = &[
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-ls",
    "usr/bin/dash",
    "usr/sbin/ip",
    "usr/sbin/tc",
    "usr/sbin/ethtool",
    "usr/bin/iperf3",
];

const DOM0_MODULES: &[&str] = &[
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "bridge",
    "xen-netback",
    "pktgen",
    "veth",
    "dummy",
    "8021q",
    "tun",
    "sch-ingress",
    "cls-bpf",
    "cls-matchall",
    "cls-u32",
    "act-gact",
    "act-mirred",
    "nf-tables",
    "nf-conntrack-bridge",
    "nft-meta-bridge",
    "nft-chain-nat",
    "nft-ct",
    "nft-masq",
    "nft-compat",
    "br-netfilter",
    "xt-physdev",
    "xt-tcpudp",
];

const GUEST_MODULES: &[&str] = &[
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-netfront",
    "pktgen",
    "veth",
    "dummy",
    "8021q",
    "sch-ingress",
    "cls-matchall",
    "act-gact",
];

/// Programs of this project with their places in an image.
type OurPrograms = Vec<(&'static str, Vec<u8>)>;

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Dom0 => "dom0",
            Self::Guest => "guest",
            Self::DriverDomain => "driver",
        }
    }

    /// Whether vifs are served there.
    fn is_backend(self) -> bool {
        matches!(self, Self::Dom0 | Self::DriverDomain)
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Dom0 | Self::DriverDomain => DOM0_PROGRAMS,
            Self::Guest => GUEST_PROGRAMS,
        }
    }

    fn modules(self) -> Vec<&'static str> {
        match self {
            Self::Dom0 => DOM0_MODULES.to_vec(),
            Self::Guest => GUEST_MODULES.to_vec(),
            Self::DriverDomain => [DOM0_MODULES, &["xen-netfront"]].concat(),
        }
    }

    /// Our own programs: where, and what.
    fn ours(self, programs: &Programs) -> Result<OurPrograms> {
        let read = |path: &Path| {
            fs::read(path).with_context(|| format!("cannot read the program {}", path.display()))
        };
        let mut ours = vec![("usr/bin/netback-agent", read(&programs.agent)?)];
        if self.is_backend() {
            ours.push(("usr/local/sbin/vifctl", read(&programs.vifctl)?));
        }
        if self != Self::Dom0 {
            ours.push(("usr/bin/netback-frontend", read(&programs.frontend)?));
        }
        Ok(ours)
    }

    /// Our own files: where, what, permission bits.
    fn files(self) -> Vec<File> {
        let mut files = Vec::new();
        if self.is_backend() {
            files.extend(BACKEND_FILES);
        }
        if self != Self::Dom0 {
            files.extend(GUEST_FILES);
        }
        files.push(match self {
            Self::Dom0 => ("init", include_str!("../../assets/dom0-init.sh"), 0o755),
            Self::Guest => ("init", include_str!("../../assets/guest-init.sh"), 0o755),
            Self::DriverDomain => ("init", include_str!("../../assets/driver-init.sh"), 0o755),
        });
        files
    }
}

/// A file's place, what is in it, and its permission bits.
type File = (&'static str, &'static str, u32);

/// Where vifs are served.
const BACKEND_FILES: &[File] = &[
    (
        "etc/xen/scripts/vif-lab",
        include_str!("../../assets/vif-lab.sh"),
        0o755,
    ),
    (
        "usr/local/sbin/netback-reload",
        include_str!("../../../netback-reload.sh"),
        0o755,
    ),
    (
        "usr/local/sbin/netback-hotplug",
        include_str!("../../../netback-hotplug.sh"),
        0o755,
    ),
    (
        "etc/udev/rules.d/90-netback.rules",
        include_str!("../../../90-netback.rules"),
        0o644,
    ),
    (
        "etc/xen/xl.conf",
        include_str!("../../assets/xl.conf"),
        0o644,
    ),
];

const GUEST_FILES: &[File] = &[
    (
        "usr/sbin/lab-net",
        include_str!("../../assets/lab-net.sh"),
        0o755,
    ),
    // The kernel runs these when the toolstack asks it to go.
    (
        "usr/sbin/poweroff",
        "#!/bin/sh\nexec busybox poweroff -f\n",
        0o755,
    ),
    (
        "usr/sbin/reboot",
        "#!/bin/sh\nexec busybox reboot -f\n",
        0o755,
    ),
];

/// The image for `role` with modules of `kernel`, made if need be.
pub fn ensure(sdk: &Sdk, role: Role, kernel: &Kernel, programs: &Programs) -> Result<PathBuf> {
    let programs = role.ours(programs)?;
    let files = format!("{:?}", role.files());
    let root = sdk.root.to_string_lossy();
    let packages = kernel.packages.to_string_lossy();
    let mut hash = blake3::Hasher::new();
    for (_, program) in &programs {
        hash.update(program);
    }
    let key = cache::key(&[
        include_str!("mod.rs"),
        &files,
        &root,
        &packages,
        hash.finalize().to_hex().as_str(),
    ]);
    let name = format!("image-{}-{key}", role.name());
    let path = sdk.cache.dir().join(&name);
    if cache::is_there(&path) {
        return Ok(path);
    }
    let _lock = sdk.cache.lock()?;
    let path = sdk.cache.entry(&name, |path| {
        let step = ui::step(format!("assembling the {} image", role.name()));
        let archive = assemble(sdk, role, kernel, programs)?;
        let mut out = GzEncoder::new(fs::File::create(path)?, Compression::fast());
        archive.write(&mut out)?;
        out.finish()?.flush()?;
        step.done();
        Ok(())
    })?;
    sdk.cache.prune(&format!("image-{}-", role.name()), 4)?;
    Ok(path)
}

fn assemble(sdk: &Sdk, role: Role, kernel: &Kernel, programs: OurPrograms) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "mnt",
        "var/log",
        "usr/lib64",
        "etc/xen",
    ] {
        archive.add(dir, Entry::Directory);
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("usr/lib/xen", "xen-4.20"),
        ("etc/mtab", "/proc/mounts"),
        ("usr/bin/sh", "dash"),
        // Where the kernel looks for it.
        ("usr/sbin/modprobe", "/usr/bin/busybox"),
    ] {
        archive.add(link, Entry::Link(target.into()));
    }
    if role.is_backend() {
        archive.add("usr/sbin/iptables", Entry::Link("xtables-nft-multi".into()));
        archive.add(
            "usr/lib/systemd/systemd-udevd",
            Entry::Link("../../bin/udevadm".into()),
        );
        for script in HOTPLUG_SCRIPTS {
            let path = format!("etc/xen/scripts/{script}");
            let text = read_in_root(&sdk.root, &path)?;
            archive.add(&path, Entry::File(text, 0o755));
        }
        for program in ["insmod", "rmmod", "lsmod", "modinfo"] {
            archive.add(
                &format!("usr/sbin/{program}"),
                Entry::Link("../bin/kmod".into()),
            );
        }
    }
    archive.add("dev/console", Entry::Device(5, 1));
    archive.add("dev/null", Entry::Device(1, 3));
    archive.add(
        "etc/passwd",
        Entry::File(b"root:x:0:0:root:/root:/bin/sh\n".to_vec(), 0o644),
    );
    archive.add("etc/group", Entry::File(b"root:x:0:\n".to_vec(), 0o644));
    archive.add(
        "etc/hosts",
        Entry::File(b"127.0.0.1 localhost\n".to_vec(), 0o644),
    );
    for (place, program) in programs {
        archive.add(place, Entry::File(program, 0o755));
    }
    for (path, text, mode) in role.files() {
        archive.add(path, Entry::File(text.as_bytes().to_vec(), mode));
    }
    add_programs(sdk, role, &mut archive)?;
    add_busybox(sdk, &mut archive)?;
    add_modules(sdk, role, kernel, &mut archive)?;
    Ok(archive)
}

/// A path of the root with Debian's merged /usr spelt out.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    if ["bin/", "sbin/", "lib/", "lib64/"]
        .iter()
        .any(|p| path.starts_with(p))
    {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Reads a file of the root, following links inside it.
fn read_in_root(root: &Path, path: &str) -> Result<Vec<u8>> {
    let mut path = merged(path);
    for _ in 0..8 {
        let full = root.join(&path);
        match fs::read_link(&full) {
            Ok(target) if target.is_absolute() => path = merged(&target.to_string_lossy()),
            Ok(target) => {
                let parent = Path::new(&path)
                    .parent()
                    .unwrap_or(Path::new(""))
                    .to_owned();
                path = parent.join(target).to_string_lossy().into_owned();
            }
            Err(_) => return fs::read(&full).with_context(|| format!("the root has no {path}")),
        }
    }
    anyhow::bail!("too many links on the way to {path}")
}

/// Shared libraries in the output of ldd.
fn libraries(ldd: &str) -> BTreeSet<String> {
    ldd.lines()
        .filter_map(|line| {
            let line = line.trim();
            let path = line.split_once("=> ").map_or(line, |(_, right)| right);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .filter(|path| !path.ends_with(':'))
        .collect()
}

fn add_programs(sdk: &Sdk, role: Role, archive: &mut Archive) -> Result<()> {
    let programs = role.programs();
    let mut ldd = sdk.in_root().command("ldd")?;
    ldd.args(programs.iter().map(|p| format!("/{p}")));
    let mut files = libraries(&capture_text(&mut ldd, "looking for shared libraries")?);
    // Loaded on demand, by pthread_cancel.
    files.insert("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1".into());
    files.extend(programs.iter().map(|p| (*p).to_owned()));
    for file in files {
        archive.add(
            &merged(&file),
            Entry::File(read_in_root(&sdk.root, &file)?, 0o755),
        );
    }
    Ok(())
}

fn add_busybox(sdk: &Sdk, archive: &mut Archive) -> Result<()> {
    archive.add(
        "usr/bin/busybox",
        Entry::File(read_in_root(&sdk.root, "usr/bin/busybox")?, 0o755),
    );
    let applets = capture_text(
        sdk.in_root().command("busybox")?.arg("--list"),
        "listing busybox's applets",
    )?;
    for applet in applets.lines().map(str::trim) {
        let places = [format!("usr/bin/{applet}"), format!("usr/sbin/{applet}")];
        if !applet.is_empty() && !places.iter().any(|p| archive.contains(p)) {
            archive.add(&places[0], Entry::Link("/usr/bin/busybox".into()));
        }
    }
    Ok(())
}

/// Modules by name, with their path and what they depend on, from modules.dep.
fn index(text: &str) -> HashMap<String, (String, Vec<String>)> {
    text.lines()
        .filter_map(|line| {
            let (path, dependencies) = line.split_once(':')?;
            let dependencies = dependencies.split_whitespace().map(module_name).collect();
            Some((module_name(path), (path.to_owned(), dependencies)))
        })
        .collect()
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('_', "-")
}

fn add_modules(sdk: &Sdk, role: Role, kernel: &Kernel, archive: &mut Archive) -> Result<()> {
    let modules = kernel.modules();
    let index = index(&fs::read_to_string(modules.join("modules.dep"))?);
    let built_in_list = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    let built_in: BTreeSet<String> = built_in_list.lines().map(module_name).collect();
    let mut wanted: Vec<String> = role.modules().into_iter().map(str::to_owned).collect();
    let mut done = BTreeSet::new();
    let mut dep = String::new();
    let in_root = sdk.in_root().bind(&modules, "/lab/modules");
    while let Some(name) = wanted.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        if built_in.contains(&name) {
            continue;
        }
        let (path, dependencies) = index
            .get(&name)
            .with_context(|| format!("the kernel packages hold no module {name}"))?;
        wanted.extend(dependencies.iter().cloned());
        let data = match path.rsplit_once(".ko").map(|(_, packed)| packed) {
            Some(".xz") => capture(
                in_root
                    .command("xz")?
                    .args(["-dc", &format!("/lab/modules/{path}")]),
                "unpacking a module",
            )?,
            Some(".zst") => capture(
                in_root
                    .command("zstd")?
                    .args(["-dcq", &format!("/lab/modules/{path}")]),
                "unpacking a module",
            )?,
            _ => fs::read(modules.join(path))?,
        };
        let file = format!("{name}.ko");
        archive.add(
            &format!("usr/lib/modules/{}/{file}", kernel.release),
            Entry::File(data, 0o644),
        );
        dep.push_str(&format!("{file}:"));
        for dependency in dependencies {
            dep.push_str(&format!(" {dependency}.ko"));
        }
        dep.push('\n');
    }
    archive.add(
        &format!("usr/lib/modules/{}/modules.dep", kernel.release),
        Entry::File(dep.into_bytes(), 0o644),
    );
    // So that modprobe knows what needs no loading.
    archive.add(
        &format!("usr/lib/modules/{}/modules.builtin", kernel.release),
        Entry::File(built_in_list.into_bytes(), 0o644),
    );
    // What the kernel asks for by another name: queueing disciplines, expressions of nftables.
    let aliases: String = fs::read_to_string(modules.join("modules.alias"))?
        .lines()
        .filter(|line| {
            let name = line.split_whitespace().last().unwrap_or("");
            done.contains(&module_name(name))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    archive.add(
        &format!("usr/lib/modules/{}/modules.alias", kernel.release),
        Entry::File(aliases.into_bytes(), 0o644),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_ldd() {
        let text = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n/usr/bin/b:\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n";
        let found: Vec<_> = libraries(text).into_iter().collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn module_index() {
        let index = index(
            "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n",
        );
        let (path, dependencies) = &index["bridge"];
        assert_eq!(path, "kernel/net/bridge/bridge.ko.xz");
        assert_eq!(dependencies, &["stp", "llc"]);
        assert_eq!(module_name("kernel/drivers/a/b_c.ko"), "b-c");
    }

    #[test]
    fn usr_is_merged() {
        assert_eq!(merged("/lib/x/y.so"), "usr/lib/x/y.so");
        assert_eq!(merged("/usr/lib/y.so"), "usr/lib/y.so");
    }
}
