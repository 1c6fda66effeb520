//! Table groups by hash: what the node has need not be sent again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::tables::{self, EncodedGroup, Hash};
use marchproxy_proto::v1;
use prost::Message;
use prost::bytes::Bytes;

use crate::runtime::ContentHash;

/// Length of a SHA-256.
const HASH: usize = size_of::<Hash>();

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// A group as it came, with its hash.
pub fn group(bytes: Bytes, objects: u32) -> EncodedGroup {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    EncodedGroup { hash, bytes, objects }
}

/// SHA-256 over the groups' hashes in order.
pub fn content_hash<'a>(hashes: impl Iterator<Item = &'a [u8]>) -> ContentHash {
    let all: Vec<u8> = hashes.flatten().copied().collect();
    sha256(&all)
}

/// The encoded groups the node holds: those of the tables that run, and those on their way.
#[derive(Debug, Default)]
pub struct Cache {
    groups: HashMap<Vec<u8>, Bytes>,
}

impl Cache {
    /// Takes a group if it is what its hash says.
    pub fn insert(&mut self, group: v1::TableGroup) -> Result<(), String> {
        if sha256(&group.encoded) != group.hash {
            return Err(format!("table group {}: its content does not have that SHA-256", hex(&group.hash)));
        }
        self.groups.insert(group.hash, group.encoded.into());
        Ok(())
    }

    /// The hashes of an offer that are not here, each once.
    pub fn missing(&self, offer: &v1::TablesOffer) -> Vec<Vec<u8>> {
        let mut seen = HashSet::new();
        let groups = offer.groups.iter().filter(|group| !self.groups.contains_key(&group.hash));
        groups.filter(|group| seen.insert(&group.hash)).map(|group| group.hash.clone()).collect()
    }

    /// The groups of an offer in order; `None` while one is missing.
    pub fn collect(&self, offer: &v1::TablesOffer) -> Option<Arc<[EncodedGroup]>> {
        let group = |group: &v1::GroupRef| {
            let hash = group.hash.as_slice().try_into().ok()?;
            Some(EncodedGroup { hash, bytes: self.groups.get(&group.hash)?.clone(), objects: group.objects })
        };
        offer.groups.iter().map(group).collect()
    }

    /// Keeps these groups and forgets all others.
    pub fn keep<'a>(&mut self, groups: impl IntoIterator<Item = &'a EncodedGroup>) {
        self.groups = groups.into_iter().map(|group| (group.hash.to_vec(), group.bytes.clone())).collect();
    }
}

/// Whether an offer is sound in itself.
pub fn check_offer(offer: &v1::TablesOffer) -> Result<(), String> {
    if let Some(group) = offer.groups.iter().find(|group| group.hash.len() != HASH) {
        return Err(format!("table group {}: a hash of {} bytes, allowed: {HASH}", hex(&group.hash), group.hash.len()));
    }
    if content_hash(offer.groups.iter().map(|group| group.hash.as_slice())) != offer.content_hash {
        return Err(format!("content hash {} is not the hash of the offered groups", hex(&offer.content_hash)));
    }
    Ok(())
}

/// The engine's tables from encoded groups; the error names object, field, found and allowed.
pub fn decode<G: AsRef<[u8]>>(groups: &[G]) -> Result<RuleTables, String> {
    let groups: Vec<v1::Group> = groups
        .iter()
        .map(|encoded| v1::Group::decode(encoded.as_ref()))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("table group: {error}"))?;
    tables::from_groups(&groups).map_err(|error| error.to_string())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(parts: &[&[u8]]) -> v1::TablesOffer {
        let groups: Vec<_> = parts.iter().map(|part| v1::GroupRef { hash: sha256(part), objects: 1 }).collect();
        let content_hash = content_hash(groups.iter().map(|group| group.hash.as_slice()));
        v1::TablesOffer { version: 1, content_hash, groups, ..v1::TablesOffer::default() }
    }

    fn group(part: &[u8]) -> v1::TableGroup {
        v1::TableGroup { hash: sha256(part), encoded: part.to_vec() }
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let mut cache = Cache::default();
        let both = offer(&[b"a", b"b", b"a"]);
        check_offer(&both).unwrap();
        assert_eq!(cache.missing(&both), [sha256(b"a"), sha256(b"b")]);
        cache.insert(group(b"a")).unwrap();
        assert_eq!(cache.missing(&both), [sha256(b"b")]);
        assert_eq!(cache.collect(&both), None);
        cache.insert(group(b"b")).unwrap();
        let collected = cache.collect(&both).unwrap();
        assert_eq!(collected.iter().map(|group| &*group.bytes).collect::<Vec<_>>(), [b"a", b"b", b"a"]);
        cache.keep(&collected[1..2]);
        assert_eq!(cache.missing(&both), [sha256(b"a")]);
    }

    #[test]
    fn false_hashes_are_refused() {
        let mut cache = Cache::default();
        let lie = v1::TableGroup { hash: sha256(b"a"), encoded: b"b".to_vec() };
        assert!(cache.insert(lie).unwrap_err().contains("does not have that SHA-256"));
        let mut bad = offer(&[b"a"]);
        bad.content_hash = vec![0; 32];
        assert!(check_offer(&bad).unwrap_err().contains("is not the hash of the offered groups"));
        let mut bad = offer(&[b"a"]);
        bad.groups[0].hash.pop();
        assert!(check_offer(&bad).unwrap_err().contains("a hash of 31 bytes, allowed: 32"));
    }
}
