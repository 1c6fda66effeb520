//! The certificate authority.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::files::{write_private, write_public};
use super::identity::serial_hex;
use super::{Identity, PkiError, Role};

/// Life of the authority's own certificate.
const CA_DAYS: i64 = 3650;
/// Life of the server's certificate; a new one is made at each start, so only an uptime beyond it matters.
const SERVER_DAYS: i64 = 1825;
/// Clocks of new hosts are often behind.
const BACKDATE: Duration = Duration::hours(1);

/// Control's certificate authority: `ca.pem` and `ca.key` in its state directory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    directory: PathBuf,
    client_days: i64,
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub pem: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Microseconds since 1970.
    pub not_after: i64,
}

/// The server's certificate and key, PEM. Made at each start, never written.
pub struct ServerIdentity {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

impl Authority {
    /// Opens the authority in this directory, or makes it where there is none. Certificates of nodes and operators live for
    /// `client_days`.
    pub fn open(directory: &Path, client_days: u32) -> Result<Authority, PkiError> {
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        match (certificate.exists(), key.exists()) {
            (false, false) => create(&certificate, &key)?,
            (true, true) => {}
            (true, false) => return Err(PkiError::Half { present: certificate, missing: key }),
            (false, true) => return Err(PkiError::Half { present: key, missing: certificate }),
        }
        let mode = fs::metadata(&key).map_err(file_error("read", &key))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(PkiError::KeyMode { path: key, mode });
        }
        let key_pem = fs::read_to_string(&key).map_err(file_error("read", &key))?;
        let ca_pem = fs::read_to_string(&certificate).map_err(file_error("read", &certificate))?;
        let pair = KeyPair::from_pem_and_sign_algo(&key_pem, &PKCS_ECDSA_P384_SHA384)
            .map_err(|why| PkiError::Unusable { path: key.clone(), what: "P-384 private key", why: why.to_string() })?;
        check_pair(&certificate, &ca_pem, &pair)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair).map_err(|why| PkiError::Unusable {
            path: certificate,
            what: "certificate of an authority",
            why: why.to_string(),
        })?;
        Ok(Authority { issuer, ca_pem, directory: directory.to_owned(), client_days: i64::from(client_days) })
    }

    /// The authority's certificate, which clients trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where the authority's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A certificate for the server under these names (DNS names and addresses).
    pub fn server(&self, names: &[String]) -> Result<ServerIdentity, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(PkiError::crypto("make the server's key"))?;
        let mut params = leaf(SERVER_DAYS, ExtendedKeyUsagePurpose::ServerAuth)?;
        params.distinguished_name.push(DnType::CommonName, "marchproxy-control");
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(PkiError::crypto("sign the server's certificate"))?;
        Ok(ServerIdentity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A client's certificate. Of the request only the key is used, and the signature that proves its possession.
    pub fn issue(&self, csr_der: &[u8], identity: &Identity) -> Result<Issued, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&csr_der.into())
            .map_err(|why| PkiError::Request(format!("{why}; send PKCS #10 in DER, signed with its own key")))?;
        let key = request.public_key;
        // The length is checked too, because the algorithm comes from the signature, not from the key.
        let known = [(&PKCS_ECDSA_P384_SHA384, 97), (&PKCS_ECDSA_P256_SHA256, 65), (&PKCS_ED25519, 32)];
        if !known.iter().any(|(algorithm, length)| key.algorithm() == *algorithm && key.der_bytes().len() == *length) {
            return Err(PkiError::Request(
                "key type not allowed; allowed are ECDSA P-384 with SHA-384, P-256 with SHA-256, and Ed25519"
                    .to_owned(),
            ));
        }
        let uri = Ia5String::try_from(identity.uri()).map_err(PkiError::crypto("write the role"))?;
        let mut params = leaf(self.client_days, ExtendedKeyUsagePurpose::ClientAuth)?;
        params.distinguished_name.push(DnType::CommonName, format!("{}/{}", identity.role, identity.name));
        params.subject_alt_names = vec![SanType::URI(uri)];
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let not_after = params.not_after;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::crypto("sign the certificate"))?;
        Ok(Issued {
            pem: certificate.pem(),
            serial: serial_hex(&serial),
            not_after: not_after.unix_timestamp() * 1_000_000,
        })
    }

    /// Makes key and certificate of an operator here, and writes them as `operator-NAME.pem` and `.key` beside `ca.pem`.
    pub fn issue_operator_files(&self, identity: &Identity, into: &Path) -> Result<Issued, PkiError> {
        debug_assert_eq!(identity.role, Role::Operator);
        let request = super::Request::generate()?;
        let issued = self.issue(&request.csr_der, identity)?;
        write_private(&into.join(format!("operator-{}.key", identity.name)), &request.key_pem)?;
        write_public(&into.join(format!("operator-{}.pem", identity.name)), &issued.pem)?;
        Ok(issued)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn create(certificate: &Path, key: &Path) -> Result<(), PkiError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(PkiError::crypto("make the authority's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "MarchProxy control");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(fresh_serial()?);
    validity(&mut params, CA_DAYS);
    let own = params.self_signed(&pair).map_err(PkiError::crypto("sign the authority's certificate"))?;
    // The key first: killed in between, the next start says which half is missing, and no client trusted it yet.
    write_private(key, &pair.serialize_pem())?;
    write_public(certificate, &own.pem())
}

fn check_pair(path: &Path, ca_pem: &str, pair: &KeyPair) -> Result<(), PkiError> {
    let unusable = |why: String| PkiError::Unusable { path: path.to_owned(), what: "certificate of an authority", why };
    let (_, pem) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes()).map_err(|why| unusable(why.to_string()))?;
    let certificate = pem.parse_x509().map_err(|why| unusable(why.to_string()))?;
    if certificate.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
        return Err(unusable("it does not belong to the key in ca.key".to_owned()));
    }
    Ok(())
}

