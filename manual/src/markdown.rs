//! A program's section of the reference.

use std::fmt::Write as _;

use crate::Entry;

/// Ends with a line's end.
pub fn section(entries: &[Entry]) -> String {
    let mut text = String::new();
    for (place, entry) in entries.iter().enumerate() {
        let level = if place == 0 { "##" } else { "\n###" };
        let _ = writeln!(text, "{level} {}\n\n{}\n\n```\n{}\n```", entry.path, escaped(&entry.about), entry.usage);
        if !entry.options.is_empty() {
            text.push_str("\n| option | |\n|---|---|\n");
            for option in &entry.options {
                let help = escaped(&option.help).replace('\n', " ").replace('|', "\\|");
                let _ = writeln!(text, "| `{}` | {help} |", option.spelled);
            }
        }
        if !entry.after.is_empty() {
            let _ = writeln!(text, "\n```\n{}\n```", entry.after.trim_end());
        }
    }
    text
}

/// `<` would be read as HTML.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<")
}
