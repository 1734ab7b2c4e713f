// SPDX-License-Identifier: GPL-2.0

//! What the lab's benchmark needs done inside a machine. Each tool prints one line of JSON.
//!
//! `netback-agent bench TOOL ARGUMENTS`, where the tools are `echo`, `rr`, `ping`, `send`,
//! `receive`, `watch`, `in-step`, `runstate`, `plug`, `grant` and `copy`.

mod grants;
mod hypercall;
mod latency;
mod plug;
mod step;
mod stream;
mod watch;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{bail, Context, Result};

/// Arguments of a tool, taken one after the other.
struct Arguments<I>(I);

impl<I: Iterator<Item = String>> Arguments<I> {
    fn text(&mut self, what: &str) -> Result<String> {
        self.0.next().with_context(|| format!("give {what}"))
    }

    fn parse<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let text = self.text(what)?;
        text.parse()
            .ok()
            .with_context(|| format!("{text:?} is no {what}"))
    }
}

/// Runs one tool.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut arguments = Arguments(arguments);
    match arguments.text("a tool")?.as_str() {
        "echo" => latency::echo(arguments.parse::<SocketAddr>("an address to listen on")?),
        "rr" => {
            let to = arguments.parse::<SocketAddr>("an address with a port")?;
            let times = latency::request_response(to, arguments.parse("a count")?)?;
            println!("{times}");
            Ok(())
        }
        "ping" => {
            let to = arguments.parse("an IPv4 address")?;
            let times = latency::ping(to, arguments.parse("a count")?)?;
            println!("{times}");
            Ok(())
        }
        "receive" => {
            let at = arguments.parse::<SocketAddr>("an address to listen on")?;
            println!("{}", stream::receive(at, arguments.parse("a count")?)?);
            Ok(())
        }
        "send" => {
            let to = arguments
                .text("addresses with ports")?
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<SocketAddr>, _>>()
                .context("an address with its port")?;
            let streams = arguments.parse("a number of streams")?;
            stream::send(&to, streams, arguments.parse("a size")?)
        }
        "watch" => {
            let time = Duration::from_millis(arguments.parse("a number of milliseconds")?);
            let enough = arguments.parse("how much is to grow first")?;
            println!("{}", watch::watch(time, enough, arguments.0)?);
            Ok(())
        }
        "in-step" => {
            step::wait();
            Ok(())
        }
        "runstate" => {
            println!("{}", hypercall::Runstate::now()?);
            Ok(())
        }
        "grant" => grants::grant(arguments.parse("a domain")?, arguments.parse("a count")?),
        "plug" => {
            let domid = arguments.parse("a domain")?;
            let handle = |text: String| text.parse().context("the number of a vif is a number");
            plug::plug_all(domid, arguments.0.map(handle))
        }
        "copy" => {
            let plan = grants::Plan {
                domid: arguments.parse("a domain")?,
                inbound: match arguments.text("a direction")?.as_str() {
                    "from" => true,
                    "to" => false,
                    other => bail!("{other:?} is no direction: from, or to"),
                },
                bytes: arguments.parse("a size")?,
                batch: arguments.parse("a number of copies in a hypercall")?,
                count: arguments.parse("a number of copies")?,
                references: arguments
                    .text("grant references")?
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .context("a grant reference is a number")?,
            };
            println!("{}", grants::copy(&plan)?);
            Ok(())
        }
        other => bail!("there is no tool {other:?}"),
    }
}
