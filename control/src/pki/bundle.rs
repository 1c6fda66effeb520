//! The enrolment file: everything a new node or operator needs, as JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{PkiError, Role};

/// What `marchctl node token` and `marchctl operator token` write. It holds a secret until it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Where control listens: `https://HOST:PORT`.
    pub control: String,
    /// The authority's certificate; the only one to trust for `control`.
    pub ca_pem: String,
    /// The one-time token.
    pub token: String,
    /// The cluster it admits to.
    pub cluster: String,
    /// `node` or `operator`.
    pub role: String,
    /// The name the certificate will carry.
    pub name: String,
}

impl Enrolment {
    /// Reads a file and checks that it is for this role.
    pub fn read(path: &Path, role: Role) -> Result<Enrolment, PkiError> {
        let text = std::fs::read_to_string(path).map_err(|why| PkiError::File {
            doing: "read",
            path: path.to_owned(),
            why,
        })?;
        let enrolment: Enrolment = serde_json::from_str(&text).map_err(|why| {
            PkiError::Enrolment(format!(
                "{} is no enrolment file: {why}; make one with `marchctl {role} token NAME --out FILE`",
                path.display()
            ))
        })?;
        if enrolment.role == role.as_str() {
            Ok(enrolment)
        } else {
            Err(PkiError::Enrolment(format!(
                "{} enrols the {} {}, not a {role}; make one with `marchctl {role} token NAME --out FILE`",
                path.display(),
                enrolment.role,
                enrolment.name
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_role_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge-1.json");
        let file = Enrolment {
            control: "https://127.0.0.1:18000".into(),
            ca_pem: String::new(),
            token: "mpt_00".into(),
            cluster: "default".into(),
            role: "node".into(),
            name: "edge-1".into(),
        };
        std::fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(Enrolment::read(&path, Role::Node).unwrap(), file);
        let refusal = Enrolment::read(&path, Role::Operator).unwrap_err().to_string();
        assert!(refusal.contains("enrols the node edge-1"), "{refusal}");
    }
}
