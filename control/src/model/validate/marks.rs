//! Marks: codepoints, and words that say what becomes of the codepoint a packet came with. The maps that they name.

use marchproxy_engine::tables::{Class, DscpMapSpec, MARK_KEEP, MARK_MAP, MOST_DSCP_MAPS};
use marchproxy_proto::v1::Document;

use super::super::report::{At, Names, Report, quoted};
use super::super::words;

/// How a mark says that a map makes it.
const MAP: &str = "map:";

/// The maps by name. Marks know them by their place among the sorted names, as compiled tables do.
pub(super) struct Maps<'a> {
    names: Names<'a>,
    ranks: Vec<usize>,
}

impl<'a> Maps<'a> {
    /// The names of the document's maps.
    pub fn new(document: &'a Document, report: &mut Report) -> Self {
        let all: Vec<&str> = document.dscp_maps.iter().map(|map| map.name.as_str()).collect();
        let ranks = all.iter().map(|name| all.iter().filter(|other| *other < name).count()).collect();
        let at = |index, name| At::new("dscp_maps", index, "dscp_map", name);
        Self { names: Names::new(report, "dscp_map", all.into_iter(), at), ranks }
    }

    /// A mark of a rule, service or colour.
    pub fn mark(&self, report: &mut Report, at: &At<'_>, field: impl std::fmt::Display, text: &str) -> Option<u8> {
        if text == "keep" {
            return Some(MARK_KEEP);
        }
        if let Some(name) = text.strip_prefix(MAP) {
            let place = self.names.find(report, at, field, name)?;
            return Some(MARK_MAP.saturating_add(self.ranks[place] as u8));
        }
        let read = |text: &str| words::dscp(text).map_err(|allowed| format!("{allowed}, keep, or {MAP}DSCP_MAP"));
        report.word(at, field, text, read)
    }
}

/// The maps.
pub(super) fn check(document: &Document, report: &mut Report) -> Vec<DscpMapSpec> {
    let mut maps: Vec<DscpMapSpec> = Vec::with_capacity(document.dscp_maps.len());
    for (index, map) in document.dscp_maps.iter().enumerate() {
        let at = At::new("dscp_maps", index, "dscp_map", &map.name);
        if index == MOST_DSCP_MAPS {
            let allowed = format!("at most {MOST_DSCP_MAPS}");
            report.refuse(&at, "name", format!("one of {} maps", document.dscp_maps.len()), allowed);
        }
        let mut spec = DscpMapSpec { name: map.name.clone(), ..Default::default() };
        for (from, to) in &map.map {
            let Some(to) = report.word(&at, format_args!("map.{from}"), to, words::dscp) else { continue };
            if let Some(class) = Class::ALL.into_iter().find(|class| class.label() == from) {
                spec.classes[class as usize] = Some(to);
                continue;
            }
            let read = |text: &str| words::dscp(text).map_err(|allowed| format!("{allowed}, or a class: P0 to P3"));
            let Some(from) = report.word(&at, "map", from, read) else { continue };
            if spec.codepoints.iter().any(|(other, _)| *other == from) {
                report.refuse(&at, "map", format!("codepoint {from} twice"), "each codepoint once, by name or number");
            }
            spec.codepoints.push((from, to));
        }
        spec.codepoints.sort_unstable();
        maps.push(spec);
    }
    maps.sort_by(|a, b| a.name.cmp(&b.name));
    maps
}

/// The class of a rule or service.
pub(super) fn class(report: &mut Report, at: &At<'_>, field: &str, text: &str) -> Option<Class> {
    let choices = Class::ALL.map(|class| (class.label(), Some(class)));
    report.choice(at, field, text, Some(None), &choices).flatten()
}

/// The class of a colour.
pub(super) fn lower(report: &mut Report, at: &At<'_>, field: &str, text: &str) -> Option<Class> {
    let found = Class::ALL.into_iter().find(|class| class.label() == text);
    if found.is_none() {
        report.refuse(at, field, quoted(text), "P0, P1, P2, P3");
    }
    found
}
