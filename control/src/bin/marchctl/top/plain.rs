//! Frames for terminals that cannot place text, for files and for programs.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::View;
use super::fleet::{Fleet, Node};
use super::sheet::{self, Sheet};
use crate::out::{Paint, Tone};
use crate::table::{Table, span};

/// The views of a node that have a sheet of their own.
const OF_NODE: [View; 6] = [View::Ports, View::Services, View::Backends, View::Drops, View::Stages, View::Workers];

/// What an overview shows of a node, in this order, and how many rows of it at most.
pub const OVERVIEW: [(View, usize); 4] = [(View::Ports, 8), (View::Drops, 6), (View::Services, 6), (View::Workers, 16)];

/// A frame as text.
pub fn frame(fleet: &Fleet, view: View, at: Instant, paint: Paint) -> String {
    if view == View::Nodes {
        return table(&sheet::nodes(fleet, at), usize::MAX, paint);
    }
    let mut text = String::new();
    for node in &fleet.nodes {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&head(node, at, paint));
        let parts: &[(View, usize)] = if view == View::Overview { &OVERVIEW } else { &[(view, usize::MAX)] };
        for (view, most) in parts {
            let Some(sheet) = sheet::of_node(*view, node) else { continue };
            let block = table(&sheet, *most, paint);
            if !block.is_empty() {
                text.push('\n');
                text.push_str(&block);
            }
        }
    }
    text
}

/// A node's name, how it is and what is worth saying, a line each.
fn head(node: &Node, at: Instant, paint: Paint) -> String {
    let (word, tone, findings) = node.verdict();
    let name = if node.name.is_empty() { "node" } else { &node.name };
    let mut text = format!("{}  {}", paint.on(Tone::Strong, name), paint.on(tone, word));
    if let Some(stale) = node.stale(at) {
        let _ = write!(text, " since {}", span(stale.as_secs()));
    }
    if let Some((_, now)) = node.looks() {
        let stats = &now.stats;
        let _ = write!(
            text,
            "  version {}  generation {}  up {}",
            stats.version,
            stats.generation,
            span(stats.uptime_ms / 1000)
        );
        if let Some(law) = &stats.conservation {
            let _ = write!(text, "  residue {}", law.residue);
        }
    }
    text.push('\n');
    for (tone, finding) in findings {
        text.extend(["  ", &paint.on(tone, "!"), " ", &finding, "\n"]);
    }
    text
}

fn table(sheet: &Sheet, most: usize, paint: Paint) -> String {
    let sheet = sheet.clone().sort(sheet.sorted);
    if sheet.rows.is_empty() {
        return String::new();
    }
    let headings: Vec<&'static str> = sheet.columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for row in sheet.rows.iter().take(most) {
        table.toned(row.iter().map(|(cell, tone)| (cell.show(), *tone)));
    }
    let more = sheet.rows.len().saturating_sub(most);
    let more = if more == 0 { String::new() } else { format!("and {more} more\n") };
    table.render(paint) + &more
}

/// A frame as JSON: everything of all nodes, whatever the view.
pub fn json(fleet: &Fleet, at: Instant) -> Value {
    let node = |node: &Node| {
        let (state, _, findings) = node.verdict();
        let findings: Vec<String> = findings.into_iter().map(|(_, finding)| finding).collect();
        let mut whole = json!({
            "name": node.name,
            "state": state,
            "stale_s": node.stale(at).map(|stale| stale.as_secs()),
            "findings": findings,
        });
        for view in OF_NODE {
            let rows = sheet::of_node(view, node).map(|sheet| rows(&sheet)).unwrap_or_default();
            whole[view.title().to_lowercase()] = Value::Array(rows);
        }
        whole
    };
    let nodes: Vec<Value> = fleet.nodes.iter().map(node).collect();
    json!({"nodes": nodes, "summary": rows(&sheet::nodes(fleet, at))})
}

fn rows(sheet: &Sheet) -> Vec<Value> {
    let object = |row: &Vec<sheet::Toned>| {
        let fields = sheet.columns.iter().zip(row).map(|((_, name), (cell, _))| ((*name).to_owned(), cell.json()));
        Value::Object(fields.collect::<Map<String, Value>>())
    };
    sheet.clone().sort(sheet.sorted).rows.iter().map(object).collect()
}
