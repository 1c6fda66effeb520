//! How a packet's cost grows with the amount of something: the measurement of `run` at sizes over a span, in turn, several times.
//!
//! Each measurement is a `run` in a process of its own, so that no size inherits another one's heap.

pub mod fit;
pub mod page;
pub mod point;
pub mod report;
pub mod text;

use crate::Error;
use crate::machine::Watch;
use crate::progress::Progress;
use crate::scenario::Scenario;

use point::{Measured, Runner};
use report::{Amount, Growth, Point, Report};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Distinct flows, 64 to 65,536
    Flows,
    /// Routes, 500 to 500,000
    Routes,
    /// Rules, 100 to 100,000
    Rules,
    /// Live sessions, 1,000 to 1,000,000
    Sessions,
    /// Services with four backends each, 1 to 1,000
    Services,
    /// Workers, 1 to the number of cores
    Workers,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Flows, Self::Routes, Self::Rules, Self::Sessions, Self::Services, Self::Workers];

    /// The option of `run` that says how much, without dashes; also the name in reports.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Routes => "routes",
            Self::Rules => "rules",
            Self::Sessions => "sessions",
            Self::Services => "services",
            Self::Workers => "workers",
        }
    }

    /// The scenario that shows it unless another is wanted.
    pub const fn scenario(self) -> Scenario {
        match self {
            Self::Flows | Self::Routes | Self::Workers => Scenario::Forward,
            Self::Rules => Scenario::Rules,
            Self::Sessions | Self::Services => Scenario::Balance,
        }
    }

    /// Whether a scenario has any.
    pub const fn is_in(self, scenario: Scenario) -> bool {
        match self {
            Self::Flows | Self::Routes | Self::Workers => true,
            Self::Rules => scenario.has_rules(),
            Self::Sessions | Self::Services => scenario.has_services(),
        }
    }

    /// First and last size, unless options say otherwise.
    pub fn span(self) -> (usize, usize) {
        match self {
            Self::Flows => (64, 65_536),
            Self::Routes => (500, 500_000),
            Self::Rules => (100, 100_000),
            Self::Sessions => (1000, 1_000_000),
            // With four backends each these are the 4,000 neighbours the harness has.
            Self::Services => (1, 1000),
            Self::Workers => (1, std::thread::available_parallelism().map_or(1, Into::into)),
        }
    }

    /// Options that keep everything else alike over the span.
    const fn fixed(self) -> &'static [&'static str] {
        match self {
            Self::Services => &["--backends", "4"],
            _ => &[],
        }
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Work {
    /// Amounts and where they are shown.
    pub amounts: Vec<(What, Scenario)>,
    /// Sizes of each.
    pub points: usize,
    /// First and last size instead of the contract's.
    pub span: (Option<usize>, Option<usize>),
    /// Measurements of each size, in turn.
    pub repeats: usize,
    /// Options of every `run`.
    pub options: Vec<String>,
    /// Of those with rules.
    pub of_rules: Vec<String>,
    /// Of those with one worker: several are on cores of their own.
    pub of_one_worker: Vec<String>,
    /// How a cost may grow over the span.
    pub limit: f64,
}

impl Work {
    /// Options of the measurements of an amount in a scenario.
    fn options_of(&self, what: What, scenario: Scenario) -> impl Iterator<Item = &String> {
        let rules = self.of_rules.iter().filter(move |_| scenario.has_rules());
        let one_worker = self.of_one_worker.iter().filter(move |_| what != What::Workers);
        self.options.iter().chain(rules).chain(one_worker)
    }
}

/// Measures. An interrupt ends it with what there is.
pub fn run(work: &Work, runner: &Runner, progress: &Progress) -> Result<Report, Error> {
    let mut amounts = Vec::new();
    for &(what, scenario) in &work.amounts {
        let (first, last) = what.span();
        let (first, last) = (work.span.0.unwrap_or(first), work.span.1.unwrap_or(last));
        if first > last || first == 0 {
            let allowed = format!("1 to {last}, the last size of {}", what.option());
            return Err(Error::Option { option: "from", found: first.to_string(), allowed });
        }
        let points = fit::sizes(first, last, work.points).into_iter().map(Point::new).collect();
        amounts.push(Amount { what, scenario, points, growth: None });
    }
    let count = amounts.iter().map(|amount| amount.points.len()).sum::<usize>() * work.repeats;
    progress.phase("measuring", count as u64);
    let mut last = None;
    let mut watch = Watch::over(Vec::new());
    'all: for _ in 0..work.repeats {
        for amount in &mut amounts {
            for point in amount.points.iter_mut().filter(|point| point.refused.is_none()) {
                let mut arguments = vec!["run".to_owned(), amount.scenario.label().into(), "--json".into()];
                arguments.extend(["--repeat".into(), "1".into()]);
                arguments.extend([format!("--{}", amount.what.option()), point.n.to_string()]);
                arguments.extend(amount.what.fixed().iter().map(|word| (*word).to_owned()));
                arguments.extend(work.options_of(amount.what, amount.scenario).cloned());
                match runner.measure(&arguments, progress)? {
                    Measured::Figures(figures) => {
                        last = Some(figures.clone());
                        point.add(figures);
                    }
                    Measured::Refused(words) => point.refused = Some(words),
                }
                if !progress.advance(1) {
                    break 'all;
                }
            }
        }
    }
    progress.finish();
    if last.is_none() && progress.stopped() {
        return Err(Error::Interrupted);
    }
    for amount in &mut amounts {
        amount.growth = Growth::of(&amount.points, work.limit);
    }
    let all = || amounts.iter().flat_map(|amount| &amount.points).flat_map(|point| &point.figures);
    let switches = all().map(|figures| figures.switches).sum();
    let memory = last.as_ref().map_or("none", |figures| &figures.session_memory);
    let hz = last.as_ref().map_or(0, |figures| figures.tsc_mhz * 1_000_000);
    // Each measurement judges its own time and interruptions; here they are only added up.
    watch.ran_on(last.as_ref().map_or_else(Vec::new, |figures| figures.cores.clone()));
    watch.interrupted(switches);
    let (machine, _) = watch.finish(hz, memory, None);
    let noise = noise(&amounts);
    Ok(Report {
        backend: "memory",
        amounts,
        repeats: work.repeats,
        options: [&work.options[..], &work.of_rules, &work.of_one_worker].concat(),
        machine,
        noisy: !noise.is_empty(),
        noise,
        interrupted: progress.stopped(),
    })
}

/// What the measurements themselves say against their figures, and what their repeats do.
fn noise(amounts: &[Amount]) -> Vec<String> {
    let all = || amounts.iter().flat_map(|amount| &amount.points).flat_map(|point| &point.figures);
    let (noisy, count) = (all().filter(|figures| !figures.noise.is_empty()).count(), all().count());
    let mut noise = Vec::new();
    if let Some(first) = all().find_map(|figures| figures.noise.first()) {
        noise.push(format!("{noisy} of {count} measurements were noisy, for example: {first}"));
    }
    let limit = crate::machine::SPREAD_LIMIT;
    let wide =
        amounts.iter().flat_map(|amount| &amount.points).filter(|point| point.spread_percent() > Some(limit)).count();
    if wide > 0 {
        noise.push(format!("at {wide} sizes the repeats spread by more than {limit} %"));
    }
    noise
}
