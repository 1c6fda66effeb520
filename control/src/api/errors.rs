//! Errors as google.rpc.Status: what failed, why, the next thing to try, and machine-readable details beside the text.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::model::Violation;
use crate::pki::PkiError;
use crate::store::StoreError;

/// Domain of the reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "marchproxy";
/// A status travels in HTTP/2 headers, and common clients take 16 KiB of them (the details once in base64): what goes beyond
/// this many octets is counted, not listed.
const VIOLATIONS_OCTETS: usize = 6_000;
/// Longest text of one violation that is repeated to the caller.
const TEXT_MAX: usize = 400;

/// A status with a reason for programs.
pub fn status(code: Code, reason: &str, message: impl Into<String>, facts: &[(&str, String)]) -> Status {
    let metadata: HashMap<String, String> =
        facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// One request field that is wrong, outside of documents.
pub fn bad_field(field: &str, found: impl std::fmt::Display, allowed: &str) -> Status {
    let description = format!("found {found}; allowed: {allowed}");
    let message = format!("{field}: {description}");
    Status::with_error_details(
        Code::InvalidArgument,
        message,
        ErrorDetails::with_bad_request_violation(field, description),
    )
}

/// A field whose error says its name already.
fn field(message: String, field: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A document that is refused: one field violation for each, its path as in the document.
pub fn violations(found: &[Violation]) -> Status {
    let mut room = VIOLATIONS_OCTETS;
    let fields: Vec<FieldViolation> = found
        .iter()
        .map(|v| {
            FieldViolation::new(
                clip(&v.field),
                clip(&format!("{}: found {}; allowed: {}", v.object, v.found, v.allowed)),
            )
        })
        .take_while(|v| {
            let octets = v.field.len() + v.description.len() + 8;
            let fits = octets <= room;
            room = room.saturating_sub(octets);
            fits
        })
        .collect();
    let first = found.first().map_or_else(String::new, |v| clip(&v.to_string()));
    let more = match (found.len(), fields.len()) {
        (0 | 1, _) => String::new(),
        (all, listed) if all == listed => format!(" (and {} more)", all - 1),
        (all, listed) => format!(" (and {} more, of which {} are not listed)", all - 1, all - listed),
    };
    let message = format!("the document is refused, nothing was stored: {first}{more}");
    Status::with_error_details(Code::InvalidArgument, message, ErrorDetails::with_bad_request(fields))
}

fn clip(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// A node's build would refuse the document.
pub fn build_refused(node: &str, why: &str) -> Status {
    let why = clip(why);
    let message = format!("node {node} could not build this document, nothing was stored: {why}");
    let mut details =
        ErrorDetails::with_error_info("BUILD_REFUSED", DOMAIN, HashMap::from([("node".into(), node.into())]));
    details.add_bad_request_violation("nodes", why);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The store failed.
pub fn store(error: &StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::VersionConflict { expected, found } => status(
            Code::Aborted,
            "VERSION_CONFLICT",
            message,
            &[("expected", expected.to_string()), ("found", found.to_string())],
        ),
        StoreError::Waiting { version } => {
            status(Code::FailedPrecondition, "CONFIRMATION_PENDING", message, &[("version", version.to_string())])
        }
        StoreError::NotWaiting { version, .. } => {
            status(Code::FailedPrecondition, "NOT_WAITING", message, &[("version", version.to_string())])
        }
        StoreError::NothingToReturnTo => field(message, "confirm_within_s"),
        StoreError::RequestReused { .. } => field(message, "request_id"),
        StoreError::Busy(_) => status(Code::Unavailable, "DATABASE_LOCKED", message, &[]),
        StoreError::ReadOnly(_) => status(Code::Unavailable, "DATABASE_READ_ONLY", message, &[]),
        StoreError::Gone(_) => status(Code::Unavailable, "DATABASE_GONE", message, &[]),
        StoreError::Corrupt(_) => status(Code::DataLoss, "DATABASE_CORRUPT", message, &[]),
        _ => status(Code::Unavailable, "DATABASE_FAILED", message, &[]),
    }
}

/// Names, requests and roles that are refused; everything else about keys is control's own trouble.
pub fn pki(error: &PkiError) -> Status {
    match error {
        PkiError::Name { what, found } => bad_field(
            if *what == "cluster" { "cluster" } else { "name" },
            format!("{found:?}"),
            "1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit",
        ),
        PkiError::Role { found } => bad_field("role", format!("{found:?}"), "node, operator"),
        PkiError::Request(why) => Status::with_error_details(
            Code::InvalidArgument,
            error.to_string(),
            ErrorDetails::with_bad_request_violation("csr_der", why.clone()),
        ),
        _ => Status::internal(error.to_string()),
    }
}

/// No such version.
pub fn no_version(cluster: &str, version: u64) -> Status {
    let message = if version == 0 {
        format!("cluster {cluster} has no document yet; store one with `marchctl apply -f FILE`")
    } else {
        format!("cluster {cluster} has no version {version}; `marchctl history` lists them")
    };
    status(Code::NotFound, "NO_SUCH_VERSION", message, &[("cluster", cluster.into()), ("version", version.to_string())])
}
