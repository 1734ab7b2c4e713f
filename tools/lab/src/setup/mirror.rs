// SPDX-License-Identifier: GPL-2.0

//! Where Debian packages come from: what the user says, or what the machine itself uses.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// The Debian mirror to use; `None` leaves the choice to debootstrap.
pub fn mirror() -> Option<String> {
    if let Ok(mirror) = std::env::var("NETBACK_MIRROR") {
        if !mirror.trim().is_empty() {
            return Some(mirror.trim().to_owned());
        }
    }
    let codename = codename()?;
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        texts.extend(paths.iter().filter_map(|p| fs::read_to_string(p).ok()));
    }
    texts.iter().find_map(|text| find(text, &codename))
}

fn codename() -> Option<String> {
    field(Path::new("/etc/os-release"), "VERSION_CODENAME")
}

/// A field of an os-release file.
pub fn field(path: &Path, name: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key == name).then(|| value.trim_matches('"').to_owned())
    })
}

/// The address from which a sources file takes the suite `codename` itself.
fn find(text: &str, codename: &str) -> Option<String> {
    find_one_line(text, codename).or_else(|| find_deb822(text, codename))
}

fn find_one_line(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let address = words.next()?;
        let suite = words.next()?;
        (suite == codename && words.any(|w| w == "main")).then(|| address.to_owned())
    })
}

fn find_deb822(text: &str, codename: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let value = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let suites = value("Suites")?;
        let enabled = value("Enabled").is_none_or(|v| v != "no");
        let wanted = enabled
            && value("Types")?.split_whitespace().any(|t| t == "deb")
            && suites.split_whitespace().any(|s| s == codename)
            && value("Components")?.split_whitespace().any(|c| c == "main");
        let address = value("URIs")?.split_whitespace().next()?;
        wanted.then(|| address.to_owned())
    })
}

/// apt options of this machine that fetching depends on: proxies and checks of dates.
pub fn apt_options() -> Result<Vec<String>> {
    let Ok(output) = Command::new("apt-config")
        .args(["dump", "Acquire"])
        .output()
    else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = [
        "http::Proxy",
        "https::Proxy",
        "Check-Valid-Until",
        "Check-Date",
    ];
    Ok(text
        .lines()
        .filter(|line| {
            wanted
                .iter()
                .any(|w| line.starts_with(&format!("Acquire::{w}")))
        })
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_style() {
        let text = "# deb http://no.example/debian trixie main\n\
                    deb http://sec.example/debian-security trixie-security main\n\
                    deb [arch=amd64 signed-by=/x] http://a.example/debian trixie main contrib\n";
        assert_eq!(
            find(text, "trixie").as_deref(),
            Some("http://a.example/debian")
        );
        assert_eq!(find(text, "bookworm"), None);
    }

    #[test]
    fn deb822_style() {
        let text = "Types: deb\n# a comment: here\nURIs: http://b.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\n\nTypes: deb\nURIs: http://s.example/x\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(
            find(text, "bookworm").as_deref(),
            Some("http://b.example/debian")
        );
        let off = text.replace("Types: deb\n#", "Enabled: no\nTypes: deb\n#");
        assert_eq!(find(&off, "bookworm"), None);
    }
}
