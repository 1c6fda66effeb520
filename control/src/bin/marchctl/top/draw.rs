//! One frame on a terminal of any size.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::View;
use super::app::App;
use super::fleet::{Fleet, Node};
use super::plain::OVERVIEW;
use super::sheet::{self, Sheet};
use crate::out::Tone;
use crate::stats::law;
use crate::table::{short, span};

const KEYS: [(&str, &str); 9] = [
    ("1-8, Tab, arrows left and right", "views"),
    ("n, N", "next node, the one before"),
    ("s, S", "sort by the next column, the one before"),
    ("r", "reverse the order"),
    ("arrows up and down, Page Up, Page Down, Home", "scroll"),
    ("p, Space", "pause: nobody is asked meanwhile"),
    ("Ctrl-L", "draw again"),
    ("?, h", "these keys"),
    ("q, Esc, Ctrl-C", "end"),
];

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, app: &App, fleet: &Fleet, at: Instant) {
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(tabs(app, fleet), top);
    let lines = if app.help { help() } else { body_lines(app, fleet, at) };
    // A scroll beyond the end would show an empty screen.
    let last = (lines.len() as u16).saturating_sub(body.height);
    frame.render_widget(Paragraph::new(lines).scroll((app.scroll.min(last), 0)), body);
    frame.render_widget(foot(app, fleet), bottom);
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Faint => Style::new().add_modifier(Modifier::DIM),
        Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
    }
}

fn tabs(app: &App, fleet: &Fleet) -> Line<'static> {
    let mut spans = Vec::new();
    for (place, view) in View::ALL.into_iter().enumerate() {
        let text = format!(" {} {} ", place + 1, view.title());
        let chosen = view == app.view && !app.help;
        let style = if chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::styled(text, style));
    }
    if app.paused {
        spans.push(Span::styled(" PAUSED", style(Tone::Warn)));
    }
    if fleet.nodes.len() > 1 {
        spans.push(Span::styled(format!("  node {} of {}", app.node + 1, fleet.nodes.len()), style(Tone::Faint)));
    }
    Line::from(spans)
}

fn foot(app: &App, fleet: &Fleet) -> Line<'static> {
    match &fleet.trouble {
        Some(trouble) => Line::styled(format!("! {trouble}"), style(Tone::Bad)),
        None if app.help => Line::styled("? back", style(Tone::Faint)),
        None => Line::styled("? keys  s sort  r reverse  n node  p pause  q end", style(Tone::Faint)),
    }
}

fn help() -> Vec<Line<'static>> {
    let width = KEYS.iter().map(|(keys, _)| keys.len()).max().unwrap_or(0);
    let line = |(keys, what): &(&str, &str)| {
        Line::from(vec![Span::styled(format!("  {keys:width$}  "), style(Tone::Strong)), Span::raw((*what).to_owned())])
    };
    let meaning = [
        "",
        "  stale: the node did not answer; its last figures stay, with the time since",
        "  rates are over the time between the last two looks",
    ];
    KEYS.iter().map(line).chain(meaning.into_iter().map(Line::from)).collect()
}

fn body_lines(app: &App, fleet: &Fleet, at: Instant) -> Vec<Line<'static>> {
    if app.view == View::Nodes {
        return app.sheet(fleet, at).map(|sheet| table(&sheet, usize::MAX)).unwrap_or_default();
    }
    let Some(node) = fleet.nodes.get(app.node) else {
        return vec![Line::from(fleet.trouble.clone().unwrap_or_else(|| "no node yet".to_owned()))];
    };
    let mut lines = head(node, at);
    if app.view == View::Overview {
        for (view, most) in OVERVIEW {
            if let Some(sheet) = sheet::of_node(view, node).filter(|sheet| !sheet.rows.is_empty()) {
                lines.push(Line::default());
                let sorted = sheet.sorted;
                lines.extend(table(&sheet.sort(sorted), most));
            }
        }
        return lines;
    }
    lines.push(Line::default());
    match app.sheet(fleet, at) {
        Some(sheet) if !sheet.rows.is_empty() => lines.extend(table(&sheet, usize::MAX)),
        _ => lines.push(Line::styled(format!("no {} here", app.view.title().to_lowercase()), style(Tone::Faint))),
    }
    lines
}

fn head(node: &Node, at: Instant) -> Vec<Line<'static>> {
    let (word, tone, findings) = node.verdict();
    let name = if node.name.is_empty() { "node".to_owned() } else { node.name.clone() };
    let mut first = vec![Span::styled(name, style(Tone::Strong)), Span::raw("  "), Span::styled(word, style(tone))];
    if let Some(stale) = node.stale(at) {
        first.push(Span::styled(format!(" since {}", span(stale.as_secs())), style(Tone::Bad)));
    }
    let mut lines = Vec::new();
    if let Some((_, now)) = node.looks() {
        let stats = &now.stats;
        first.push(Span::raw(format!(
            "  version {}  generation {}  tables {}  up {}",
            stats.version,
            stats.generation,
            short(&stats.content_hash),
            span(stats.uptime_ms / 1000)
        )));
        lines.push(Line::from(first));
        if let Some(c) = &stats.conservation {
            lines.push(Line::from(format!("  {}", law(c))));
        }
    } else {
        lines.push(Line::from(first));
    }
    for (tone, finding) in findings {
        lines.push(Line::from(vec![Span::styled("  ! ", style(tone)), Span::raw(finding)]));
    }
    lines
}

/// Columns as wide as they must be; what does not fit is cut off at the right.
fn table(sheet: &Sheet, most: usize) -> Vec<Line<'static>> {
    let (by, down) = sheet.sorted;
    let heading = |(place, (title, _)): (usize, &(&str, &str))| {
        let mark = match (place == by, down) {
            (true, true) => " v",
            (true, false) => " ^",
            _ => "",
        };
        format!("{}{mark}", title.trim_start_matches('>'))
    };
    let headings: Vec<String> = sheet.columns.iter().enumerate().map(heading).collect();
    let rows: Vec<Vec<String>> =
        sheet.rows.iter().take(most).map(|row| row.iter().map(|(cell, _)| cell.show()).collect()).collect();
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place)).chain(headings.get(place));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let place = |column: usize, cell: &str| {
        let width = widths.get(column).copied().unwrap_or(0);
        if sheet.columns[column].0.starts_with('>') { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") }
    };
    let mut lines = Vec::with_capacity(rows.len() + 1);
    let titles: String = headings.iter().enumerate().map(|(column, title)| place(column, title)).collect();
    lines.push(Line::styled(titles, style(Tone::Strong)));
    for (cells, row) in rows.iter().zip(&sheet.rows) {
        let spans =
            cells.iter().zip(row).enumerate().map(|(column, (cell, (_, tone)))| {
                Span::styled(place(column, cell), tone.map(style).unwrap_or_default())
            });
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    if sheet.rows.len() > most {
        lines.push(Line::styled(format!("and {} more", sheet.rows.len() - most), style(Tone::Faint)));
    }
    lines
}
