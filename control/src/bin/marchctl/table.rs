//! Columns for people.

use crate::out::{Paint, Tone};

/// A table whose columns are as wide as they must be. Columns whose heading begins with `>` are set to the right.
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Table {
    /// An empty one.
    pub fn new(heading: &[&'static str]) -> Table {
        Table { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| (cell, None)).collect());
    }

    /// Adds a row with tones.
    pub fn toned(&mut self, cells: impl IntoIterator<Item = (String, Option<Tone>)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, each ended.
    pub fn render(&self, paint: Paint) -> String {
        let titles: Vec<&str> = self.heading.iter().map(|title| title.trim_start_matches('>')).collect();
        let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
        for row in &self.rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let titles: Vec<(String, Option<Tone>)> =
            titles.iter().map(|t| ((*t).to_owned(), Some(Tone::Strong))).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let last = row.len().saturating_sub(1);
            for (at, (cell, tone)) in row.iter().enumerate() {
                let width = widths.get(at).copied().unwrap_or(0);
                let space = " ".repeat(width.saturating_sub(cell.chars().count()));
                let cell = tone.map_or_else(|| cell.clone(), |tone| paint.on(tone, cell));
                if self.heading.get(at).is_some_and(|title| title.starts_with('>')) {
                    text.push_str(&space);
                    text.push_str(&cell);
                } else {
                    text.push_str(&cell);
                    if at != last {
                        text.push_str(&space);
                    }
                }
                if at != last {
                    text.push_str("  ");
                }
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// 1234567 as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate with a decimal prefix: `1.25 M`.
pub fn scaled(number: f64) -> String {
    for (prefix, size) in [(" G", 1e9), (" M", 1e6), (" k", 1e3)] {
        if number >= size {
            return format!("{:.2}{prefix}", number / size);
        }
    }
    if number >= 10.0 || number == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// Microseconds as people say them: `850 us`, `3.2 ms`, `1.50 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Seconds as people say them: `3 d 4 h`, `12 min`, `8 s`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// The beginning of a hash, enough to tell two apart.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// A moment in UTC, `2026-01-02T03:04:05Z`; empty when unset.
pub fn moment(at: Option<&prost_types::Timestamp>) -> String {
    at.map(|at| prost_types::Timestamp { nanos: 0, ..*at }.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">COUNT", "WHY"]);
        table.row(["a".to_owned(), "1".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "1,000".to_owned(), "because".to_owned()]);
        let want = "NAME    COUNT  WHY\na           1\nlonger  1,000  because\n";
        assert_eq!(table.render(Paint::PLAIN), want);
    }

    #[test]
    fn numbers_as_people_say_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 3.25, 42.0, 1_500.0, 2.5e6, 1e10].map(scaled),
            ["0", "3.2", "42", "1.50 k", "2.50 M", "10.00 G"]
        );
        assert_eq!([850, 3_200, 1_500_000].map(micros), ["850 us", "3.2 ms", "1.50 s"]);
        assert_eq!([8, 720, 3_700, 273_600].map(span), ["8 s", "12 min", "1 h 1 min", "3 d 4 h"]);
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 };
        assert_eq!(moment(Some(&at)), "2023-11-14T22:13:20Z");
    }
}
