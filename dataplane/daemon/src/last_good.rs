//! The last tables that every worker ran, on disk: a node that starts while control is away comes up with them.
//!
//! Layout: 8 bytes magic, u32 format version, u64 payload length (both little endian), SHA-256 of the payload, payload (a
//! protobuf message). Written to a temporary file, synced, renamed: a crash leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marchproxy_proto::tables::EncodedGroup;
use prost::Message;
use prost::bytes::Bytes;

use crate::groups::{content_hash, group, hex, sha256};
use crate::runtime::ContentHash;

const MAGIC: &[u8; 8] = b"MPTABLES";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 32;

/// Tables as they were confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood {
    /// Control's number.
    pub version: u64,
    /// Hash over the groups.
    pub content_hash: ContentHash,
    /// Encoded groups in order.
    pub groups: Arc<[EncodedGroup]>,
}

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(bytes = "vec", tag = "4")]
    content_hash: Vec<u8>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    groups: Vec<Bytes>,
    #[prost(string, tag = "6")]
    software: String,
}

/// Why the file is not used.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It does not begin as our files do.
    #[error("{path}: not a file of last good tables (it begins with {found})")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// Another release wrote it.
    #[error("{path}: format version {found}, allowed: {FORMAT}; another release of marchproxy-dataplane wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is shorter or longer than it says.
    #[error("{path}: {found} bytes of tables, its header says {wanted}: the file is damaged")]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Bytes promised.
        wanted: u64,
    },
    /// Its content changed since it was written.
    #[error("{path}: the checksum does not match: the file is damaged")]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// It is sound, but not what it should be.
    #[error("{path}: {field}: found {found}, allowed: {allowed}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: String,
    },
}

/// Where the file lies and whom it is for.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    cluster: String,
    node: String,
}

impl Store {
    /// The store of a node inside its state directory.
    pub fn new(state_dir: &Path, cluster: &str, node: &str) -> Self {
        Self { path: state_dir.join("last-good.tables"), cluster: cluster.into(), node: node.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file as a whole.
    pub fn save(&self, tables: &LastGood) -> io::Result<()> {
        let payload = Payload {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            version: tables.version,
            content_hash: tables.content_hash.clone(),
            groups: tables.groups.iter().map(|group| group.bytes.clone()).collect(),
            software: env!("CARGO_PKG_VERSION").into(),
        }
        .encode_to_vec();
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        header.extend_from_slice(&sha256(&payload));
        replace(&self.path, &[&header, &payload], 0o600)
    }

    /// Reads the file; `None` when there is none yet.
    pub fn load(&self) -> Result<Option<LastGood>, LastGoodError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LastGoodError::Read { path: self.path.clone(), source }),
        };
        self.parse(&bytes).map(Some)
    }

    fn parse(&self, bytes: &[u8]) -> Result<LastGood, LastGoodError> {
        let path = || self.path.clone();
        let Some((magic, rest)) = bytes.split_first_chunk::<8>().filter(|(magic, _)| *magic == MAGIC) else {
            let found = format!("{:?}", String::from_utf8_lossy(bytes.get(..8).unwrap_or(bytes)));
            return Err(LastGoodError::NotOurs { path: path(), found });
        };
        debug_assert_eq!(magic, MAGIC);
        let short = LastGoodError::Length { path: path(), found: 0, wanted: HEADER as u64 };
        let Some((format, rest)) = rest.split_first_chunk::<4>() else { return Err(short) };
        let found = u32::from_le_bytes(*format);
        if found != FORMAT {
            return Err(LastGoodError::Format { path: path(), found });
        }
        let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Err(short) };
        let Some((checksum, payload)) = rest.split_first_chunk::<32>() else { return Err(short) };
        let (found, wanted) = (payload.len() as u64, u64::from_le_bytes(*length));
        if found != wanted {
            return Err(LastGoodError::Length { path: path(), found, wanted });
        }
        if sha256(payload) != checksum {
            return Err(LastGoodError::Checksum { path: path() });
        }
        let content = |field, found: String, allowed: &str| LastGoodError::Content {
            path: path(),
            field,
            found,
            allowed: allowed.to_owned(),
        };
        let payload = Payload::decode(payload)
            .map_err(|error| content("payload", error.to_string(), "the message this release writes"))?;
        if payload.cluster != self.cluster {
            return Err(content("cluster", format!("{:?}", payload.cluster), &format!("{:?}", self.cluster)));
        }
        if payload.node != self.node {
            return Err(content("node", format!("{:?}", payload.node), &format!("{:?}", self.node)));
        }
        // How many objects are in a group is told by offers alone.
        let groups: Arc<[EncodedGroup]> = payload.groups.into_iter().map(|encoded| group(encoded, 0)).collect();
        let wanted = content_hash(groups.iter().map(|group| group.hash.as_slice()));
        if payload.content_hash != wanted {
            return Err(content("content_hash", hex(&payload.content_hash), &hex(&wanted)));
        }
        Ok(LastGood { version: payload.version, content_hash: payload.content_hash, groups })
    }
}

