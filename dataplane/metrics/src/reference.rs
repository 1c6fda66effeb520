//! The dictionary for people: a part of `docs/metrics.md`, made from the code.

use std::fmt::Write as _;
use std::path::Path;

use crate::{Class, Dictionary};

/// The environment variable that makes [`Section::hold`] write instead of compare.
const WRITE: &str = "MARCHPROXY_WRITE_DOCS";

/// All metrics of a program as Markdown, and how many series there can be.
pub fn dictionary<O>(dictionary: Dictionary<O>) -> String {
    let mut text =
        String::from("| metric | type | unit | a series per | labels | meaning |\n|---|---|---|---|---|---|\n");
    let mut classes: Vec<&Class> = Vec::new();
    for family in dictionary.iter().copied().flatten() {
        let when = if family.when.is_empty() { String::new() } else { format!(" Appears {}.", family.when) };
        let _ = writeln!(
            text,
            "| `marchproxy_{}{}` | {} | {} | {} | {} | {}{when} |",
            family.name,
            family.kind.suffix(),
            family.kind.label(),
            family.unit,
            family.class.name,
            family.labels.join(", "),
            family.help,
        );
        if !classes.contains(&family.class) {
            classes.push(family.class);
        }
    }
    text.push_str("\n| a series per | at most |\n|---|---|\n");
    for class in classes {
        let _ = writeln!(text, "| {} | {} |", class.name, class.bound);
    }
    text
}

/// A part of a document, between `<!-- begin NAME -->` and `<!-- end NAME -->`, that is made from code.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The document.
    pub file: &'a Path,
    /// Its part.
    pub name: &'a str,
}

impl Section<'_> {
    /// Whether the part says `text`. With `MARCHPROXY_WRITE_DOCS=1` in the environment it will.
    pub fn hold(self, text: &str) -> Result<(), String> {
        let Self { file, name } = self;
        let failed = |why: std::io::Error| format!("{}: {why}", file.display());
        let document = std::fs::read_to_string(file).map_err(failed)?;
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
        let parts = document.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?)));
        let Some((head, (found, tail))) = parts else {
            return Err(format!("{}: no part between {begin:?} and {end:?}", file.display()));
        };
        if found == text {
            return Ok(());
        }
        if std::env::var_os(WRITE).is_some() {
            return std::fs::write(file, [head, &begin, text, &end, tail].concat()).map_err(failed);
        }
        Err(format!(
            "{}: the part {name} is not what the code says; run this test with {WRITE}=1 and commit",
            file.display()
        ))
    }
}
