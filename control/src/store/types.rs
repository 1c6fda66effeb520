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
    /// What the request asks for, so that its id can't be used for something else; empty = not compared.
    pub fingerprint: &'a str,
    /// Reverted unless confirmed within so many seconds; 0 = needs no confirmation.
    pub confirm_within_s: u32,
    /// Whether it may end the wait of a version that is not confirmed yet.
    pub ending: Ending,
    /// Microseconds since 1970.
    pub now: i64,
}

impl<'a> NewVersion<'a> {
    /// A version that expects, waits for and ends nothing, of no author.
    pub fn new(cluster: &'a str, document: &'a v1::Document, now: i64) -> NewVersion<'a> {
        NewVersion {
            cluster,
            expected_version: None,
            document,
            author: "",
            message: "",
            rollback_of: 0,
            request_id: "",
            fingerprint: "",
            confirm_within_s: 0,
            ending: Ending::Nothing,
            now,
        }
    }
}

/// What a new version does to one that waits for confirmation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is refused while one waits.
    #[default]
    Nothing,
    /// The waiting one, if there is one, counts as reverted.
    Any,
    /// This one counts as reverted; refused unless it waits.
    Version(u64),
}

/// How the rules of a version differ from those of the one before.
#[derive(Clone, Debug, Default)]
pub struct NewRules {
    /// Rules that come, or replace the one of their name.
    pub put: Vec<v1::Rule>,
    /// Names of rules that go; they are there.
    pub gone: Vec<String>,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// A new version was stored.
    New(VersionRow),
    /// The newest version already has this content; nothing but the audit row was written.
    Unchanged(VersionRow),
    /// The request id was seen before; this is what it led to then.
    Repeated {
        /// The version it answered with.
        row: VersionRow,
        /// Whether the document was the stored one already.
        unchanged: bool,
    },
}

impl Committed {
    /// The version that it is about.
    pub fn row(&self) -> &VersionRow {
        let (Committed::New(row) | Committed::Unchanged(row) | Committed::Repeated { row, .. }) = self;
        row
    }
}

/// A version that is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The version.
    pub row: VersionRow,
    /// It was confirmed before.
    pub unchanged: bool,
}

/// Whether a version that had to be confirmed was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfirmState {
    /// Not yet.
    Pending,
    /// It stays.
    Confirmed,
    /// A later version holds the content of the one before it again.
    Reverted,
}

impl ConfirmState {
    /// As it is stored and told.
    pub fn as_str(self) -> &'static str {
        match self {
            ConfirmState::Pending => "pending",
            ConfirmState::Confirmed => "confirmed",
            ConfirmState::Reverted => "reverted",
        }
    }
}

/// What a version waits or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// How far it is.
    pub state: ConfirmState,
    /// Microseconds since 1970. Counted by the wall clock only where control was restarted since.
    pub deadline: i64,
    /// The time there was, in seconds.
    pub within_s: u32,
    /// The version whose content comes back.
    pub returns_to: u64,
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
    /// Of versions that have or had to be confirmed.
    pub confirmation: Option<Confirmation>,
}

impl VersionRow {
    /// Whether it waits for confirmation.
    pub fn waits(&self) -> bool {
        self.confirmation.as_ref().is_some_and(|confirmation| confirmation.state == ConfirmState::Pending)
    }
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
