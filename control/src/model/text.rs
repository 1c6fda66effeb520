//! Documents as text: YAML and JSON in, YAML and JSON out.

use std::fmt;

use marchproxy_proto::v1::Document;
use serde::Deserialize;
use serde_path_to_error::Track;

/// Text that is no document: where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Line from 1; 0 where the text as a whole is meant.
    pub line: u64,
    /// Column from 1; 0 where the text as a whole is meant.
    pub column: u64,
    /// The path of the field, lists by index from 0; empty at the top.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub why: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.why)
    }
}

/// A document that could not be written as text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document cannot be written as {format}: {why}")]
pub struct RenderError {
    format: &'static str,
    why: String,
}

/// Reads a document. Text that begins with `{` is tried as JSON first, which is an order of magnitude faster than YAML.
pub fn parse(text: &str) -> Result<Document, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        let why = "the document is empty; it begins with `api_version: marchproxy/v1`".to_owned();
        return Err(ParseError { line: 0, column: 0, field: String::new(), why });
    }
    if !text.trim_start().starts_with('{') {
        return yaml(text);
    }
    match json(text) {
        Ok(document) => Ok(document),
        // A flow mapping of YAML begins with a brace, too.
        Err((error, Fault::Syntax)) => yaml(text).map_err(|other| if quotes_keys(text) { error } else { other }),
        Err((error, Fault::Content)) => Err(error),
    }
}

/// The document as YAML.
pub fn to_yaml(document: &Document) -> Result<String, RenderError> {
    serde_saphyr::to_string(document).map_err(|error| RenderError { format: "YAML", why: error.to_string() })
}

/// The document as JSON, indented.
pub fn to_json(document: &Document) -> Result<String, RenderError> {
    serde_json::to_string_pretty(document).map_err(|error| RenderError { format: "JSON", why: error.to_string() })
}

enum Fault {
    Syntax,
    Content,
}

fn quotes_keys(text: &str) -> bool {
    text.trim_start().trim_start_matches('{').trim_start().starts_with('"')
}

fn json(text: &str) -> Result<Document, (ParseError, Fault)> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    let found = Document::deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track))
        .and_then(|document| reader.end().map(|()| document));
    found.map_err(|error| {
        let fault = if error.is_data() { Fault::Content } else { Fault::Syntax };
        let position = format!(" at line {} column {}", error.line(), error.column());
        let why = error.to_string().replace(&position, "");
        (ParseError { line: error.line() as u64, column: error.column() as u64, field: path(track), why }, fault)
    })
}

fn yaml(text: &str) -> Result<Document, ParseError> {
    let options = serde_saphyr::options! {
        // Documents have hundreds of thousands of objects; what a document may not do is multiply itself by aliases, and the
        // limits on those stay. The text's own length bounds the rest.
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_documents: 1,
        },
        // `no` and `on` are words (a table, a name), not answers; `010` and `1_000` are no numbers.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let mut track = Track::new();
    let found = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Document::deserialize(serde_path_to_error::Deserializer::new(reader, &mut track))
    });
    found.map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        // The message ends with the place, which stands in front here.
        let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        let why = text.split(" at line ").next().unwrap_or(&text).trim().to_owned();
        ParseError { line, column, field: path(track), why }
    })
}

fn path(track: Track) -> String {
    match track.path().to_string().as_str() {
        "." => String::new(),
        path => path.to_owned(),
    }
}
