//! `gen`: rules, routes, flows and packets, all from a seed.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use marchproxy_engine::burst::BURST;
use marchproxy_engine::testkit::port_mac;

use crate::Error;
use crate::command::amounts::Amounts;
use crate::generate::document::Document;
use crate::generate::flows;
use crate::load::Size;
use crate::pcap;
use crate::progress::Progress;
use crate::scenario::{self, Plan, Scenario, topology};
use crate::seeded::rules::Profile;
use crate::seeded::{Rng, routes, rules};

/// Options of `gen`.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Rules, as a document that control takes
    #[command(after_help = "Example:\n  marchproxy-perf gen rules --profile fw --count 5000 --seed 7 -o rules.yaml")]
    Rules {
        /// Kind of list
        #[arg(long, value_enum, default_value_t = Profile::Acl)]
        profile: Profile,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        #[command(flatten)]
        text: Text,
    },
    /// Routes, as a document that control takes: with the node, the interfaces and the gateways they lead to
    #[command(after_help = "Example:\n  marchproxy-perf gen routes --count 500000 --json -o routes.json")]
    Routes {
        /// How many, half of each family
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
        count: u32,
        /// IPv6 only
        #[arg(long)]
        v6: bool,
        #[command(flatten)]
        text: Text,
    },
    /// Flows of a scenario, as comma-separated values or JSON lines
    #[command(after_help = "Example:\n  marchproxy-perf gen flows balance --sessions 1000 --count 20")]
    Flows {
        #[command(flatten)]
        traffic: Traffic,
        /// At most so many [default: all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Packets of a scenario, as a capture file: what `run` on a net_pcap replays
    #[command(after_help = "Example:\n  marchproxy-perf gen pcap full --packet imix -o full.pcap")]
    Pcap {
        #[command(flatten)]
        traffic: Traffic,
        /// Packets, drawn from the scenario's flows
        #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
        count: u32,
        /// Only what arrives on this one of two ports, addressed to it [default: everything, addressed to the first]
        #[arg(long, value_enum)]
        port: Option<Side>,
        #[command(flatten)]
        to: To,
    },
}

/// A document's seed and form.
#[derive(Debug, Args)]
struct Text {
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of YAML
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    to: To,
}

/// Where it goes.
#[derive(Debug, Args)]
struct To {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Which traffic.
#[derive(Debug, Args)]
struct Traffic {
    /// Scenario whose traffic it is
    #[arg(default_value = "forward")]
    scenario: Scenario,
    /// Frame size with FCS: 64, 128, 256, 512, 1024, 1280, 1518 or imix (7:4:1 of 64, 570, 1518)
    #[arg(long, value_name = "SIZE", default_value = "64")]
    packet: Size,
    #[command(flatten)]
    amounts: Amounts,
}

/// One of two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// Towards servers
    Lan,
    /// Towards clients
    Wan,
}

impl Generate {
    /// Writes it; returns what to say about that.
    pub fn run(&self, progress: &Progress) -> Result<String, Error> {
        match &self.what {
            What::Rules { profile, count, text } => {
                text.write(&Document::of_rules(&rules::generate(*profile, *count as usize, text.seed, &[])))
            }
            What::Routes { count, v6, text } => {
                let prefixes = routes::generate(*count as usize, *v6, text.seed);
                let mut tables = topology::tables(&prefixes, false);
                // As many as asked for: without the way to the harness's clients.
                tables.routes.retain(|route| prefixes.binary_search(&route.prefix).is_ok());
                text.write(&Document::of_routes(&tables))
            }
            What::Flows { traffic, count, json, to } => {
                let (plan, _) = traffic.plan(progress)?;
                let most = count.map_or(usize::MAX, |count| count as usize);
                progress.phase("writing flows", plan.load.lasting().take(most).count() as u64);
                to.stream(|out| flows::write(out, plan.load.lasting().take(most), *json, progress))
            }
            What::Pcap { traffic, count, port, to } => {
                let (mut plan, seed) = traffic.plan(progress)?;
                if to.output.is_none() && io::stdout().is_terminal() {
                    let allowed = "-o FILE, or standard output into a file or pipe".into();
                    return Err(Error::Option { option: "output", found: "a terminal".into(), allowed });
                }
                progress.phase("writing packets", u64::from(*count));
                to.stream(|out| packets(out, &mut plan, seed, u64::from(*count), *port, progress))
            }
        }
    }
}

impl Traffic {
    /// The traffic and its seed.
    fn plan(&self, progress: &Progress) -> Result<(Plan, u64), Error> {
        let params = self.amounts.params(self.scenario, self.packet, BURST)?;
        let plan = scenario::traffic(self.scenario, &params, progress)?;
        progress.finish();
        Ok((plan, params.seed))
    }
}

/// Draws frames and writes each at once: a hundred million of them take no memory.
fn packets(
    out: &mut dyn Write,
    plan: &mut Plan,
    seed: u64,
    count: u64,
    port: Option<Side>,
    progress: &Progress,
) -> Result<(), Error> {
    /// Draws in a row without a frame for it, before a port is said to get none.
    const PATIENCE: u32 = 1_000_000;
    let mut rng = Rng::new(seed, "replay");
    let mut writer = pcap::Writer::new(out).map_err(output)?;
    let (mut written, mut missed) = (0, 0);
    while written < count {
        let template = plan.load.draw(&mut rng).ok_or(Error::Harness("the load sends nothing"))?;
        let to = match port {
            None => 0,
            Some(side) if usize::from(template.port) == side as usize => side as usize,
            Some(_) => {
                missed += 1;
                if missed == PATIENCE {
                    let allowed = "the other one: the scenario sends next to nothing to this port".into();
                    return Err(Error::Option { option: "port", found: format!("{port:?}").to_lowercase(), allowed });
                }
                continue;
            }
        };
        missed = 0;
        // A microsecond apart.
        writer.write(written * 1000, &template.frame(port_mac(to))).map_err(output)?;
        written += 1;
        if written % flows::LOOK == 0 && !progress.advance(flows::LOOK) {
            return Err(Error::Interrupted);
        }
    }
    writer.finish().map(drop).map_err(output)
}

fn output(source: io::Error) -> Error {
    Error::System { what: "the output".into(), source }
}

impl Text {
    fn write(&self, document: &Document) -> Result<String, Error> {
        self.to.text(if self.json { document.json()? } else { document.yaml()? })
    }
}

impl To {
    /// Into the file, or back to be printed.
    fn text(&self, text: String) -> Result<String, Error> {
        let Some(file) = &self.output else { return Ok(text) };
        std::fs::write(file, text).map_err(|source| Error::System { what: file.display().to_string(), source })?;
        Ok(String::new())
    }

    /// Lets `write` write into the file, or to standard output. Half a file is removed.
    fn stream(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<String, Error> {
        let Some(path) = &self.output else {
            let mut out = io::BufWriter::new(io::stdout().lock());
            return match write(&mut out).and_then(|()| out.flush().map_err(output)) {
                // A reader that has gone away (`| head`) is no failure of ours.
                Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(String::new()),
                result => result.map(|()| String::new()),
            };
        };
        let named = |source| Error::System { what: path.display().to_string(), source };
        let mut out = io::BufWriter::new(File::create(path).map_err(named)?);
        let result = write(&mut out).and_then(|()| out.flush().map_err(output)).map_err(|error| match error {
            Error::System { source, .. } => named(source),
            other => other,
        });
        // Pipes and devices stay.
        if result.is_err() && path.is_file() {
            let _ = std::fs::remove_file(path);
        }
        result.map(|()| String::new())
    }
}
