//! Mutated documents through parse, validation and compilation: nothing panics, and every complaint says where.
//!
//! `MARCHPROXY_FUZZ_DOCUMENTS` says how many (3,000 unless given), `MARCHPROXY_FUZZ_SEED` repeats the document that a failure names.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

use std::collections::BTreeMap;
use std::panic::{catch_unwind, resume_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use marchproxy_control::compile::compile;
use marchproxy_control::model::{parse, to_json, validate};
use marchproxy_proto::v1::Document;

const EXAMPLES: [&str; 3] = [
    include_str!("../../deploy/examples/quickstart.yaml"),
    include_str!("../../deploy/examples/reference.yaml"),
    include_str!("../../deploy/examples/rules.yaml"),
];

/// What stands in the place of a word of a document: borders of numbers, other types, names of nothing, bad addresses, YAML's own marks.
const WORDS: [&str; 56] = [
    "",
    "~",
    "true",
    "-1",
    "0",
    "1",
    "63",
    "64",
    "128",
    "129",
    "4095",
    "4096",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e400",
    ".nan",
    "-.inf",
    "0.0000001",
    "99999999999",
    "\"80-79\"",
    "\"0-65535\"",
    "[]",
    "{}",
    "[~]",
    "[[]]",
    "nobody",
    "main",
    "\"\"",
    "\"\\0\"",
    "ü𝛼",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.1/33",
    "::1/129",
    "10.0.0.1",
    "203.0.113.10",
    "::ffff:1.2.3.4",
    "ff02::1",
    "fe80::1",
    "255.255.255.255",
    "lan20",
    "wan0",
    "edge-1",
    "tcp",
    "icmp",
    "icmpv6",
    "full_nat",
    "dsr_gue",
    "draining",
    "&a x",
    "*a",
    "!!binary x",
    "? x",
];

/// Random numbers (splitmix64): one seed, one sequence.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Less than `n`; 0 where there is nothing less.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn mutated(seed: u64) -> String {
    let mut dice = Dice(seed);
    let mut text = dice.pick(&EXAMPLES).to_owned();
    // JSON takes another reader.
    if dice.below(6) == 0 {
        text = to_json(&parse(&text).unwrap()).unwrap();
    }
    for _ in 0..1 + dice.below(4) {
        once(&mut dice, &mut text);
    }
    text
}

fn once(dice: &mut Dice, text: &mut String) {
    let lines: Vec<&str> = text.lines().collect();
    let line = dice.below(lines.len());
    let whole = |lines: Vec<&str>| lines.join("\n") + "\n";
    match dice.below(10) {
        0..5 => word(dice, text),
        5 => {
            let (from, to) = (dice.below(lines.len()), dice.below(lines.len()));
            let mut lines = lines;
            if from < lines.len() {
                let moved = lines[from];
                lines.insert(to, moved);
            }
            *text = whole(lines);
        }
        6 => {
            let mut lines = lines;
            lines.drain(line..(line + 1 + dice.below(3)).min(lines.len()));
            *text = whole(lines);
        }
        7 => {
            let other = dice.pick(&EXAMPLES);
            let tail: Vec<&str> = other.lines().skip(dice.below(40)).collect();
            let mut lines = lines;
            lines.truncate(line);
            lines.extend(tail);
            *text = whole(lines);
        }
        8 => {
            let at = border(text, dice.below(text.len() + 1));
            text.insert_str(
                at,
                dice.pick(&[
                    "{", "}", "[", "]", ":", "-", "\t", "\n", "#", "\"", "'", "  ", "|", ">", "%", "\0", "---\n",
                ]),
            );
        }
        _ => text.truncate(border(text, dice.below(text.len() + 1))),
    }
}

/// Puts another word in the place of one: a value more often than a key.
fn word(dice: &mut Dice, text: &mut String) {
    let is_part = |c: char| c.is_alphanumeric() || "_./:\"%*=".contains(c);
    for _ in 0..20 {
        let at = border(text, dice.below(text.len()));
        let from =
            text[..at].rfind(|c| !is_part(c)).map_or(0, |n| n + text[n..].chars().next().map_or(1, char::len_utf8));
        let to = text[at..].find(|c| !is_part(c)).map_or(text.len(), |n| at + n);
        if from < to && (!text[from..to].ends_with(':') || dice.below(8) == 0) {
            return text.replace_range(from..to, dice.pick(&WORDS));
        }
    }
}

/// The nearest place not behind this one where a character begins.
fn border(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Whether a path begins with a list of the document and an object in it, or with one of its own fields.
fn leads_into(field: &str, document: &Document) -> bool {
    let lengths = BTreeMap::from([
        ("nodes", document.nodes.len()),
        ("interfaces", document.interfaces.len()),
        ("routes", document.routes.len()),
        ("rules", document.rules.len()),
        ("services", document.services.len()),
        ("policers", document.policers.len()),
        ("qos", document.qos.len()),
    ]);
    if matches!(field, "api_version" | "cluster") {
        return true;
    }
    let Some((list, (index, rest))) =
        field.split_once('[').and_then(|(list, rest)| Some((list, rest.split_once(']')?)))
    else {
        return false;
    };
    let known = lengths.get(list).is_some_and(|length| index.parse::<usize>().is_ok_and(|index| index < *length));
    known && rest.strip_prefix('.').is_some_and(|rest| !rest.is_empty())
}

/// What becomes of a document: unreadable, refused or compiled.
fn judge(text: &str) -> &'static str {
    let document = match parse(text) {
        Ok(document) => document,
        Err(error) => {
            let placed =
                error.line > 0 || !error.field.is_empty() || text.trim().is_empty() || error.why.contains("empty");
            assert!(placed && !error.why.is_empty(), "an error without a place: {error:?}");
            return "unreadable";
        }
    };
    match validate(&document) {
        Err(violations) => {
            assert!(!violations.is_empty());
            for violation in &violations {
                assert!(leads_into(&violation.field, &document), "no field: {violation:?}");
                assert!(!violation.object.is_empty() || !violation.field.contains('['), "no object: {violation:?}");
                assert!(
                    !violation.found.is_empty() && !violation.allowed.is_empty(),
                    "found or allowed is missing: {violation:?}"
                );
            }
            "refused"
        }
        Ok((model, warnings)) => {
            for warning in &warnings {
                assert!(leads_into(&warning.field, &document) && !warning.message.is_empty(), "no field: {warning:?}");
            }
            for node in document.nodes.iter().map(|node| node.name.as_str()).chain(["nobody"]) {
                compile(&model, node);
            }
            "compiled"
        }
    }
}

#[test]
fn mutated_documents_are_judged_with_their_fields_named() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (first, count) = (number("MARCHPROXY_FUZZ_SEED").unwrap_or(now), number("MARCHPROXY_FUZZ_DOCUMENTS"));
    let count = count.unwrap_or(3000);
    let mut judged = BTreeMap::new();
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        let text = mutated(seed);
        match catch_unwind(|| judge(&text)) {
            Ok(verdict) => *judged.entry(verdict).or_insert(0u64) += 1,
            Err(panic) => {
                eprintln!("MARCHPROXY_FUZZ_SEED={seed} repeats it. The document:\n{text}");
                resume_unwind(panic);
            }
        }
    }
    println!("{count} documents from seed {first}: {judged:?}");
    if count >= 1000 {
        assert!(judged.len() == 3 && judged.values().all(|n| *n > count / 20), "{judged:?}");
    }
}
