//! What is wrong with a document, and what is merely not enforced.

use std::fmt;

use marchproxy_proto::v1;

/// One thing that is wrong: in which object, in which field, what was found, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field} is {found}; allowed: {allowed}")]
pub struct Violation {
    /// The object by kind and name (`service web, backend a`), or by place where it has no name.
    pub object: String,
    /// The path of the field as in the document, lists by index from 0: `services[0].backends[1].port`.
    pub field: String,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

/// Something accepted that deserves a word: a field that this release stores and does not enforce, or one that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The path of the field, as in [`Violation::field`].
    pub field: String,
    /// What the author should know.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl From<Warning> for v1::Warning {
    fn from(warning: Warning) -> Self {
        Self { field: warning.field, message: warning.message }
    }
}
