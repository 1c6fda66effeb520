//! How a command fails, and with which exit code.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a command did not (wholly) do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Input, rights or state: the same call would fail again.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered.
    #[error("{0}")]
    Unreachable(String),
    /// Stored, but not on every node.
    #[error("{0}")]
    Partly(String),
}

impl Failure {
    pub fn refused(why: impl Into<String>) -> Failure {
        Failure::Refused(why.into())
    }

    /// As the contract says: 1 refused, 2 not reachable, 3 partly.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::Unreachable(_) => 2,
            Failure::Partly(_) => 3,
        }
    }
}

/// Whether the call never came through to anybody who could judge it.
pub fn connection_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>)
}

/// Whether control answered that it has no stream of the node.
pub fn node_away(status: &Status) -> bool {
    reason(status).is_some_and(|reason| reason == "NODE_NOT_CONNECTED")
}

fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// What a call's error means to a person.
pub fn from_status(status: &Status, control: &str) -> Failure {
    if connection_lost(status) {
        return from_transport(status, control);
    }
    let mut text = status.message().to_owned();
    if let Some(bad) = status.get_details_bad_request()
        && bad.field_violations.len() > 1
    {
        for violation in &bad.field_violations {
            text.push_str("\n  ");
            text.push_str(&violation.field);
            text.push_str(": ");
            text.push_str(&violation.description);
        }
    }
    if text.is_empty() {
        text = format!("{control} answered {:?} without a word", status.code());
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Failure::Unreachable(text),
        Code::Unimplemented => Failure::Refused(format!(
            "{control} does not know this call; is it a marchproxy-control of this version? ({text})"
        )),
        _ => Failure::Refused(text),
    }
}

/// What a broken connection means to a person.
pub fn from_transport(error: &(dyn std::error::Error + 'static), control: &str) -> Failure {
    let chain = chain(error);
    // In TLS 1.3 the server judges our certificate after connect() is done: its refusal is an alert in place of an answer.
    let refused_ours = [
        "UnknownCA",
        "CertificateUnknown",
        "BadCertificate",
        "CertificateExpired",
        "CertificateRevoked",
        "DecryptError",
        "AccessDenied",
    ]
    .iter()
    .find(|alert| chain.contains("received fatal alert") && chain.contains(*alert));
    if let Some(alert) = refused_ours {
        return Failure::Refused(format!(
            "{control} refuses your certificate ({alert}): it is not of this control's authority, or no longer valid; \
             give the right ones with --cert and --key, or enrol again (`marchctl enrol FILE`)"
        ));
    }
    if chain.contains("invalid peer certificate") {
        return Failure::Refused(format!(
            "the certificate of {control} cannot be trusted: {chain}; give its authority with --ca (ca.pem in control's state \
             directory), and use a name that is in `server_names` of control.toml"
        ));
    }
    if chain.contains("InvalidContentType") || chain.contains("InvalidMessage") {
        return Failure::Unreachable(format!(
            "{control} does not speak TLS; if it runs with --insecure, use --control http://...: {chain}"
        ));
    }
    let broken =
        ["connection closed", "connection reset", "broken pipe"].iter().any(|sign| chain.to_lowercase().contains(sign));
    let hint = if broken && control.starts_with("https://") {
        "it broke off; if control runs, it may refuse your certificate, which its log says"
    } else {
        "is marchproxy-control running there, and is --control right?"
    };
    Failure::Unreachable(format!("cannot reach control at {control}: {chain}; {hint}"))
}

/// An error with all its causes, each said once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(why) = cause {
        let text = match why.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => why.to_string(),
        };
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        cause = why.source();
    }
    parts.join(": ")
}
