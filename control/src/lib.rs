//! The control plane: `model` (documents and their validation), `compile` (document to a node's tables), `store` (versions,
//! identities, audit), `pki` (CA, roles), `api` (gRPC services and the nodes' hub).
#![forbid(unsafe_code)]

pub mod api;
pub mod compile;
pub mod model;
pub mod pki;
pub mod store;
