//! Who this node is to control: its key, its certificate, and how it gets one.

use std::io;
use std::path::{Path, PathBuf};

use marchproxy_proto::v1;
use marchproxy_proto::v1::enrol_service_client::EnrolServiceClient;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use serde::Deserialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::connect::{ConnectError, connect};
use crate::config::Config;
use crate::last_good::replace;

/// Why the node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither certificate nor token.
    #[error(
        "no certificate ({certificate}) and no enrolment file ({enrolment}); make one with `marchctl node token {node} \
         --out FILE`, put it there, and the node enrols by itself"
    )]
    Nothing {
        /// Where the certificate should be.
        certificate: PathBuf,
        /// Where the enrolment file should be.
        enrolment: PathBuf,
        /// The node.
        node: String,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The enrolment file is not one.
    #[error("{path}: no enrolment file: {reason}; make one with `marchctl node token NAME --out FILE`")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The enrolment file is for somebody else.
    #[error("{path}: {field}: found {found:?}, allowed: {allowed:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What this node is.
        allowed: String,
    },
    /// No key could be made.
    #[error("making the node's key: {0}")]
    Key(#[from] rcgen::Error),
    /// Control was not reached.
    #[error("enrolment: {0}")]
    Connect(#[from] ConnectError),
    /// Control refused.
    #[error("enrolment refused by control: {}", .0.message())]
    Refused(Box<tonic::Status>),
}

/// What `marchctl node token` writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrolment {
    control: String,
    ca_pem: String,
    token: String,
    cluster: String,
    role: String,
    name: String,
}

/// TLS settings with the node's certificate; enrols first when there is none.
pub async fn tls(config: &Config) -> Result<ClientTlsConfig, IdentityError> {
    let control = &config.control;
    if !control.certificate.exists() {
        enrol(config).await?;
    }
    let identity = Identity::from_pem(read(&control.certificate)?, read(&control.key)?);
    Ok(trusting(config, read(&control.ca)?).identity(identity))
}

fn trusting(config: &Config, ca: String) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(config.control.server_name.clone())
}

/// Trades the token for a certificate. The key is made here and never leaves; it is on disk before the token is spent, so that
/// a crash in between costs a token and not a certificate without key.
async fn enrol(config: &Config) -> Result<(), IdentityError> {
    let control = &config.control;
    let enrolment = Enrolment::read(config)?;
    if !enrolment.control.ends_with(&control.address) {
        tracing::warn!(
            "{} names control {}, the configuration {}; the configuration holds",
            control.enrolment.display(),
            enrolment.control,
            control.address
        );
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    write(&control.key, &key.serialize_pem(), 0o600)?;
    let channel: Channel = connect(config, Some(trusting(config, enrolment.ca_pem))).await?;
    let request = v1::EnrolRequest { token: enrolment.token, csr_der: request.der().to_vec() };
    let answer = EnrolServiceClient::new(channel)
        .enrol(request)
        .await
        .map_err(|status| IdentityError::Refused(Box::new(status)))?
        .into_inner();
    write(&control.ca, &answer.ca_pem, 0o644)?;
    write(&control.certificate, &answer.certificate_pem, 0o644)?;
    tracing::info!("enrolled as node {} of cluster {}", config.node, config.cluster);
    Ok(())
}

impl Enrolment {
    fn read(config: &Config) -> Result<Self, IdentityError> {
        let path = config.control.enrolment.clone();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let certificate = config.control.certificate.clone();
                return Err(IdentityError::Nothing { certificate, enrolment: path, node: config.node.clone() });
            }
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let enrolment: Self = serde_json::from_str(&text)
            .map_err(|error| IdentityError::Format { path: path.clone(), reason: error.to_string() })?;
        for (field, found, allowed) in [
            ("role", &enrolment.role, "node"),
            ("name", &enrolment.name, config.node.as_str()),
            ("cluster", &enrolment.cluster, config.cluster.as_str()),
        ] {
            if found != allowed {
                return Err(IdentityError::Foreign { path, field, found: found.clone(), allowed: allowed.into() });
            }
        }
        Ok(enrolment)
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.into(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| replace(path, &[text.as_bytes()], mode))
        .map_err(|source| IdentityError::File { path: path.into(), source })
}
