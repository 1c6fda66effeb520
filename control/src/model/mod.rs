//! Documents: parsed, validated, compared and changed.
//!
//! External -> validated -> compiled are three types: [`v1::Document`](marchproxy_proto::v1::Document) as somebody wrote it, [`Model`]
//! whose every reference and value is good, and the engine's `RuleTables`, which [`compile`](crate::compile) makes of it.
//!
//! Paths of fields are as in the document, lists by index from 0: `services[0].backends[1].port`. They mean the same in parse errors,
//! [`Violation`]s, [`Warning`]s and the `BadRequest` details of gRPC; the object's name stands beside them.

mod diff;
mod index;
mod merge;
mod objects;
mod report;
mod text;
mod types;
mod validate;
mod violation;
pub mod words;

pub use diff::{PortChange, PortRestart, diff, port_restarts};
pub use index::Index;
pub use merge::merge;
pub use objects::{
    API_VERSION, DEFAULT_CLUSTER, DEFAULT_MTU, Kind, MAIN_TABLE, Object, UnknownKind, content_hash, hash_of_hashes,
    hex, insert, objects, route_name, sort, unhex,
};
pub use text::{ParseError, RenderError, parse, to_json, to_yaml};
pub use types::Model;
pub(crate) use types::{RouteAction, Rule, Way};
pub use validate::{RuleContext, validate, validate_keeping};
pub use violation::{Violation, Warning};

#[cfg(test)]
mod properties;
