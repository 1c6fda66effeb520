//! Roles, and how they stand in certificates.

use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::PkiError;

/// Longest name of a cluster, node or operator: that of a DNS label.
const NAME_MAX: usize = 63;

/// What a certificate's owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A data plane; may attach to get its tables.
    Node,
    /// A person or program that configures and asks.
    Operator,
}

impl Role {
    /// The word in names, tokens and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = PkiError;

    fn from_str(word: &str) -> Result<Role, PkiError> {
        match word {
            "node" => Ok(Role::Node),
            "operator" => Ok(Role::Operator),
            _ => Err(PkiError::Role { found: word.to_owned() }),
        }
    }
}

/// A role under a name, in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The one cluster it belongs to.
    pub cluster: String,
    /// What it is.
    pub role: Role,
    /// Which one.
    pub name: String,
}

impl Identity {
    /// Checks the names: both must be fit for a URI without escapes. An empty cluster means `default`.
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Identity, PkiError> {
        let cluster = if cluster.is_empty() { "default" } else { cluster };
        check_name("cluster", cluster)?;
        check_name(role.as_str(), name)?;
        Ok(Identity { cluster: cluster.to_owned(), role, name: name.to_owned() })
    }

    /// The name in certificates: `marchproxy://CLUSTER/ROLE/NAME`.
    pub fn uri(&self) -> String {
        format!("marchproxy://{}/{}/{}", self.cluster, self.role, self.name)
    }

    fn from_uri(uri: &str) -> Option<Identity> {
        let mut parts = uri.strip_prefix("marchproxy://")?.split('/');
        let (cluster, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        if cluster.is_empty() || parts.next().is_some() {
            return None;
        }
        Identity::new(cluster, role.parse().ok()?, name).ok()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} of cluster {}", self.role, self.name, self.cluster)
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), PkiError> {
    let fits = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits { Ok(()) } else { Err(PkiError::Name { what, found: name.to_owned() }) }
}

/// What a certificate says about its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The role.
    pub identity: Identity,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
}

impl Peer {
    /// Reads role and serial number. Says nothing about who issued the certificate: TLS checked that.
    pub fn from_certificate(der: &[u8]) -> Result<Peer, PkiError> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|why| PkiError::Crypto { doing: "read the peer's certificate", why: why.to_string() })?;
        let names = certificate.subject_alternative_name().map_err(|why| PkiError::Crypto {
            doing: "read the names of the peer's certificate",
            why: why.to_string(),
        })?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        // More than one role would make "who did this" ambiguous.
        let [uri] = uris[..] else { return Err(PkiError::NoRole { found: format!("{uris:?}") }) };
        let identity = Identity::from_uri(uri).ok_or_else(|| PkiError::NoRole { found: format!("{uri:?}") })?;
        Ok(Peer { identity, serial: serial_hex(certificate.raw_serial()) })
    }
}

/// Serial numbers as the database and people write them.
pub(super) fn serial_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let significant = bytes.iter().position(|&b| b != 0).map_or(&[][..], |first| &bytes[first..]);
    significant.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_back_and_nothing_else_is() {
        let edge = Identity::new("", Role::Node, "edge-1").unwrap();
        assert_eq!(edge.uri(), "marchproxy://default/node/edge-1");
        assert_eq!(Identity::from_uri(&edge.uri()), Some(edge));
        for bad in [
            "marchproxy://default/node/",
            "marchproxy:///node/a",
            "marchproxy://default/root/a",
            "marchproxy://default/node/a/b",
            "marchproxy://default/node/a%2f",
            "https://default/node/a",
            "marchproxy://default/node",
        ] {
            assert_eq!(Identity::from_uri(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "-a", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(Identity::new("default", Role::Operator, bad).is_err(), "{bad:?}");
        }
        assert!(Identity::new("blue.1", Role::Operator, "a_b-c.d").is_ok());
    }
}