fn leaf(days: i64, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.serial_number = Some(fresh_serial()?);
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, days);
    Ok(params)
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or_else(|_| OffsetDateTime::now_utc());
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days);
}

/// RFC 5280 4.1.2.2: positive, at most 20 octets; 126 random bits of ours.
fn fresh_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).map_err(|_| PkiError::Crypto {
        doing: "make a serial number",
        why: "no randomness from the system".to_owned(),
    })?;
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn server_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let dns = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '*'));
    let refused = || PkiError::ServerName { found: name.to_owned() };
    if !dns {
        return Err(refused());
    }
    Ia5String::try_from(name.to_owned()).map(SanType::DnsName).map_err(|_| refused())
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |why| PkiError::File { doing, path, why }
}

#[cfg(test)]
mod tests {
    use super::super::{Peer, Request};
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn made_once_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), 30).unwrap();
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(Authority::open(dir.path(), 30).unwrap().ca_pem(), first.ca_pem());
    }

    #[test]
    fn a_certificate_carries_the_role_of_the_token_not_of_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), 30).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wish.subject_alt_names
            .push(SanType::URI(Ia5String::try_from("marchproxy://default/operator/root".to_owned()).unwrap()));
        let csr = wish.serialize_request(&key).unwrap();
        let node = Identity::new("default", Role::Node, "edge-1").unwrap();
        let issued = authority.issue(csr.der(), &node).unwrap();
        let peer = Peer::from_certificate(&der(&issued.pem)).unwrap();
        assert_eq!(peer, Peer { identity: node, serial: issued.serial });
    }

    #[test]
    fn a_request_without_proof_of_possession_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), 30).unwrap();
        let mut request = Request::generate().unwrap();
        let last = request.csr_der.len() - 1;
        request.csr_der[last] ^= 1;
        let node = Identity::new("default", Role::Node, "edge-1").unwrap();
        assert!(matches!(authority.issue(&request.csr_der, &node), Err(PkiError::Request(_))));
        assert!(matches!(authority.issue(b"nonsense", &node), Err(PkiError::Request(_))));
    }

    #[test]
    fn half_an_authority_an_open_key_or_a_foreign_key_is_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        for each in [&one, &two] {
            fs::create_dir(each).unwrap();
            Authority::open(each, 30).unwrap();
        }
        fs::set_permissions(one.join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Authority::open(&one, 30), Err(PkiError::KeyMode { mode: 0o644, .. })));
        fs::copy(two.join("ca.key"), one.join("ca.key")).unwrap();
        fs::set_permissions(one.join("ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Authority::open(&one, 30), Err(PkiError::Unusable { .. })));
        fs::remove_file(one.join("ca.key")).unwrap();
        assert!(matches!(Authority::open(&one, 30), Err(PkiError::Half { .. })));
    }

    #[test]
    fn server_names_are_dns_names_or_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), 30).unwrap();
        assert!(authority.server(&["localhost".into(), "::1".into(), "192.0.2.1".into()]).is_ok());
        assert!(matches!(authority.server(&["not a name".into()]), Err(PkiError::ServerName { .. })));
    }
}
