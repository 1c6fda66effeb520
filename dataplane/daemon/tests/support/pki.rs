//! A certificate authority for tests.

use marchproxy_proto::v1;
use marchproxy_proto::v1::enrol_service_server::{EnrolService, EnrolServiceServer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384, SanType,
};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

pub struct Authority {
    pub ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { ca_pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for control at 127.0.0.1, asking nodes for certificates of ours.
    pub fn server(&self) -> ServerTlsConfig {
        let key = key();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate.pem(), key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(true)
    }

    /// Certificate and key of a node.
    pub fn node(&self) -> (String, String) {
        let key = key();
        let mut params = CertificateParams::default();
        let uri = "marchproxy://default/node/edge-1".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Puts a node's certificate, key and this CA where `config` wants them.
    pub fn install(&self, config: &marchproxy_dataplane::config::Config) {
        let (certificate, key) = self.node();
        std::fs::write(&config.control.certificate, certificate).unwrap();
        std::fs::write(&config.control.key, key).unwrap();
        std::fs::write(&config.control.ca, &self.ca_pem).unwrap();
    }
}

/// Enrols whoever has the token `mpt_good`.
pub struct Enroller(pub Authority);

impl Enroller {
    pub fn service(self) -> EnrolServiceServer<Self> {
        EnrolServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl EnrolService for Enroller {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let request = request.into_inner();
        if request.token != "mpt_good" {
            return Err(Status::permission_denied("the token is unknown, used or expired"));
        }
        let mut csr = CertificateSigningRequestParams::from_der(&request.csr_der.into()).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI("marchproxy://default/node/edge-1".try_into().unwrap())];
        let certificate_pem = csr.signed_by(&self.0.issuer).unwrap().pem();
        Ok(Response::new(v1::EnrolResponse { certificate_pem, ca_pem: self.0.ca_pem.clone() }))
    }

    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn certificates(
        &self,
        _: Request<v1::CertificatesRequest>,
    ) -> Result<Response<v1::CertificatesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
