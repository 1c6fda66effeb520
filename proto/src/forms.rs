//! How the fields of a document may be spelled in YAML and JSON, and the one spelling they are written in.
//!
//! Reading is generous where people are: one word where a list is meant, a number where a word is meant, nothing where a list
//! is meant. Writing is not: what is empty is left out, a word that is a number is written as one.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::v1::ColourAction;

/// A word, or a number in its place (`AF41`, `10`).
pub mod word_or_number {
    use super::{Deserializer, Serializer, Word};
    use serde::{Deserialize, Serialize};

    /// Writes a number as a number.
    pub fn serialize<S: Serializer>(word: &str, serializer: S) -> Result<S::Ok, S::Error> {
        super::WordOut(word).serialize(serializer)
    }

    /// Reads either as text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Ok(Word::deserialize(deserializer)?.0)
    }
}

/// A list of words, or one word.
pub mod words {
    use super::{Deserializer, OneOrMany, Serializer};
    use serde::Serialize;

    /// Writes a list.
    pub fn serialize<S: Serializer>(words: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        words.serialize(serializer)
    }

    /// Reads either.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_any(OneOrMany { numbers: false })
    }
}

/// A list of words and numbers, or one of them (`[80, "8000-8099"]`, `all`).
pub mod words_or_numbers {
    use super::{Deserializer, OneOrMany, SerializeSeq, Serializer, WordOut};

    /// Writes a list, numbers as numbers.
    pub fn serialize<S: Serializer>(words: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(words.len()))?;
        for word in words {
            list.serialize_element(&WordOut(word))?;
        }
        list.end()
    }

    /// Reads either.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_any(OneOrMany { numbers: true })
    }
}

/// A list, or nothing (`rules:` with no rule below it).
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Labels, their values words or numbers.
pub fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let labels: Option<BTreeMap<String, Word>> = Option::deserialize(deserializer)?;
    Ok(labels.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect())
}

/// A number that may have a fraction, written without one where it has none.
pub fn decimal<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    /// Up to here every integer is exactly a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match *value {
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => serializer.serialize_i64(value as i64),
        Some(value) => serializer.serialize_f64(value),
        None => serializer.serialize_none(),
    }
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
pub fn is_false(flag: &bool) -> bool {
    !*flag
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
pub fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// For `skip_serializing_if`.
pub fn no_labels(labels: &BTreeMap<String, String>) -> bool {
    labels.is_empty()
}

/// The kinds of [`ColourAction`] that say which.
const COLOUR_WORDS: [&str; 2] = ["mark", "class"];

/// `pass`, `drop`, `{mark: AF12}` or `{class: P3}`. Other words are kept: validation refuses them with the field's path.
impl Serialize for ColourAction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if COLOUR_WORDS.contains(&self.kind.as_str()) {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(&self.kind, &WordOut(&self.mark))?;
            map.end()
        } else {
            serializer.serialize_str(&self.kind)
        }
    }
}

impl<'de> Deserialize<'de> for ColourAction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColourVisitor)
    }
}

struct ColourVisitor;

impl<'de> Visitor<'de> for ColourVisitor {
    type Value = ColourAction;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pass, drop, {mark: DSCP or CE} or {class: CLASS}")
    }

    fn visit_str<E: de::Error>(self, kind: &str) -> Result<ColourAction, E> {
        Ok(ColourAction { kind: kind.to_owned(), mark: String::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ColourAction, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if !COLOUR_WORDS.contains(&key.as_str()) {
                return Err(de::Error::unknown_field(&key, &COLOUR_WORDS));
            }
            if found.replace((key, map.next_value::<Word>()?.0)).is_some() {
                return Err(de::Error::custom("a colour has one action: mark or class"));
            }
        }
        let (kind, mark) = found.ok_or_else(|| de::Error::missing_field("mark"))?;
        Ok(ColourAction { kind, mark })
    }
}

/// A word that is written as a number where it is one.
struct WordOut<'a>(&'a str);

impl Serialize for WordOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            // "007" and "+7" stay words, or they would not come back as they were.
            Ok(number) if number.to_string() == self.0 => serializer.serialize_u64(number),
            _ => serializer.serialize_str(self.0),
        }
    }
}

/// A word or a number, as text.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor).map(Word)
    }
}

struct WordVisitor;

impl Visitor<'_> for WordVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word or a whole number")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<String, E> {
        Ok(word.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// A list of words, one word, or nothing.
struct OneOrMany {
    numbers: bool,
}

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.numbers {
            "a word, a whole number, or a list of them"
        } else {
            "a word or a list of words"
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Vec<String>, E> {
        Ok(Vec::new())
    }

    fn visit_none<E: de::Error>(self) -> Result<Vec<String>, E> {
        Ok(Vec::new())
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Vec<String>, E> {
        Ok(vec![word.to_owned()])
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<String>, E> {
        if self.numbers {
            Ok(vec![number.to_string()])
        } else {
            Err(E::invalid_type(de::Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut words = Vec::new();
        if self.numbers {
            while let Some(Word(word)) = list.next_element()? {
                words.push(word);
            }
        } else {
            while let Some(word) = list.next_element()? {
                words.push(word);
            }
        }
        Ok(words)
    }
}
