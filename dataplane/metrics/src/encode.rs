//! The text formats, written by prometheus-client.

use std::fmt::{Debug, Error, Formatter};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::{Buckets, Dictionary, Family, Kind, Value};

/// What a scraper can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, for whoever does not ask for OpenMetrics.
    Prometheus,
}

impl Format {
    /// The one that suits a request's `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        let refused = |parameters: &str| {
            let quality = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
            quality.is_some_and(|quality| quality.trim().parse() == Ok(0.0))
        };
        let wanted = accept.split(',').any(|range| {
            let (kind, parameters) = range.split_once(';').unwrap_or((range, ""));
            kind.trim().eq_ignore_ascii_case("application/openmetrics-text") && !refused(parameters)
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// For the answer's `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What stands before every name.
pub(crate) const PREFIX: &str = "marchproxy";

/// One scrape, on its way through the library.
struct Scrape<O: 'static> {
    dictionary: Dictionary<O>,
    observation: O,
}

impl<O> Debug for Scrape<O> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result<(), Error> {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl<O: Send + Sync + 'static> Collector for Scrape<O> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.dictionary.iter().copied().flatten().try_for_each(|family| write(family, &self.observation, &mut encoder))
    }
}

/// The text of one scrape.
pub fn render<O: Send + Sync + 'static>(dictionary: Dictionary<O>, observation: O, format: Format) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape { dictionary, observation }));
    let mut page = String::with_capacity(32 << 10);
    let written = match format {
        Format::OpenMetrics => text::encode(&mut page, &registry),
        Format::Prometheus => prometheus_text::encode(&mut page, &registry),
    };
    debug_assert!(written.is_ok(), "a String takes everything");
    page
}

fn write<O>(family: &Family<O>, observation: &O, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let unit = (!family.unit.is_empty()).then(|| Unit::Other(family.unit.to_owned()));
    // The library puts the unit behind the name.
    let base = family.name.strip_suffix(family.unit).map_or(family.name, |base| base.trim_end_matches('_'));
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    };
    let mut metric = encoder.encode_descriptor(base, family.help, unit.as_ref(), kind)?;
    for sample in (family.samples)(observation) {
        let labels: Vec<(&str, &str)> =
            family.labels.iter().copied().zip(sample.labels.iter().map(String::as_str)).collect();
        write_value(family.kind, &sample.value, metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn write_value(kind: Kind, value: &Value, mut metric: MetricEncoder<'_>) -> Result<(), Error> {
    match (kind, value) {
        (Kind::Info, _) => {
            let none: [(&str, &str); 0] = [];
            metric.encode_info(&none)
        }
        (Kind::Counter, Value::Count(count)) => metric.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Kind::Counter, Value::Real(real)) => metric.encode_counter::<NoLabelSet, _, f64>(real, None),
        (Kind::Gauge, Value::Count(count)) => metric.encode_gauge(count),
        (Kind::Gauge, Value::Signed(signed)) => metric.encode_gauge(signed),
        (Kind::Gauge, Value::Real(real)) => metric.encode_gauge(real),
        (Kind::Histogram, Value::Histogram(histogram)) => histogram.encode(metric),
        (Kind::Histogram, Value::Buckets(Buckets { bounds, counts, sum })) => {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            metric.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
        }
        _ => Err(Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, Histogram, Sample, family, one, sample};

    const NODE: &Class = &Class { name: "node", bound: "1" };

    fn settle() -> Vec<Sample> {
        let histogram = Histogram::new([0.5, 1.0]);
        histogram.observe(0.75);
        one(&histogram)
    }

    const FAMILIES: Dictionary<()> = &[&[
        family("build", Kind::Info, "", NODE, &["version"], "Release.", |()| vec![sample(vec!["a\"b".into()], 1_u64)]),
        family("received_bytes", Kind::Counter, "bytes", NODE, &["port"], "Octets.", |()| {
            vec![sample(vec!["wan".into()], 7_u64)]
        }),
        family("residue_packets", Kind::Gauge, "packets", NODE, &[], "Lost.", |()| one(-1_i64)),
        family("settle_seconds", Kind::Histogram, "seconds", NODE, &[], "Push.", |()| settle()),
    ]];

    #[test]
    fn both_formats_are_as_their_specifications_show_them() {
        let lines = |format| render(FAMILIES, (), format).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            lines(Format::OpenMetrics),
            [
                "# HELP marchproxy_build Release.",
                "# TYPE marchproxy_build info",
                "marchproxy_build_info{version=\"a\\\"b\"} 1",
                "# HELP marchproxy_received_bytes Octets.",
                "# TYPE marchproxy_received_bytes counter",
                "# UNIT marchproxy_received_bytes bytes",
                "marchproxy_received_bytes_total{port=\"wan\"} 7",
                "# HELP marchproxy_residue_packets Lost.",
                "# TYPE marchproxy_residue_packets gauge",
                "# UNIT marchproxy_residue_packets packets",
                "marchproxy_residue_packets -1",
                "# HELP marchproxy_settle_seconds Push.",
                "# TYPE marchproxy_settle_seconds histogram",
                "# UNIT marchproxy_settle_seconds seconds",
                "marchproxy_settle_seconds_sum 0.75",
                "marchproxy_settle_seconds_count 1",
                "marchproxy_settle_seconds_bucket{le=\"0.5\"} 0",
                "marchproxy_settle_seconds_bucket{le=\"1.0\"} 1",
                "marchproxy_settle_seconds_bucket{le=\"+Inf\"} 1",
                "# EOF",
            ]
        );
        let text = lines(Format::Prometheus);
        assert!(text.contains(&"# TYPE marchproxy_received_bytes_total counter".to_owned()), "{text:#?}");
        assert!(text.contains(&"# TYPE marchproxy_build_info gauge".to_owned()), "{text:#?}");
        assert!(!text.iter().any(|line| line.starts_with("# UNIT") || line == "# EOF"), "{text:#?}");
    }

    #[test]
    fn openmetrics_is_for_whoever_asks_for_it() {
        for (accept, format) in [
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("text/plain, Application/OpenMetrics-Text; q=0.7", Format::OpenMetrics),
            ("application/openmetrics-text;q=0, text/plain", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
