//! Collects what validation finds. Places are described only when something is wrong with them: a good document of a hundred
//! thousand rules formats nothing.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::violation::{Violation, Warning};

/// The place of an object in the document.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    within: Option<&'a At<'a>>,
    list: &'static str,
    index: usize,
    kind: &'static str,
    name: &'a str,
}

impl<'a> At<'a> {
    /// An object of one of the document's lists.
    pub fn new(list: &'static str, index: usize, kind: &'static str, name: &'a str) -> Self {
        Self { within: None, list, index, kind, name }
    }

    /// An object in a list of this one.
    pub fn inner<'b>(&'b self, list: &'static str, index: usize, kind: &'static str, name: &'b str) -> At<'b> {
        At { within: Some(self), list, index, kind, name }
    }

    fn object(&self) -> String {
        let name = if self.name.is_empty() {
            format!("{} number {}", self.kind, self.index + 1)
        } else {
            format!("{} {}", self.kind, self.name)
        };
        match self.within {
            Some(outer) => format!("{}, {name}", outer.object()),
            None => name,
        }
    }

    fn path(&self) -> String {
        match self.within {
            Some(outer) => format!("{}.{}[{}]", outer.path(), self.list, self.index),
            None => format!("{}[{}]", self.list, self.index),
        }
    }

    fn field(&self, field: impl Display) -> String {
        format!("{}.{field}", self.path())
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<Violation>,
    pub warnings: Vec<Warning>,
}

impl Report {
    /// Refuses a field.
    pub fn refuse(&mut self, at: &At<'_>, field: impl Display, found: impl Display, allowed: impl Display) {
        self.violations.push(Violation {
            object: at.object(),
            field: at.field(field),
            found: found.to_string(),
            allowed: allowed.to_string(),
        });
    }

    /// Refuses a field of the document itself.
    pub fn refuse_document(&mut self, field: &str, found: impl Display, allowed: impl Display) {
        self.violations.push(Violation {
            object: "document".to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            allowed: allowed.to_string(),
        });
    }

    /// Says a word about a field.
    pub fn warn(&mut self, at: &At<'_>, field: impl Display, message: impl Display) {
        self.warnings.push(Warning { field: at.field(field), message: message.to_string() });
    }

    /// Reads a word, or refuses it.
    pub fn word<T>(
        &mut self,
        at: &At<'_>,
        field: impl Display,
        text: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(text) {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.refuse(at, field, quoted(text), allowed);
                None
            }
        }
    }

    /// Reads a list of words; bad ones are refused and left out.
    pub fn words<T>(
        &mut self,
        at: &At<'_>,
        field: &str,
        list: &[String],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            values.extend(self.word(at, format_args!("{field}[{index}]"), text, &read));
        }
        values
    }

    /// Reads one of these words; an empty one means the default, if there is one.
    pub fn choice<T: Copy>(
        &mut self,
        at: &At<'_>,
        field: impl Display,
        text: &str,
        default: Option<T>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        if let (true, Some(default)) = (text.is_empty(), default) {
            return Some(default);
        }
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            self.refuse(at, field, quoted(text), choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "));
        }
        chosen
    }

    /// Refuses a number outside of the range.
    pub fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        at: &At<'_>,
        field: impl Display,
        found: T,
        allowed: RangeInclusive<T>,
        unit: &str,
    ) -> Option<T> {
        if allowed.contains(&found) {
            return Some(found);
        }
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        self.refuse(at, field, found, format!("{} to {}{unit}", allowed.start(), allowed.end()));
        None
    }
}

/// A word as it stands in the document.
pub fn quoted(text: &str) -> String {
    if text.is_empty() { "missing".to_owned() } else { format!("\"{text}\"") }
}

/// The names of one kind of objects.
#[derive(Debug)]
pub struct Names<'a> {
    kind: &'static str,
    index: HashMap<&'a str, usize>,
}

impl<'a> Names<'a> {
    /// Most names that an error lists.
    const LISTED: usize = 8;

    /// Checks the names of a list and that each is there once.
    pub fn new(
        report: &mut Report,
        kind: &'static str,
        names: impl Iterator<Item = &'a str>,
        at: impl Fn(usize, &'a str) -> At<'a>,
    ) -> Self {
        let mut index: HashMap<&'a str, usize> = HashMap::new();
        for (place, name) in names.enumerate() {
            let at = at(place, name);
            report.word(&at, "name", name, super::words::name);
            if let Some(first) = index.get(name).filter(|_| !name.is_empty()) {
                let found = format!("\"{name}\", the name of {} number {} as well", kind, first + 1);
                report.refuse(&at, "name", found, format!("a name of its own for each {kind}"));
            } else {
                index.insert(name, place);
            }
        }
        Self { kind, index }
    }

    /// The object's index in its list, or a violation.
    pub fn find(&self, report: &mut Report, at: &At<'_>, field: impl Display, name: &str) -> Option<usize> {
        let found = self.index.get(name).copied();
        if found.is_none() {
            let mut names: Vec<&str> = self.index.keys().copied().filter(|name| !name.is_empty()).collect();
            names.sort_unstable();
            let a_kind = if self.kind == "interface" { "an interface" } else { &format!("a {}", self.kind) };
            let allowed = match names.len() {
                0 => format!("the name of {a_kind}, and there is no {}", self.kind),
                1..=Self::LISTED => format!("the name of {a_kind}: {}", names.join(", ")),
                more => format!("the name of one of the {more} objects of kind {}", self.kind),
            };
            report.refuse(at, field, quoted(name), allowed);
        }
        found
    }
}
