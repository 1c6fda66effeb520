//! The subcommands, one a file: options, work, output.

pub mod amounts;
pub mod compare;
pub mod gate;
pub mod generate;
pub mod interactive;
pub mod reconf;
pub mod rfc2544;
pub mod run;
pub mod scale;
