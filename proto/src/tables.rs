//! The one translation between the engine's [`RuleTables`] and [`Group`]s, used by control's compiler and the node's agent.
//!
//! A group holds objects of one kind, at most [`OBJECTS_PER_GROUP`], and refers to other objects by name, so that its hash does not
//! change when an object elsewhere comes or goes. Where a group ends depends on its last object's key alone: a new object moves
//! no border but its own, and a push costs the groups that really changed. Equal tables are equal groups, byte for byte.

mod changes;
mod decode;
mod encode;

pub use changes::{RuleGroups, changed_rules, holds_rules};
pub use decode::from_groups;
pub use encode::to_groups;

use marchproxy_engine::tables::RuleTables;
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::v1::{Group, group};

/// Most objects a group may hold.
pub const OBJECTS_PER_GROUP: usize = 4096;

/// SHA-256.
pub type Hash = [u8; 32];

/// Tables that cannot be translated: which object, which field, what was found, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field} is {found}; allowed: {allowed}")]
pub struct TableError {
    /// `port wan`, `route 10.0.0.0/8 of table 0`, ...
    pub object: String,
    /// The field's name.
    pub field: String,
    /// What stood there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl TableError {
    #[allow(clippy::needless_pass_by_value)] // so that callers need no borrows on values made for the message
    fn new(object: impl ToString, field: &str, found: impl ToString, allowed: impl ToString) -> Self {
        Self {
            object: object.to_string(),
            field: field.to_owned(),
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }
}

/// A group as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedGroup {
    /// SHA-256 of `bytes`.
    pub hash: Hash,
    /// The encoded [`Group`]; tables that share it share these.
    pub bytes: Bytes,
    /// How many objects are in it.
    pub objects: u32,
}

impl AsRef<[u8]> for EncodedGroup {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl EncodedGroup {
    /// Encodes a group. The encoding is deterministic: no map, fields in order of their numbers.
    pub fn new(group: &Group) -> Self {
        let bytes = group.encode_to_vec();
        Self { hash: sha256(&bytes), bytes: bytes.into(), objects: objects(group) as u32 }
    }

    /// Decodes a group that came with this hash.
    pub fn decode(hash: &[u8], bytes: &[u8]) -> Result<Group, TableError> {
        let found = sha256(bytes);
        if hash != found {
            return Err(TableError::new("group", "hash", hex(&found), format!("{}, as announced", hex(hash))));
        }
        Group::decode(bytes).map_err(|error| TableError::new("group", "encoding", error, "a Group of marchproxy.v1"))
    }
}

/// Encodes tables for the wire.
pub fn encode(tables: &RuleTables) -> Result<Vec<EncodedGroup>, TableError> {
    Ok(to_groups(tables)?.iter().map(EncodedGroup::new).collect())
}

/// Decodes tables from the wire, [`encode`]'s inverse.
pub fn decode(groups: &[EncodedGroup]) -> Result<RuleTables, TableError> {
    let groups: Vec<Group> =
        groups.iter().map(|group| EncodedGroup::decode(&group.hash, &group.bytes)).collect::<Result<_, _>>()?;
    from_groups(&groups)
}

/// The hash of whole tables: SHA-256 over the hashes of their groups, in order.
pub fn content_hash<H: AsRef<[u8]>>(hashes: impl IntoIterator<Item = H>) -> Hash {
    let mut hasher = Sha256::new();
    for hash in hashes {
        hasher.update(hash);
    }
    hasher.finalize().into()
}

/// How many objects are in the group.
pub fn objects(group: &Group) -> usize {
    match &group.kind {
        Some(group::Kind::Ports(group)) => group.ports.len(),
        Some(group::Kind::Interfaces(group)) => group.interfaces.len(),
        Some(group::Kind::Routes(group)) => group.routes.len(),
        Some(group::Kind::Rules(group)) => group.rules.len(),
        Some(group::Kind::Services(group)) => group.services.len(),
        Some(group::Kind::Policers(group)) => group.policers.len(),
        Some(group::Kind::DscpMaps(group)) => group.dscp_maps.len(),
        Some(group::Kind::Shapers(group)) => group.shapers.len(),
        Some(group::Kind::Flows(_)) => 1,
        None => 0,
    }
}

fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
