//! What can go wrong with keys and certificates.

use std::path::PathBuf;

/// An error about keys, certificates, tokens or names. Each says what failed, why, and the next thing to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file of the authority cannot be read or written.
    #[error("cannot {doing} {path}: {why}; check that the directory exists and belongs to the user control runs as")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// One half of the authority is there, the other is not.
    #[error(
        "{present} exists but {missing} does not: put the missing half back from a backup, or move {present} away to start \
         with a new authority (every node and operator must then enrol again)"
    )]
    Half {
        /// The file found.
        present: PathBuf,
        /// The file missing.
        missing: PathBuf,
    },
    /// A key file others can read.
    #[error(
        "{path} has mode {mode:o}, allowed is 600: `chmod 600 {path}`, and make a new authority if others may have read it"
    )]
    KeyMode {
        /// Which file.
        path: PathBuf,
        /// The mode found.
        mode: u32,
    },
    /// A file that is not what it should be.
    #[error("{path} is not a usable {what}: {why}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// A certificate signing request that is refused.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// A certificate without a role.
    #[error(
        "the certificate carries no role: found {found}, allowed is one URI name marchproxy://CLUSTER/(node|operator)/NAME"
    )]
    NoRole {
        /// The names found.
        found: String,
    },
    /// A cluster's, node's or operator's name that cannot stand in a certificate.
    #[error(
        "{what} {found:?} is no name: allowed are 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name {
        /// What is named.
        what: &'static str,
        /// The name found.
        found: String,
    },
    /// A role nobody knows.
    #[error("role {found:?}: allowed are node and operator")]
    Role {
        /// The role found.
        found: String,
    },
    /// A server name that is neither DNS name nor address.
    #[error("server name {found:?}: allowed are DNS names and IP addresses")]
    ServerName {
        /// The name found.
        found: String,
    },
    /// The cryptographic library failed.
    #[error("cannot {doing}: {why}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// The library's words.
        why: String,
    },
    /// An enrolment file that cannot be used.
    #[error("{0}")]
    Enrolment(String),
}

impl PkiError {
    pub(crate) fn crypto(doing: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
        move |why| PkiError::Crypto { doing, why: why.to_string() }
    }
}
