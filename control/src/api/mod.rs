//! The gRPC services, metrics and health over HTTP, and the hub that keeps every node on the newest version.

mod apply;
mod auth;
mod change_rules;
mod config;
mod confirm;
mod dry_run;
mod enrol;
mod errors;
pub mod http;
mod hub;
mod meters;
pub mod metrics;
mod node;
mod operate;
mod server;
mod settings;
mod standing;
mod state;
mod together;
mod watch;

pub use auth::{CLUSTER_HEADER, NODE_HEADER};
pub use dry_run::{Checked, NodeTables, dry_run};
pub use errors::DOMAIN;
pub use meters::{ApplyResult, Meters};
pub use server::{KEEPALIVE, Listener, MESSAGE_MAX, serve};
pub use settings::{DEFAULT_FILE, Settings, SettingsError, Timings};
pub use standing::{Plan, Standing};
pub use state::{Control, StartError};
