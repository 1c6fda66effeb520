//! The subcommands, one a file: options, work, output.

pub mod run;
