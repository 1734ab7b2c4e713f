// SPDX-License-Identifier: GPL-2.0

//! Which distribution kernel the lab uses, and getting it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{self, Cache};
use crate::inroot::InRoot;
use crate::process::{capture_text, run_logged};
use crate::ui;

/// The series whose Rust interfaces the module is written for.
const SERIES: &str = "7.2";
const RECIPE: &str = "1";

/// The kernel that was picked, so that builds can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What `uname -r` says.
    pub release: String,
    /// Version of its packages.
    pub version: String,
}

impl Pin {
    fn path(cache: &Cache) -> PathBuf {
        cache.dir().join("kernel.json")
    }

    /// The pin in the cache.
    pub fn load(cache: &Cache) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(cache)).ok()?).ok()
    }

    /// Pins.
    pub fn store(&self, cache: &Cache) -> Result<()> {
        let partial = cache.dir().join("partial-kernel.json");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(partial, Self::path(cache))?)
    }

    /// What follows the number of the release.
    pub fn suffix(&self) -> &str {
        self.release
            .find(['+', '-'])
            .map_or("", |at| &self.release[at..])
    }
}

/// Name of the kernel's entry in the cache.
pub fn name(pin: &Pin) -> String {
    format!(
        "kernel-{}-{}",
        pin.release,
        cache::key(&[RECIPE, &pin.version])
    )
}

/// Numbers in a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

/// Releases with an ordinary image in the output of `apt-cache search`, newest first.
fn releases(search: &str) -> Vec<String> {
    let mut found: Vec<String> = search
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("linux-image-"))
        .filter(|release| release.starts_with(&format!("{SERIES}.")) && release.ends_with("-amd64"))
        .filter(|release| {
            !["cloud", "rt-", "dbg", "unsigned"]
                .iter()
                .any(|w| release.contains(w))
        })
        .map(str::to_owned)
        .collect();
    found.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    found
}

/// Versions in the output of `apt-cache madison`.
fn versions(madison: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|l| Some(l.split('|').nth(1)?.trim().to_owned()))
        .collect()
}

fn available_versions(root: &InRoot, package: &str) -> Result<Vec<String>> {
    let madison = capture_text(
        root.command("apt-cache")?.args(["madison", package]),
        "asking apt for versions",
    )?;
    Ok(versions(&madison))
}

fn source_package() -> String {
    format!("linux-source-{SERIES}")
}

/// Whether a pinned kernel can still be fetched.
pub fn available(root: &InRoot, pin: &Pin) -> Result<bool> {
    let image = format!("linux-image-{}", pin.release);
    Ok(available_versions(root, &image)?.contains(&pin.version)
        && available_versions(root, &source_package())?.contains(&pin.version))
}

/// Picks the newest image that was built with Rust and whose source is there too.
pub fn pick(root: &InRoot) -> Result<Pin> {
    let pattern = format!("^linux-image-{}", SERIES.replace('.', "\\."));
    let search = capture_text(
        root.command("apt-cache")?
            .args(["search", "--names-only", &pattern]),
        "searching kernels",
    )?;
    let sources = available_versions(root, &source_package())?;
    for release in releases(&search) {
        for version in available_versions(root, &format!("linux-image-{release}"))? {
            if sources.contains(&version) && built_with_rust(root, &release, &version)? {
                return Ok(Pin { release, version });
            }
        }
    }
    bail!(
        "the archive has no {SERIES} kernel image built with Rust whose {} is there as well; \
         set NETBACK_MIRROR to a mirror that carries trixie-backports",
        source_package()
    )
}

fn built_with_rust(root: &InRoot, release: &str, version: &str) -> Result<bool> {
    let script = format!(
        "cd /tmp && apt-get -q download linux-headers-{release}={version} >/dev/null && \
         dpkg-deb --fsys-tarfile linux-headers-{release}_*.deb | \
         tar -xO ./usr/src/linux-headers-{release}/.config"
    );
    let config = capture_text(
        root.command("sh")?.args(["-c", &script]),
        "looking at a kernel's configuration",
    )?;
    Ok(config.lines().any(|l| l == "CONFIG_RUST=y"))
}

