//! The side that enrols: a new key and the request for its certificate.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

use super::PkiError;

/// A new private key with its certificate request.
pub struct Request {
    /// PKCS #8, PEM. Never leaves the host.
    pub key_pem: String,
    /// PKCS #10, DER. Carries no names: control takes them from the token.
    pub csr_der: Vec<u8>,
}

impl Request {
    /// Makes a P-384 key and a request signed with it.
    pub fn generate() -> Result<Request, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(PkiError::crypto("make a key"))?;
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .map_err(PkiError::crypto("make a certificate request"))?;
        Ok(Request { key_pem: key.serialize_pem(), csr_der: csr.der().to_vec() })
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}
