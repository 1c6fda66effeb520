//! The dictionary of metrics: each family is named in one place, and both what `/metrics` shows and what `docs/metrics.md` says are made
//! from that.
//!
//! A program declares a table of [`Family`] over a type of its own, the *observation*: everything one scrape sees, put together once.
//! [`render`] writes it in either text format, [`dictionary`] as a table for people, [`check`] holds an exporter's output against it.
#![forbid(unsafe_code)]

mod check;
mod encode;
mod reference;

pub use prometheus_client::metrics::histogram::Histogram;

pub use check::check;
pub use encode::{Format, render};
pub use reference::{Section, dictionary};

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name gets `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many observations were at most so large.
    Histogram,
    /// Words, as labels of a constant 1; its name gets `_info`.
    Info,
}

impl Kind {
    /// As the formats call it.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }

    /// What a sample's name has behind the family's.
    pub const fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

/// A number, or several.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter or a gauge that is never negative.
    Count(u64),
    /// Of a gauge.
    Signed(i64),
    /// Of a gauge with fractions, or a counter of seconds.
    Real(f64),
    /// Of a histogram that this process observes.
    Histogram(Histogram),
    /// Of a histogram that was counted elsewhere.
    Buckets(Buckets),
}

/// A histogram as counted by somebody else.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Upper bounds, ascending.
    pub bounds: Vec<f64>,
    /// How many lie within each bound and above the one before; the last of them, beyond all. One more than there are bounds.
    pub counts: Vec<u64>,
    /// Of all that was observed.
    pub sum: f64,
}

impl From<Buckets> for Value {
    fn from(value: Buckets) -> Self {
        Self::Buckets(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Count(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Count(value.into())
    }
}

impl From<&Histogram> for Value {
    fn from(value: &Histogram) -> Self {
        Self::Histogram(value.clone())
    }
}

/// The labels' values, in the family's order, and the number.
#[derive(Clone, Debug)]
pub struct Sample {
    /// One per label.
    pub labels: Vec<String>,
    /// What was counted.
    pub value: Value,
}

/// A sample.
pub fn sample(labels: Vec<String>, value: impl Into<Value>) -> Sample {
    Sample { labels, value: value.into() }
}

/// The only sample of a family without labels.
pub fn one(value: impl Into<Value>) -> Vec<Sample> {
    vec![sample(Vec::new(), value)]
}

/// What there is one series for, and so how many there can be.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    /// `worker`.
    pub name: &'static str,
    /// How many series a family of the class has at most.
    pub bound: &'static str,
}

/// One family of metrics over observations `O`.
pub struct Family<O: 'static> {
    /// Without the prefix `marchproxy_`, and without the suffix of its kind.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// In what it counts, which its name ends with; empty: plain numbers.
    pub unit: &'static str,
    /// What there is one series for.
    pub class: &'static Class,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for operators.
    pub help: &'static str,
    /// When there are samples at all; empty: always.
    pub when: &'static str,
    /// Reads them.
    pub samples: fn(&O) -> Vec<Sample>,
}

/// A family that always has samples.
pub const fn family<O>(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    class: &'static Class,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&O) -> Vec<Sample>,
) -> Family<O> {
    Family { name, kind, unit, class, labels, help, when: "", samples }
}

impl<O> Family<O> {
    /// Says when there are samples, for a family that may have none.
    #[must_use]
    pub const fn when(self, when: &'static str) -> Self {
        Self { when, ..self }
    }
}

/// All families of a program, by area.
pub type Dictionary<O> = &'static [&'static [Family<O>]];
