//! The operator's command line; see `marchproxy_control::ctl`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(marchproxy_control::ctl::run(std::env::args_os()))
}
