//! `stats`: the first screen. Is it healthy, how fast is it, what does it drop and why.

pub mod health;
pub mod rates;
mod screen;

use std::time::Duration;

use marchproxy_proto::v1;

use crate::args::Stats;
use crate::ask::Asked;
use crate::failure::Failure;
use crate::json;
use crate::out::Out;
use crate::settings::Effective;

pub use screen::law;

/// Rates need two looks; a single screen takes them this far apart.
const APART: Duration = Duration::from_secs(1);

pub async fn stats(args: Stats, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let mut asked = Asked::find(settings).await?;
    let mut before = sample(&mut asked, settings, &args.node).await?;
    if settings.json && args.watch.is_none() {
        out.line(json::pretty("StatsResponse", &before)?);
        return Ok(());
    }
    let every = args.watch.map_or(APART, |seconds| Duration::from_secs(u64::from(seconds)));
    loop {
        if settings.json {
            out.line(json::value("StatsResponse", &before)?.to_string());
        }
        tokio::time::sleep(every).await;
        let now = sample(&mut asked, settings, &args.node).await?;
        if !settings.json {
            let screen = screen::render(&before, &now, out.paint());
            if args.watch.is_some() && out.is_terminal() {
                // Home, and clear what follows: no flicker of a cleared screen.
                out.text("\x1b[H\x1b[2J");
            }
            out.text(&screen);
            out.flush();
        }
        if args.watch.is_none() || out.is_gone() {
            return Ok(());
        }
        if !out.is_terminal() && !settings.json {
            out.line("");
        }
        before = now;
    }
}

async fn sample(asked: &mut Asked, settings: &Effective, node: &str) -> Result<v1::StatsResponse, Failure> {
    let request = v1::StatsRequest { node: node.to_owned() };
    asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.stats(request).await }
        })
        .await
}
