//! `top`: all nodes on one screen. Is it healthy, how fast, what is dropped and why.
//!
//! A [`source`] asks the nodes, the [`fleet`] keeps two looks at each, [`sheet`]s are what they come to as rows, and [`draw`] (a terminal) or
//! [`plain`] (lines, JSON) shows these. Keys change the [`app`]'s state and nothing else.

mod app;
mod draw;
mod fleet;
mod plain;
mod screen;
mod sheet;
mod source;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use clap::ValueEnum;

use self::fleet::Fleet;
use self::source::{Live, Source};
use crate::args::Top;
use crate::failure::Failure;
use crate::out::Out;
use crate::settings::Effective;

/// A single frame takes its two looks this far apart.
const APART: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Health, ports, drops, services and workers of one node.
    Overview,
    /// Ports and their links.
    Ports,
    /// Services by traffic.
    Services,
    /// Backends and what their checks say.
    Backends,
    /// Dropped packets by reason.
    Drops,
    /// Cycles a packet and packets a call, by stage.
    Stages,
    /// Workers: busy, generation, sessions.
    Workers,
    /// All nodes.
    Nodes,
}

impl View {
    /// In the order of their keys, 1 first.
    pub const ALL: [View; 8] = [
        View::Overview,
        View::Ports,
        View::Services,
        View::Backends,
        View::Drops,
        View::Stages,
        View::Workers,
        View::Nodes,
    ];

    /// The name people see.
    pub fn title(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Ports => "Ports",
            View::Services => "Services",
            View::Backends => "Backends",
            View::Drops => "Drops",
            View::Stages => "Stages",
            View::Workers => "Workers",
            View::Nodes => "Nodes",
        }
    }
}

/// `top`
pub async fn top(args: Top, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let mut source = Live::find(args.node, settings).await?;
    let every = Duration::from_secs(u64::from(args.interval));
    if args.once || settings.json || !is_able(out) {
        return lines(&mut source, args.view, args.once, every, settings.json, out).await;
    }
    screen::run(source, args.view, every).await
}

/// Whether a person sits at a terminal that can place text.
fn is_able(out: &Out) -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    out.is_terminal() && std::io::IsTerminal::is_terminal(&std::io::stdin()) && !term.is_empty() && term != "dumb"
}

/// Frame after frame as text or JSON.
async fn lines(
    source: &mut impl Source,
    view: View,
    once: bool,
    every: Duration,
    json: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut fleet = Fleet::default();
    fleet.take(source.look().await, Instant::now());
    fleet.anybody()?;
    loop {
        tokio::time::sleep(if once { APART } else { every }).await;
        let now = Instant::now();
        fleet.take(source.look().await, now);
        if json {
            out.line(plain::json(&fleet, now).to_string());
        } else {
            out.text(&plain::frame(&fleet, view, now, out.paint()));
        }
        out.flush();
        if once {
            return fleet.judged();
        }
        if out.is_gone() {
            return Ok(());
        }
        if !json {
            out.line("");
        }
    }
}
