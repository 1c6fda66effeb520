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
        let why = match text.split(" at line ").next().unwrap_or(&text).trim() {
            "invalid u32" => format!("a whole number of 0 to {} is allowed here", u32::MAX),
            "invalid u64" => "a whole number, 0 or more, is allowed here".to_owned(),
            why => why.to_owned(),
        };
        ParseError { line, column, field: path(track), why }
    })
}

fn path(track: Track) -> String {
    match track.path().to_string().as_str() {
        "." => String::new(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::objects;

    const SAMPLE: &str = include_str!("../../../deploy/examples/reference.yaml");

    #[test]
    fn the_sample_survives_both_languages() {
        let document = parse(SAMPLE).unwrap();
        assert_eq!(parse(&to_yaml(&document).unwrap()).unwrap(), document);
        assert_eq!(parse(&to_json(&document).unwrap()).unwrap(), document);
        assert_eq!(document.services[0].ports, ["80", "8000-8099"]);
        assert_eq!(document.interfaces[0].urpf, "loose");
        assert_eq!(document.rules[1].r#match.as_ref().unwrap().r#in, "wan0");
        assert!(to_json(&document).unwrap().contains("\"on_yellow\": {\n        \"mark\": \"AF12\"\n      }"));
        assert_eq!(objects(&document).len(), 11);
    }

    #[test]
    fn words_of_yaml_that_other_parsers_take_for_something_else() {
        let text = "rules:\n- {name: no, priority: 1, mark: 010, action: on}\n- {name: 1_0, priority: 2, action: ~}\n\
                    interfaces:\n- {name: off, urpf: off, port: yes, vlan: 5, trust_dscp: true}\n";
        let error = parse(text).unwrap_err();
        assert_eq!(error.field, "rules[1].action", "{error}");
        let document = parse(&text.replace('~', "deny")).unwrap();
        assert_eq!((document.rules[0].name.as_str(), document.rules[0].mark.as_str()), ("no", "010"));
        assert_eq!((document.rules[0].action.as_str(), document.rules[1].name.as_str()), ("on", "1_0"));
        assert_eq!((document.interfaces[0].urpf.as_str(), document.interfaces[0].port.as_str()), ("off", "yes"));
    }

    /// Found by a property test: JSON's reader must not round what its writer wrote.
    #[test]
    fn a_fraction_with_all_its_digits() {
        let text = "qos: [{name: q, priority: {max_latency_ms: 3939.5130082243722}}]";
        let document = parse(text).unwrap();
        assert_eq!(parse(&to_json(&document).unwrap()).unwrap(), document);
        assert_eq!(parse(&to_yaml(&document).unwrap()).unwrap(), document);
    }

    #[test]
    fn errors_say_where_and_what() {
        let cases = [
            ("", "the document is empty; it begins with `api_version: marchproxy/v1`"),
            ("# nothing\n\n", "the document is empty; it begins with `api_version: marchproxy/v1`"),
            (
                "rules:\n  - {name: a, prio: 1}\n",
                "line 2, column 15: rules[0].prio: unknown field `prio`, expected one of ",
            ),
            (
                "{\"rules\": [{\"name\": \"a\"}, {\"name\": \"b\", \"prio\": 1}]}",
                "line 1, column 46: rules[1].prio: unknown field `prio`, expected one of ",
            ),
            (
                "services:\n  - name: web\n    backends:\n      - {name: a, port: http}\n",
                "line 4, column 25: services[0].backends[0].port: a whole number of 0 to 4294967295 is allowed here",
            ),
            ("rules: [{name: a, name: b}]\n", "line 1, column 19: rules[0]"),
            (
                "rules: [{priority: -1}]\n",
                "line 1, column 20: rules[0].priority: a whole number of 0 to 4294967295 is allowed here",
            ),
            ("rules: [\n", "line 1, column 8: rules: unclosed bracket '['"),
            ("{\"rules\": [}", "line 1, column 12: rules[0]: expected value"),
            ("- a\n", "line 1, column 1: "),
        ];
        let found: Vec<String> = cases.iter().map(|(text, _)| parse(text).unwrap_err().to_string()).collect();
        let wrong: Vec<_> = std::iter::zip(&found, cases).filter(|(found, case)| !found.starts_with(case.1)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn aliases_cannot_multiply_a_document() {
        let level = |level: u32| {
            let last = format!("*a{}", level - 1);
            format!("a{level}: &a{level} [{}]\n", [last.as_str(); 9].join(", "))
        };
        let levels: String = (1..12).map(level).collect();
        let text = format!("a0: &a0 [x, x, x, x, x, x, x, x, x]\n{levels}");
        assert!(parse(&text).is_err());
        let text = format!("rules: &a\n  - {{name: a}}\nservices: [{}]\n", vec!["{address: *a}"; 100_000].join(", "));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn more_rules_than_parsers_expect() {
        let rules: Vec<String> = (0..20_000)
            .map(|number| {
                format!(
                    "{{name: r{number}, priority: {number}, match: {{src: 10.0.0.0/8, protocol: tcp, dst_ports: [{}]}}, action: deny}}",
                    number + 1
                )
            })
            .collect();
        let document = parse(&format!("rules:\n- {}\n", rules.join("\n- "))).unwrap();
        assert_eq!(document.rules.len(), 20_000);
        assert_eq!(parse(&to_json(&document).unwrap()).unwrap(), document);
    }
}
