//! What goes into the store and what comes out.

use marchproxy_proto::v1;

/// A stored document with the facts of its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Number of the version, from 1.
    pub version: u64,
    /// SHA-256 over the canonical objects, hexadecimal. Equal content has equal hashes, whatever the version.
    pub content_hash: String,
    /// The document, objects in canonical order.
    pub document: v1::Document,
    /// Who stored it.
    pub author: String,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// Why, in the author's words.
    pub message: String,
    /// The version whose content it restored, or 0.
    pub rollback_of: u64,
}

/// A version to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewVersion<'a> {
    /// The cluster it belongs to.
    pub cluster: &'a str,
    /// Refuse unless this is the newest version; 0 = there must be none.
    pub expected_version: Option<u64>,
    /// The content.
    pub document: &'a v1::Document,
    /// Who stores it.
    pub author: &'a str,
    /// Why.
    pub message: &'a str,
    /// The version whose content this restores, or 0.
    pub rollback_of: u64,
    /// A repeated id answers with the first call's version; empty = none.
    pub request_id: &'a str,
    /// Microseconds since 1970.
    pub now: i64,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// A new version was stored.
    New(VersionRow),
    /// The newest version already has this content; nothing but the audit row was written.
    Unchanged(VersionRow),
    /// The request id was seen before; this is what it led to then.
    Repeated(VersionRow),
}

/// A version without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// Number of the version, from 1.
    pub version: u64,
    /// See [`Stored::content_hash`].
    pub content_hash: String,
    /// Who stored it.
    pub author: String,
    /// When, in microseconds since 1970.
    pub at: i64,
    /// Why.
    pub message: String,
    /// The version whose content it restored, or 0.
    pub rollback_of: u64,
    /// How many objects the document has.
    pub objects: u64,
}

/// A one-time token to be stored; only the hash of its secret is kept.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// The cluster it admits to.
    pub cluster: &'a str,
    /// `node` or `operator`.
    pub role: &'a str,
    /// Name of the node or operator.
    pub name: &'a str,
    /// Hash of the secret.
    pub secret_hash: &'a [u8],
    /// Microseconds since 1970.
    pub expires: i64,
    /// Who made it.
    pub author: &'a str,
}

/// What a redeemed token admits to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The cluster.
    pub cluster: String,
    /// `node` or `operator`.
    pub role: String,
    /// Name of the node or operator.
    pub name: String,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRow {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The cluster it speaks for.
    pub cluster: String,
    /// `node` or `operator`.
    pub role: String,
    /// Name of the node or operator.
    pub name: String,
    /// Microseconds since 1970.
    pub not_after: i64,
    /// Microseconds since 1970, when it was revoked.
    pub revoked_at: Option<i64>,
}

/// Which certificates to revoke.
#[derive(Clone, Copy, Debug)]
pub enum Revoke<'a> {
    /// The one with this serial number.
    Serial(&'a str),
    /// All of one node or operator.
    Name {
        /// `node` or `operator`.
        role: &'a str,
        /// Name of the node or operator.
        name: &'a str,
    },
}
