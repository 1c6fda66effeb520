//! The packets that rules sample, for people to read.

use std::sync::PoisonError;

use marchproxy_engine::sampling::Sample;

use super::Shared;
use super::query::{endpoint, protocol_name};
use crate::driver::Driver;

/// Samples that wait for the log, from each worker; more are lost, and counted.
pub(super) const RING: usize = 64;

impl<D: Driver> Shared<D> {
    /// Up to `limit` samples, one line each, from the workers in turn.
    pub(super) fn samples(&self, limit: usize) -> Vec<String> {
        let mut rings = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        loop {
            let before = lines.len();
            for ring in rings.iter_mut() {
                if lines.len() < limit
                    && let Ok(sample) = ring.pop()
                {
                    lines.push(describe(&sample));
                }
            }
            if lines.len() == before {
                return lines;
            }
        }
    }
}

fn describe(sample: &Sample) -> String {
    let Sample { rule, action, one_of, interface, key, length, flags_or_type } = sample;
    let (from, to) = (endpoint(key.src, key.sport), endpoint(key.dst, key.dport));
    let detail = match key.protocol {
        6 => format!(" flags {flags_or_type:#04x}"),
        1 | 58 => format!(" type {flags_or_type}"),
        _ => String::new(),
    };
    let protocol = protocol_name(key.protocol);
    format!(
        "rule {rule} ({}, 1 of {one_of}): {protocol} {from} > {to}{detail}, {length} octets, in {interface}",
        action.label()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::flow::{FlowKey, from_ip};
    use marchproxy_engine::tables::RuleAction;

    #[test]
    fn a_line_says_which_rule_and_which_packet() {
        let ip = |text: &str| from_ip(text.parse().unwrap());
        let key = FlowKey { src: ip("198.51.100.7"), dst: ip("203.0.113.10"), protocol: 6, sport: 4000, dport: 80 };
        let sample = Sample {
            rule: "web".try_into().unwrap(),
            action: RuleAction::Deny,
            one_of: 100,
            interface: "wan0".try_into().unwrap(),
            key,
            length: 60,
            flags_or_type: 2,
        };
        let expected =
            "rule web (deny, 1 of 100): tcp 198.51.100.7:4000 > 203.0.113.10:80 flags 0x02, 60 octets, in wan0";
        assert_eq!(describe(&sample), expected);
        let key = FlowKey { src: ip("2001:db8::7"), dst: ip("2001:db8::9"), protocol: 17, sport: 1, dport: 53 };
        let expected = "rule web (deny, 1 of 100): udp [2001:db8::7]:1 > [2001:db8::9]:53, 60 octets, in wan0";
        assert_eq!(describe(&Sample { key, ..sample }), expected);
    }
}