/// Writes a file so that readers (and a crash) see the old content or the new one, never less.
pub fn replace(path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    // A left-over of a crash may have other permissions; a fresh file has ours from its first byte on.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tables() -> LastGood {
        let groups: Arc<[EncodedGroup]> =
            [&b"ports"[..], b"rules"].map(|encoded| group(Bytes::from_static(encoded), 0)).into();
        LastGood { version: 7, content_hash: content_hash(groups.iter().map(|group| group.hash.as_slice())), groups }
    }

    #[test]
    fn what_was_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "default", "edge-1");
        assert_eq!(store.load().unwrap(), None);
        store.save(&tables()).unwrap();
        assert_eq!(store.load().unwrap(), Some(tables()));
        assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let newer = LastGood { version: 8, ..tables() };
        store.save(&newer).unwrap();
        assert_eq!(store.load().unwrap(), Some(newer));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn damage_and_strangers_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "default", "edge-1");
        store.save(&tables()).unwrap();
        let good = fs::read(store.path()).unwrap();
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        let sealed = |payload: Payload| {
            let payload = payload.encode_to_vec();
            let mut bytes = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &(payload.len() as u64).to_le_bytes()].concat();
            bytes.extend(sha256(&payload));
            bytes.extend(payload);
            bytes
        };
        let payload = Payload { cluster: "default".into(), node: "edge-1".into(), ..Payload::default() };
        let table: Vec<(&str, Vec<u8>, &str)> = vec![
            ("empty", vec![], "not a file of last good tables"),
            ("another file", b"#!/bin/sh\n".to_vec(), "begins with \"#!/bin/s\""),
            ("header cut", good[..30].to_vec(), "its header says"),
            ("tail cut", good[..good.len() - 1].to_vec(), "the file is damaged"),
            ("tail grown", [good.clone(), vec![0]].concat(), "the file is damaged"),
            ("one bit", change(good.len() - 3, good[good.len() - 3] ^ 1), "checksum does not match"),
            ("checksum bit", change(21, good[21] ^ 1), "checksum does not match"),
            ("newer release", change(8, 2), "format version 2, allowed: 1"),
            (
                "other cluster",
                sealed(Payload { cluster: "blue".into(), ..payload.clone() }),
                "cluster: found \"blue\", allowed: \"default\"",
            ),
            (
                "other node",
                sealed(Payload { node: "edge-2".into(), ..payload.clone() }),
                "node: found \"edge-2\", allowed: \"edge-1\"",
            ),
            ("hash", sealed(Payload { content_hash: vec![1], ..payload }), "content_hash: found 01"),
            (
                "no message",
                {
                    let mut b = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &1u64.to_le_bytes()].concat();
                    b.extend(sha256(&[255]));
                    b.push(255);
                    b
                },
                "payload: found",
            ),
        ];
        for (name, bytes, wanted) in table {
            fs::write(store.path(), bytes).unwrap();
            let error = store.load().expect_err(name).to_string();
            assert!(error.contains(wanted) && error.contains("last-good.tables"), "{name}: {error}");
        }
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "default", "edge-1");
        fs::create_dir(store.path()).unwrap();
        assert!(matches!(store.load(), Err(LastGoodError::Read { .. })));
    }
}