/// Downloads the image and what it consists of, and unpacks that.
pub fn fetch(cache: &Cache, root: &InRoot, pin: &Pin) -> Result<PathBuf> {
    cache.entry(&name(pin), |path| {
        let step = ui::step(format!("fetching the kernel {}", pin.release));
        fs::create_dir_all(path)?;
        let Pin { release, version } = pin;
        // The image is a set of packages in newer kernels and one package in older ones.
        let script = format!(
            "set -e; cd /lab/out; \
             parts=$(apt-cache show linux-image-{release}={version} | sed -n 's/^Depends: //p' | head -1 | \
             tr ',' '\\n' | sed 's/ *(.*//; s/^ *//' | grep -- '-{release}$' || true); \
             for p in linux-image-{release} linux-headers-{release} $parts; do \
             apt-get -q download $p={version}; done; \
             for d in *.deb; do dpkg-deb -x $d .; rm $d; done; [ -e lib ] || ln -s usr/lib lib"
        );
        let in_root = root.clone().bind(path, "/lab/out");
        run_logged(in_root.command("sh")?.args(["-c", &script]), &cache.log("kernel"), "fetching the kernel")?;
        ensure!(find_image(path, release).is_some(), "the kernel packages hold no vmlinuz");
        step.done();
        Ok(())
    })
}

/// Lists what the kernel's modules depend on, which its packages do only when they are installed.
pub fn index(cache: &Cache, kernel: &Path, root: &Path, release: &str) -> Result<()> {
    let in_root = InRoot::new(root).bind(kernel, "/lab/out");
    let mut command = in_root.command("depmod")?;
    command.args(["-b", "/lab/out", release]);
    run_logged(
        &mut command,
        &cache.log("depmod"),
        "listing the kernel's modules",
    )
}

/// The kernel image among the unpacked packages.
pub fn find_image(kernel: &Path, release: &str) -> Option<PathBuf> {
    [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
    ]
    .into_iter()
    .map(|p| kernel.join(p))
    .find(|p| p.exists())
}

/// The payload of a bzImage, which is the compressed kernel.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image
            .get(at..at + 4)
            .context("the kernel image is cut short")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "the kernel image is no bzImage"
    );
    let setup = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked size.
    let end = start + word(0x24c)?.saturating_sub(4);
    image
        .get(start..end)
        .context("the kernel image is cut short")
}

/// Name of the unpacked kernel's entry in the cache.
pub fn vmlinux_name(pin: &Pin) -> String {
    format!("vmlinux-{}", name(pin))
}

/// Unpacks the kernel image of `kernel` into `target`; Xen's tools load it faster that way.
pub fn unpack_image(
    cache: &Cache,
    kernel: &Path,
    root: &Path,
    release: &str,
    target: &Path,
) -> Result<()> {
    let image = find_image(kernel, release).context("the kernel packages hold no vmlinuz")?;
    let image = fs::read(image)?;
    let payload = payload(&image)?;
    let dir = tempfile::tempdir_in(cache.dir())?;
    fs::write(dir.path().join("payload"), payload)?;
    let tool = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("the kernel image is compressed in a way that the lab does not know"),
    };
    let in_root = InRoot::new(root).bind(dir.path(), "/lab/out");
    let script = format!("{tool} -dc < /lab/out/payload > /lab/out/vmlinux");
    run_logged(
        in_root.command("sh")?.args(["-c", &script]),
        &cache.log("vmlinux"),
        "unpacking the kernel image",
    )?;
    Ok(fs::rename(dir.path().join("vmlinux"), target)?)
}

/// The unpacked image of dom0's kernel.
pub fn vmlinux(cache: &Cache, kernel: &Path, root: &Path, pin: &Pin) -> Result<PathBuf> {
    cache.entry(&vmlinux_name(pin), |path| {
        unpack_image(cache, kernel, root, &pin.release, path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ordinary_image_comes_first() {
        let search =
            "linux-image-7.2.9+deb13-amd64 - x\nlinux-image-7.2.12+deb13-cloud-amd64 - x\n\
                      linux-image-7.2.12+deb13-amd64 - x\nlinux-image-7.2.12+deb13-amd64-dbg - x\n\
                      linux-image-7.2.12+deb13-rt-amd64 - x\nlinux-image-7.3.4+deb13-amd64 - x\n\
                      linux-image-7.2.12+deb13-amd64-unsigned - x\n";
        assert_eq!(
            releases(search),
            ["7.2.12+deb13-amd64", "7.2.9+deb13-amd64"]
        );
    }

    #[test]
    fn madison() {
        let text = " linux-source-7.2 | 7.2.12-1~bpo13+1 | http://x trixie-backports/main amd64 Packages\n\
                     linux-source-7.2 | 7.2.11-1~bpo13+1 | http://x trixie-backports/main amd64 Packages\n";
        assert_eq!(versions(text), ["7.2.12-1~bpo13+1", "7.2.11-1~bpo13+1"]);
    }

    #[test]
    fn suffixes() {
        let pin = Pin {
            release: "7.2.12+deb13-amd64".into(),
            version: String::new(),
        };
        assert_eq!(pin.suffix(), "+deb13-amd64");
    }

    #[test]
    fn payload_of_something_else_is_refused() {
        assert!(payload(&[0; 1024]).is_err());
    }
}
