//! The control plane's program: reads settings, opens the state, serves until told to stop.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use marchproxy_control::api::{Control, Listener, Settings, http, serve};
use marchproxy_control::pki::{Identity, Role};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// MarchProxy's control plane: stores documents, compiles them, and keeps every node on the newest version.
#[derive(Parser)]
#[command(
    name = "marchproxy-control",
    version,
    after_help = "Example:\n  marchproxy-control --config /etc/marchproxy/control.toml\n\n\
                  Exit codes: 0 stopped by SIGTERM or SIGINT, 1 settings refused, 2 wrong usage, or the address or the state cannot be had (which \
                  standard error says). Every setting is explained in deploy/examples/control.toml."
)]
struct Options {
    /// Settings; unset: /etc/marchproxy/control.toml where it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keys, certificates, database
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address and port of gRPC
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Database, sqlite:///PATH
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A further name or address for the server's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    server_name: Vec<String>,
    /// Log filter, for instance info or debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// No TLS, no certificates, everybody may do everything: for labs
    #[arg(long)]
    insecure: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Make an operator's key and certificate on this host: the first one of another cluster, or when the last one is lost
    #[command(after_help = "Example:\n  marchproxy-control issue-operator --cluster blue --name alice --out /root")]
    IssueOperator {
        /// The cluster the role is valid in
        #[arg(long, default_value = "default")]
        cluster: String,
        /// The operator's name: author of what is done with the certificate
        #[arg(long)]
        name: String,
        /// Where operator-NAME.pem and operator-NAME.key are written
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(page) = marchproxy_manual::asked(Options::command, 8) {
        print!("{page}");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let command = options
        .command
        .as_ref()
        .map(|Command::IssueOperator { cluster, name, out }| (cluster.clone(), name.clone(), out.clone()));
    let settings = match settings(options) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("marchproxy-control: {why}");
            return ExitCode::from(1);
        }
    };
    log(&settings.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!(
                "marchproxy-control: cannot start threads: {why}; is a limit of the service or the user too low?"
            );
            return ExitCode::from(2);
        }
    };
    let done = runtime.block_on(async {
        match command {
            Some((cluster, name, out)) => issue(settings, &cluster, &name, out).await,
            None => run(settings).await,
        }
    });
    // Blocking dry runs of callers that went away need not be waited for.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("marchproxy-control: {why}");
            ExitCode::from(2)
        }
    }
}

fn settings(options: Options) -> Result<Settings, marchproxy_control::api::SettingsError> {
    let mut settings = Settings::read(options.config.as_deref())?;
    if let Some(state_dir) = options.state_dir {
        settings.state_dir = state_dir;
    }
    if let Some(listen) = options.listen {
        settings.listen = listen;
    }
    if let Some(http) = options.http {
        settings.http = http;
    }
    if let Some(log) = options.log {
        settings.log = log;
    }
    settings.database = options.database.or(settings.database);
    settings.server_names.extend(options.server_name);
    settings.insecure |= options.insecure;
    Ok(settings)
}

fn log(filter: &str) {
    use std::io::IsTerminal as _;
    let (filter, complaint) = match filter.parse::<EnvFilter>() {
        Ok(filter) => (filter, None),
        Err(why) => (EnvFilter::new("info"), Some(why)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Some(why) = complaint {
        tracing::warn!(%why, "log filter not understood; using info");
    }
}

async fn issue(settings: Settings, cluster: &str, name: &str, out: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    let who = Identity::new(cluster, Role::Operator, name)?;
    let control = Control::open(settings).await?;
    control.issue_operator(&who, &out).await?;
    println!("wrote {}", out.join(format!("operator-{name}.pem")).display());
    println!("wrote {}", out.join(format!("operator-{name}.key")).display());
    println!("the authority's certificate is {}", control.settings.state_dir.join("ca.pem").display());
    Ok(())
}

async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let listener = Listener::bind(settings.listen)?;
    let pages = http::bind(settings.http)?;
    let control = Control::open(settings).await?;
    let state_dir = control.settings.state_dir.display().to_string();
    if control.settings.insecure {
        tracing::warn!("INSECURE: no TLS, no certificates; whoever reaches {} may do everything", listener.address());
        eprintln!("==================================================================================");
        eprintln!(" INSECURE: marchproxy-control runs without TLS and without certificates. For labs.");
        eprintln!("==================================================================================");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    };
    tracing::info!(address = %listener.address(), state_dir, "marchproxy-control {} serves", env!("CARGO_PKG_VERSION"));
    tokio::spawn(http::serve(pages, control.clone()));
    // Outside of systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    serve(control, listener, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_is_what_the_command_line_says() {
        Options::command().debug_assert();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        marchproxy_manual::check(Options::command(), &root).unwrap_or_else(|why| panic!("{why}"));
    }
}
