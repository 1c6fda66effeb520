//! Holds what an exporter says against its dictionary.

use std::collections::BTreeMap;

use crate::encode::PREFIX;
use crate::{Dictionary, Family, Kind};

/// What is wrong with `page`, an exporter's answer in OpenMetrics: families that are not in the dictionary, labels that differ, names
/// that break the rules, and families without a sample that should have one. With `all`, that is every one of them: the scenario
/// exercises everything.
pub fn check<O>(dictionary: Dictionary<O>, page: &str, all: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known: BTreeMap<String, (&Family<O>, usize)> = BTreeMap::new();
    for family in dictionary.iter().copied().flatten() {
        wrong.extend(names(family));
        if known.insert(format!("{PREFIX}_{}", family.name), (family, 0)).is_some() {
            wrong.push(format!("{}: twice in the dictionary", family.name));
        }
    }
    let mut current = String::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            match known.get(name) {
                None => wrong.push(format!("{name}: exported, and not in the dictionary")),
                Some((family, _)) if family.kind.label() != kind => {
                    wrong.push(format!("{name}: exported as {kind}, {} in the dictionary", family.kind.label()));
                }
                Some(_) => {}
            }
        } else if !line.starts_with('#')
            && let Some((family, samples)) = known.get_mut(&current)
        {
            *samples += 1;
            let found: Vec<String> = labels(line).into_iter().filter(|label| label != "le").collect();
            if found != family.labels {
                wrong.push(format!("{current}: labels {found:?}, {:?} in the dictionary", family.labels));
            }
        }
    }
    if !page.ends_with("# EOF\n") {
        wrong.push("the page does not end with # EOF".into());
    }
    let silent = known.values().filter(|(family, samples)| *samples == 0 && (all || family.when.is_empty()));
    wrong.extend(silent.map(|(family, _)| format!("{}: no sample", family.name)));
    wrong
}

/// What is wrong with a family by itself.
fn names<O>(family: &Family<O>) -> Vec<String> {
    let name = family.name;
    let mut wrong = Vec::new();
    if !family.unit.is_empty() && !name.ends_with(&format!("_{}", family.unit)) {
        wrong.push(format!("{name}: does not end with its unit {}", family.unit));
    }
    if name.ends_with("_total") || name.ends_with("_info") {
        wrong.push(format!("{name}: the suffix comes from the kind"));
    }
    if !family.help.ends_with('.') || family.help.contains(['|', '\n', '\\']) {
        wrong.push(format!("{name}: help is no plain sentence with a full stop"));
    }
    if family.kind == Kind::Histogram && family.labels.contains(&"le") {
        wrong.push(format!("{name}: le is the format's own label"));
    }
    wrong
}

/// The names of a sample's labels.
fn labels(line: &str) -> Vec<String> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let (mut found, mut name, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in rest.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '=' => found.push(std::mem::take(&mut name)),
            '}' => break,
            ',' => {}
            c => name.push(c),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, family, one};

    #[test]
    fn every_difference_is_found() {
        const NODE: &Class = &Class { name: "node", bound: "1" };
        const FAMILIES: Dictionary<()> = &[&[
            family("up", Kind::Gauge, "", NODE, &["port"], "Up.", |()| Vec::new()),
            family("sent_bytes", Kind::Counter, "packets", NODE, &[], "Sent.", |()| one(1_u64)),
            family("rare", Kind::Gauge, "", NODE, &[], "Rare.", |()| Vec::new()).when("seldom"),
        ]];
        let page = "# TYPE marchproxy_up gauge\nmarchproxy_up{core=\"a=\\\"},b\",port=\"x\"} 1\n# TYPE marchproxy_new gauge\n# EOF\n";
        let wrong = check(FAMILIES, page, false);
        for words in [
            "sent_bytes: does not end with its unit packets",
            "marchproxy_up: labels [\"core\", \"port\"], [\"port\"]",
            "marchproxy_new: exported, and not in the dictionary",
            "sent_bytes: no sample",
        ] {
            assert!(wrong.iter().any(|line| line.contains(words)), "no {words:?} in {wrong:#?}");
        }
        assert_eq!(wrong.len(), 4);
        assert_eq!(check(FAMILIES, page, true).len(), 5);
    }
}
