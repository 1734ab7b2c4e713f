// SPDX-License-Identifier: GPL-2.0

//! Where the instructions go: the counts of the emulator's plugin, by function.
//!
//! Every block of code that was executed is counted, so this is no sampling. PV domains run the
//! same kernel at the same addresses: dom0's is told from others by where its memory is.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};

use super::record::Share;
use crate::lab::Lab;
use crate::qemu;

/// Where Xen is, as seen by all.
const XEN: RangeInclusive<u64> = 0xffff_8000_0000_0000..=0xffff_87ff_ffff_ffff;
/// Where kernels begin.
const KERNEL: u64 = 0xffff_8800_0000_0000;

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The hypervisor's.
    Xen,
    /// dom0's kernel's.
    Dom0,
    /// A program's, of any domain.
    User,
    /// A guest's kernel's.
    Guest,
}

impl Owner {
    /// As the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xen => "xen",
            Self::Dom0 => "dom0",
            Self::User => "user",
            Self::Guest => "guest",
        }
    }
}

/// A block of code that was executed.
struct Block {
    address: u64,
    host: u64,
    instructions: u64,
    count: u64,
}

fn block(line: &str) -> Option<Block> {
    let mut words = line.split(' ');
    let mut hexadecimal = || u64::from_str_radix(words.next()?, 16).ok();
    let (address, host) = (hexadecimal()?, hexadecimal()?);
    let mut decimal = || words.next()?.parse().ok();
    Some(Block {
        address,
        host,
        instructions: decimal()?,
        count: decimal()?,
    })
}

/// Functions by address.
#[derive(Default)]
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Adds the lines of a table such as /proc/kallsyms.
    fn add(&mut self, table: &str) {
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else {
                continue;
            };
            if !matches!(kind, "t" | "T" | "w" | "W") || address == 0 {
                continue;
            }
            let module = words.next().unwrap_or_default();
            let name = format!("{}{module}", short(name));
            // Of several names for a place the first is as good as another.
            self.0.entry(address).or_insert(name);
        }
    }

    /// The function that an address is in, and where that begins.
    fn find(&self, address: u64) -> (u64, &str) {
        self.0
            .range(..=address)
            .next_back()
            .map_or((0, "?"), |(&start, name)| (start, name.as_str()))
    }
}

/// A symbol as a reader knows it.
fn short(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name)).replace("netback::", "")
}

/// One function's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Whose it is.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// Instructions executed in it.
    pub instructions: u64,
    /// How often it was entered.
    pub calls: u64,
}

/// What was executed, the most expensive first.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The functions.
    pub functions: Vec<Function>,
}

impl Profile {
    /// Instructions of one owner.
    pub fn total(&self, owner: Owner) -> u64 {
        let of = self.functions.iter().filter(|f| f.owner == owner);
        of.map(|f| f.instructions).sum()
    }

    /// How often a function was entered. The kernel has some of them with a suffix to their names,
    /// which is nothing to callers.
    pub fn calls(&self, owner: Owner, name: &str) -> u64 {
        let is = |f: &str| f.strip_suffix("_noprof").unwrap_or(f) == name;
        let of = self.functions.iter();
        of.filter(|f| f.owner == owner && is(&f.name))
            .map(|f| f.calls)
            .sum()
    }

