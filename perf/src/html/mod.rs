//! Reports as one page without anything from outside: text, tables, plots. Well-formed as XML, so that a test can read it.

pub mod plot;

use std::fmt::Write;
use std::path::Path;

use crate::Error;
use crate::machine::Machine;

/// The page's own style. Plots carry placeholder colours (see [`plot`]) that are named here, once for light and once for dark.
const STYLE: &str = include_str!("style.css");

/// A page that grows from top to bottom.
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a title and what it is about in a line.
    pub fn new(title: &str, about: &str) -> Self {
        let body = format!("<header><h1>{}</h1><p>{}</p></header>\n", escape(title), escape(about));
        Self { title: title.into(), body }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        self.push(&format!("<h2>{}</h2>", escape(text)));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        self.push(&format!("<p>{}</p>", escape(text)));
    }

    /// Something the reader must not miss.
    pub fn warning(&mut self, text: &str) {
        self.push(&format!("<p class=\"warning\" role=\"note\">{}</p>", escape(text)));
    }

    /// Figures of merit, large: what, value, unit.
    pub fn tiles(&mut self, tiles: &[(String, String, String)]) {
        let mut out = String::from("<div class=\"tiles\">");
        for (what, value, unit) in tiles {
            let (what, value, unit) = (escape(what), escape(value), escape(unit));
            let _ = write!(out, "<div><b>{value} <small>{unit}</small></b><span>{what}</span></div>");
        }
        self.push(&(out + "</div>"));
    }

    /// Figures side by side where there is room.
    pub fn figures(&mut self, figures: &[String]) {
        self.push(&format!("<div class=\"figures\">{}</div>", figures.concat()));
    }

    /// A table; its first column names the row. `numbers` says which columns are aligned as numbers.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
        for cell in head {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
        }
        out += "</tr></thead><tbody>\n";
        for row in rows {
            out += "<tr>";
            for cell in row {
                let class = if numeric(cell) { " class=\"n\"" } else { "" };
                let _ = write!(out, "<td{class}>{}</td>", escape(cell));
            }
            out += "</tr>\n";
        }
        self.push(&(out + "</tbody></table></div>"));
    }

    /// Names and values.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        let mut out = String::from("<dl>");
        for (name, value) in facts {
            let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        self.push(&(out + "</dl>"));
    }

    /// The machine's fingerprint.
    pub fn machine(&mut self, machine: &Machine) {
        let pages = &machine.hugepages;
        self.heading("Machine");
        self.facts(&[
            ("CPU", machine.cpu.clone()),
            ("Flags", machine.flags.join(" ")),
            ("Cores", format!("{}, measured on {}", machine.cores, machine.core)),
            ("Counter", format!("{} MHz", machine.tsc_mhz)),
            (
                "Huge pages",
                format!(
                    "{} of {} free ({} KiB each), transparent: {}; session table: {}",
                    pages.free, pages.total, pages.size_kb, pages.transparent, pages.sessions
                ),
            ),
            ("Governor", machine.governor.clone().unwrap_or_else(|| "none".into())),
            ("Load", format!("{:.2}", machine.load)),
            ("Stolen time", crate::machine::percent(machine.steal)),
            ("Interruptions", machine.involuntary_switches.to_string()),
            ("Virtual", if machine.hypervisor { "yes" } else { "no" }.into()),
            ("Kernel", format!("Linux {}", machine.kernel)),
        ]);
    }

    /// Something long that is closed at first.
    pub fn details(&mut self, summary: &str, content: &str) {
        let (summary, content) = (escape(summary), escape(content));
        self.push(&format!("<details><summary>{summary}</summary><pre>{content}</pre></details>"));
    }

    /// The whole document.
    pub fn finish(self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
             </head>\n<body>\n<main>\n{}</main>\n<footer>marchproxy-perf {version}</footer>\n</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }

    fn push(&mut self, html: &str) {
        self.body += html;
        self.body.push('\n');
    }
}

/// Writes a page.
pub fn save(path: &Path, page: &str) -> Result<(), Error> {
    std::fs::write(path, page).map_err(|source| Error::System { what: format!("--html {}", path.display()), source })
}

/// Whether a page can be written there; said before hours of measuring, not after.
pub fn check(path: &Path) -> Result<(), Error> {
    let system = |source| Error::System { what: format!("--html {}", path.display()), source };
    std::fs::OpenOptions::new().append(true).create(true).open(path).map(drop).map_err(system)
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Whether a cell is a number, perhaps with a unit.
fn numeric(cell: &str) -> bool {
    let number = cell.split(' ').next().unwrap_or_default();
    number.parse::<f64>().is_ok() && cell.split(' ').count() <= 2
}

#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod support;

#[cfg(test)]
mod tests {
    use super::support::is_whole_and_alone;
    use super::*;

    #[test]
    fn a_page_is_well_formed_and_needs_nothing_else() {
        let mut page = Page::new("A & B", "1 < 2");
        page.heading("x > y");
        page.warning("\"quoted\"");
        page.tiles(&[("what".into(), "1.5".into(), "Mpps".into())]);
        page.table(&["a", "b"], &[vec!["IPv4 <x>".into(), "1.5 %".into()]]);
        page.facts(&[("k", "v".into())]);
        page.details("JSON", "{\"a\": [1, 2]}");
        let page = page.finish();
        is_whole_and_alone(&page);
        assert!(page.contains("A &amp; B") && page.contains("<td class=\"n\">1.5 %</td>"), "{page}");
    }

    #[test]
    fn cells_know_numbers() {
        assert!(numeric("12.5") && numeric("-3") && numeric("0.1 %"));
        assert!(!numeric("IPv4") && !numeric("rx_missed 12, tx_queue_full 3") && !numeric(""));
    }
}
