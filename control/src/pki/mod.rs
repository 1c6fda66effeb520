//! Who may do what: control's own certificate authority, roles in certificates, one-time tokens.
//!
//! A role stands in the URI subject alternative name of a client's certificate, `marchproxy://CLUSTER/node/NAME` or
//! `marchproxy://CLUSTER/operator/NAME`. Nothing else in the certificate is looked at, except that this authority issued it,
//! that it is valid now, and that its serial number was not revoked. Keys and signatures are ECDSA P-384 with SHA-384.

mod authority;
mod bundle;
mod error;
mod files;
mod identity;
mod request;
mod token;

pub use authority::{Authority, Issued, ServerIdentity};
pub use bundle::Enrolment;
pub use error::PkiError;
pub use files::{write_private, write_public};
pub use identity::{Identity, Peer, Role};
pub use request::Request;
pub use token::{Token, secret_hash};