    /// Takes off what something else has executed.
    pub fn discount(&mut self, other: &Self) {
        let of: HashMap<_, _> = other
            .functions
            .iter()
            .map(|f| ((f.owner, f.name.as_str()), f))
            .collect();
        for function in &mut self.functions {
            if let Some(other) = of.get(&(function.owner, function.name.as_str())) {
                function.instructions = function.instructions.saturating_sub(other.instructions);
                function.calls = function.calls.saturating_sub(other.calls);
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.functions.sort_by(|a, b| {
            (b.instructions, &a.name, a.owner).cmp(&(a.instructions, &b.name, b.owner))
        });
    }

    /// The part of the most expensive functions of dom0 and Xen in each of `units`.
    pub fn shares(&self, units: f64, most: usize) -> Vec<Share> {
        self.hosts()
            .take(most)
            .map(|f| Share {
                owner: f.owner.name().to_owned(),
                function: f.name.clone(),
                instructions: (f.instructions as f64 / units * 10.0).round() / 10.0,
                calls: (f.calls as f64 / units * 1e3).round() / 1e3,
            })
            .collect()
    }

    fn hosts(&self) -> impl Iterator<Item = &Function> {
        let host = |f: &&Function| matches!(f.owner, Owner::Dom0 | Owner::Xen);
        self.functions.iter().filter(host)
    }

    /// The most expensive functions of dom0 and Xen as text, for each of `units`.
    pub fn text(&self, units: f64, most: usize) -> String {
        let mut out = String::new();
        for owner in [Owner::Dom0, Owner::Xen, Owner::User, Owner::Guest] {
            let total = self.total(owner) as f64 / units;
            out.push_str(&format!("{:<6} {total:10.1}\n", owner.name()));
        }
        out.push_str("\n  instr.   calls  whose  function\n");
        for function in self.hosts().take(most) {
            out.push_str(&format!(
                "{:8.1} {:7.3}  {:<5}  {}\n",
                function.instructions as f64 / units,
                function.calls as f64 / units,
                function.owner.name(),
                function.name
            ));
        }
        out
    }
}

/// Counts, through the plugin of a lab that was booted with it.
pub struct Profiler {
    socket: PathBuf,
    dom0: RangeInclusive<u64>,
    symbols: Symbols,
}

impl Profiler {
    /// A profiler of `lab`, in which no guest may run yet: all kernels' memory is dom0's.
    pub fn new(lab: &Lab) -> Result<Self> {
        let mut profiler = Self {
            socket: qemu::profile_socket(lab.dir()),
            dom0: 0..=0,
            symbols: Symbols::default(),
        };
        let hosts = || {
            let blocks = profiler.dump()?;
            let kernels = blocks
                .into_iter()
                .filter(|b| b.address >= KERNEL && b.host != 0);
            Ok::<_, anyhow::Error>(kernels.map(|b| b.host).collect::<Vec<_>>())
        };
        let hosts = hosts()?;
        let (Some(&first), Some(&last)) = (hosts.iter().min(), hosts.iter().max()) else {
            anyhow::bail!("nothing was counted");
        };
        profiler.dom0 = first..=last;
        Ok(profiler)
    }

    /// Learns the names of functions; modules that are loaded later have none.
    pub fn learn(&mut self, lab: &Lab) -> Result<()> {
        let mut symbols = Symbols::default();
        for path in ["/proc/kallsyms", "/proc/xen/xensyms"] {
            symbols.add(&lab.dom0().run(&format!("cat {path}"))?.stdout);
        }
        self.symbols = symbols;
        Ok(())
    }

    fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        writeln!(stream, "{command}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(
            answer.ends_with(".\n"),
            "the profiler's answer is cut short"
        );
        Ok(answer)
    }

    fn dump(&self) -> Result<Vec<Block>> {
        Ok(self.ask("dump")?.lines().filter_map(block).collect())
    }

    /// Counts from zero.
    pub fn reset(&self) -> Result<()> {
        self.ask("reset").map(drop)
    }

    fn owner(&self, block: &Block) -> Owner {
        if XEN.contains(&block.address) {
            Owner::Xen
        } else if block.address < KERNEL {
            Owner::User
        } else if self.dom0.contains(&block.host) {
            Owner::Dom0
        } else {
            Owner::Guest
        }
    }

    /// What was executed since [`Profiler::reset`].
    pub fn profile(&self) -> Result<Profile> {
        let mut functions: HashMap<(Owner, &str), (u64, u64)> = HashMap::new();
        for block in self.dump()? {
            let owner = self.owner(&block);
            let (start, name) = match owner {
                Owner::User => (0, "programs"),
                _ => self.symbols.find(block.address),
            };
            let (instructions, calls) = functions.entry((owner, name)).or_default();
            *instructions += block.instructions * block.count;
            if start == block.address {
                *calls += block.count;
            }
        }
        let functions = functions
            .into_iter()
            .map(|((owner, name), (instructions, calls))| Function {
                owner,
                name: name.to_owned(),
                instructions,
                calls,
            })
            .collect();
        let mut profile = Profile { functions };
        profile.sort();
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_found() {
        let mut symbols = Symbols::default();
        symbols.add("ffffffff81000000 T first\nffffffff81000010 t second [module]\n0 T none\nffffffff81000008 d data\n");
        assert_eq!(symbols.find(0xffff_ffff_8100_0008).1, "first");
        assert_eq!(symbols.find(0xffff_ffff_8100_0011).1, "second[module]");
        assert_eq!(symbols.find(5).1, "?");
    }

    #[test]
    fn overhead_is_taken_off() {
        let function = |name: &str, instructions, calls| Function {
            owner: Owner::Dom0,
            name: name.into(),
            instructions,
            calls,
        };
        let mut profile = Profile {
            functions: vec![function("a", 100, 3), function("b_noprof", 50, 5)],
        };
        profile.discount(&Profile {
            functions: vec![function("a", 90, 4), function("c", 7, 1)],
        });
        assert_eq!(
            profile.functions,
            [function("b_noprof", 50, 5), function("a", 10, 0)]
        );
        assert_eq!(profile.calls(Owner::Dom0, "b"), 5);
        assert_eq!(profile.calls(Owner::Xen, "b"), 0);
    }

    #[test]
    fn names_are_shortened() {
        assert_eq!(short("netif_rx"), "netif_rx");
        assert_eq!(
            short("_RNvMs_NtCs1234_7netback5groupNtB4_6Worker6gather"),
            "<group::Worker>::gather"
        );
    }

    #[test]
    fn blocks_are_read() {
        let block = block("ffff82d040200000 7f00 12 99").unwrap();
        assert_eq!(
            (block.address, block.host, block.instructions, block.count),
            (0xffff_82d0_4020_0000, 0x7f00, 12, 99)
        );
        assert!(super::block(".").is_none());
    }
}
