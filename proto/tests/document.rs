//! The forms of a document, read and written.

use marchproxy_proto::v1::{ColourAction, Document};
use serde_json::{Value, json};

fn read(value: Value) -> Result<Document, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// (what is read, what is written)
fn forms() -> Vec<(Value, Value)> {
    vec![
        (json!({}), json!({})),
        (json!({"rules": null, "nodes": []}), json!({})),
        (
            json!({"services": [{"name": "web", "address": "203.0.113.10", "ports": 80}]}),
            json!({"services": [{"name": "web", "address": ["203.0.113.10"], "ports": [80]}]}),
        ),
        (
            json!({"services": [{"name": "web", "address": ["::1", "1.1.1.1"], "ports": ["80", "8000-8099", 443]}]}),
            json!({"services": [{"name": "web", "address": ["::1", "1.1.1.1"], "ports": [80, "8000-8099", 443]}]}),
        ),
        (
            json!({"rules": [{"name": "r", "priority": 5, "match": {"protocol": 47, "in": "wan0"}, "mark": 10}]}),
            json!({"rules": [{"name": "r", "priority": 5, "match": {"protocol": 47, "in": "wan0"}, "mark": 10}]}),
        ),
        (
            json!({"rules": [{"name": "r", "match": {"protocol": "6", "src": "10.0.0.0/8"}, "mark": "AF41"}]}),
            json!({"rules": [{"name": "r", "priority": 0, "match": {"protocol": 6, "src": ["10.0.0.0/8"]}, "mark": "AF41"}]}),
        ),
        (
            json!({"policers": [{"name": "p", "cir_kbps": 5, "on_green": "pass", "on_yellow": {"mark": "AF12"}, "on_red": "drop"}]}),
            json!({"policers": [{"name": "p", "cir_kbps": 5, "on_green": "pass", "on_yellow": {"mark": "AF12"}, "on_red": "drop"}]}),
        ),
        (
            json!({"nodes": [{"name": "n", "labels": {"site": "fra", "rack": 7}, "ports": null}]}),
            json!({"nodes": [{"name": "n", "labels": {"rack": "7", "site": "fra"}}]}),
        ),
        (
            json!({"services": [{"health": {"interval_s": 2.0, "timeout_s": 0.5}}]}),
            json!({"services": [{"health": {"interval_s": 2, "timeout_s": 0.5}}]}),
        ),
    ]
}

#[test]
fn what_is_read_is_written_in_one_form_and_read_again() {
    for (read_from, written) in forms() {
        let document = read(read_from.clone()).unwrap_or_else(|error| panic!("{read_from}: {error}"));
        assert_eq!(serde_json::to_value(&document).unwrap(), written);
        assert_eq!(read(written).unwrap(), document);
    }
}

#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    let cases = [
        (json!({"rulez": []}), "unknown field `rulez`"),
        (json!({"nodes": [{"ports": [{"mtv": 1500}]}]}), "unknown field `mtv`"),
        (json!({"rules": [{"match": {"in_interface": "x"}}]}), "unknown field `in_interface`"),
        (json!({"rules": [{"priority": -1}]}), "invalid value: integer `-1`, expected u32"),
        (json!({"rules": [{"mark": [1]}]}), "expected a word or a whole number"),
        (json!({"services": [{"ports": {"from": 1}}]}), "expected a word, a whole number, or a list of them"),
        (json!({"services": [{"address": 7}]}), "expected a word or a list of words"),
        (json!({"policers": [{"on_red": {"remark": "EF"}}]}), "unknown field `remark`, expected `mark`"),
        (json!({"policers": [{"on_red": {}}]}), "missing field `mark`"),
        (json!({"policers": [{"on_red": 3}]}), "expected pass, drop, {mark: DSCP or CE} or {class: CLASS}"),
    ];
    for (value, expected) in cases {
        let error = read(value.clone()).unwrap_err();
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn unknown_colour_words_are_kept_for_validation() {
    let document = read(json!({"policers": [{"on_red": "explode"}]})).unwrap();
    let expected = ColourAction { kind: "explode".to_owned(), mark: String::new() };
    assert_eq!(document.policers[0].on_red, Some(expected));
}
