//! The subcommands, one a file: options, work, output.

pub mod amounts;
pub mod compare;
pub mod generate;
pub mod interactive;
pub mod run;
