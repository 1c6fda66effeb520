//! EnrolService: tokens, certificates, revocation.

use marchproxy_proto::v1;
use tonic::{Code, Request, Response, Status};
use v1::revoke_request::What;

use super::auth::Caller;
use super::errors;
use super::state::{Control, now, timestamp};
use crate::pki::{Identity, Role, Token, secret_hash};
use crate::store::{NewToken, Revoke};

/// Life of a token unless said otherwise.
const TOKEN_S: u32 = 3_600;
/// Longest life of a token: a week. Whoever finds one until then becomes what it says.
const TOKEN_S_MAX: u32 = 7 * 24 * 3_600;

/// Serves EnrolService.
#[derive(Clone, Debug)]
pub struct EnrolApi {
    control: Control,
}

impl EnrolApi {
    /// Over what all services share.
    pub fn new(control: Control) -> EnrolApi {
        EnrolApi { control }
    }
}

#[tonic::async_trait]
impl v1::enrol_service_server::EnrolService for EnrolApi {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        let role: Role = asked.role.parse().map_err(|e| errors::pki(&e))?;
        let who = Identity::new(&cluster, role, &asked.name).map_err(|e| errors::pki(&e))?;
        let valid_s = if asked.valid_s == 0 { TOKEN_S } else { asked.valid_s };
        if valid_s > TOKEN_S_MAX {
            return Err(errors::bad_field("valid_s", valid_s, "1 to 604800 (a week), or 0 for an hour"));
        }
        let token = Token::generate().map_err(|e| errors::pki(&e))?;
        let expires = now() + i64::from(valid_s) * 1_000_000;
        self.control
            .store
            .create_token(NewToken {
                cluster: &cluster,
                role: role.as_str(),
                name: &who.name,
                secret_hash: &secret_hash(token.text()),
                expires,
                author: caller.author(),
            })
            .await
            .map_err(|e| errors::store(&e))?;
        self.control.audit(&cluster, &caller, &format!("token for {role}/{}", who.name)).await;
        Ok(Response::new(v1::CreateTokenResponse {
            token: token.text().to_owned(),
            ca_pem: self.control.authority.ca_pem().to_owned(),
            expires: Some(timestamp(expires)),
        }))
    }

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let asked = request.into_inner();
        let redeemed =
            self.control.store.redeem_token(&secret_hash(&asked.token), now()).await.map_err(|e| errors::store(&e))?;
        let Some(row) = redeemed else {
            return Err(errors::status(
                Code::Unauthenticated,
                "TOKEN_REFUSED",
                "the token is unknown, expired or was used before; make a new one with `marchctl node token NAME` or \
                 `marchctl operator token NAME`",
                &[],
            ));
        };
        let role: Role = row.role.parse().map_err(|e| errors::pki(&e))?;
        let who = Identity::new(&row.cluster, role, &row.name).map_err(|e| errors::pki(&e))?;
        let issued = self.control.authority.issue(&asked.csr_der, &who).map_err(|e| errors::pki(&e))?;
        // Not recorded means not revocable: then it is not handed out either.
        self.control.record(&who, &issued).await.map_err(|e| errors::store(&e))?;
        let caller = Caller { identity: who.clone(), serial: Some(issued.serial.clone()) };
        self.control.audit(&who.cluster, &caller, &format!("enrol {role}/{} serial {}", who.name, issued.serial)).await;
        tracing::info!(%who, serial = issued.serial, "enrolled");
        Ok(Response::new(v1::EnrolResponse {
            certificate_pem: issued.pem,
            ca_pem: self.control.authority.ca_pem().to_owned(),
        }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        let named = "ROLE/NAME, for instance node/edge-1";
        let what = match &asked.what {
            Some(What::Serial(serial)) => Revoke::Serial(serial),
            Some(What::Name(full)) => match full.split_once('/') {
                Some((role @ ("node" | "operator"), name)) => Revoke::Name { role, name },
                _ => return Err(errors::bad_field("name", format!("{full:?}"), named)),
            },
            None => return Err(errors::bad_field("what", "nothing", "a serial number or a name")),
        };
        let revoked = self.control.store.revoke(&cluster, what, now()).await.map_err(|e| errors::store(&e))?;
        self.control.audit(&cluster, &caller, &format!("revoke {what:?}: {revoked} certificates")).await;
        tracing::info!(cluster, author = caller.author(), ?what, revoked, "revoked");
        self.control.hub.end_revoked(&cluster).await;
        Ok(Response::new(v1::RevokeResponse { revoked }))
    }

    async fn certificates(
        &self,
        request: Request<v1::CertificatesRequest>,
    ) -> Result<Response<v1::CertificatesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let cluster = caller.cluster(&request.into_inner().cluster)?;
        let rows = self.control.store.certificates(&cluster).await.map_err(|e| errors::store(&e))?;
        let certificates = rows
            .into_iter()
            .map(|row| v1::CertificateInfo {
                serial: row.serial,
                role: row.role,
                name: row.name,
                not_after: Some(timestamp(row.not_after)),
                revoked: row.revoked_at.is_some(),
            })
            .collect();
        Ok(Response::new(v1::CertificatesResponse { certificates }))
    }
}
