//! Where control is and who we are: flags and variables, then marchctl.toml, then the usual places.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::time::ASN1Time;

use crate::args::Global;
use crate::failure::Failure;
use marchproxy_control::pki::{Identity, Peer};

/// Where control listens unless said otherwise.
const CONTROL: &str = "https://127.0.0.1:18000";
/// Where a node's local socket is unless said otherwise.
const SOCKET: &str = "/run/marchproxy/dataplane.sock";
/// An operator's files, for everybody on the host.
const SYSTEM: &str = "/etc/marchproxy";
/// Where control on this host keeps the first operator's files; only root and control's user can read them.
const FIRST: &str = "/var/lib/marchproxy/control";

/// `marchctl.toml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    control: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    cluster: Option<String>,
    socket: Option<PathBuf>,
}

/// What TLS needs, PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The authority's certificate.
    pub ca: String,
    /// Our certificate and key, where we have them.
    pub own: Option<(String, String)>,
}

/// All settings, worked out.
#[derive(Clone)]
pub struct Effective {
    /// Where control listens.
    pub control: String,
    /// None with `http://`.
    pub credentials: Option<Credentials>,
    /// Which cluster is meant.
    pub cluster: String,
    /// The node's local socket, asked for by name.
    pub socket: Option<PathBuf>,
    /// The node's local socket, should control be away.
    pub fallback: PathBuf,
    /// JSON instead of text.
    pub json: bool,
}

impl Effective {
    /// Works them out.
    pub fn resolve(flags: &Global) -> Result<Effective, Failure> {
        let (file, place) = read_file()?;
        let beside = |path: PathBuf| place.as_deref().map_or_else(|| path.clone(), |place| place.join(&path));
        let control = flags.control.clone().or(file.control).unwrap_or_else(|| CONTROL.to_owned());
        if !(control.starts_with("https://") || control.starts_with("http://")) {
            return Err(Failure::refused(format!(
                "--control {control:?}: allowed are https://HOST:PORT and http://HOST:PORT"
            )));
        }
        let files = Files {
            ca: flags.ca.clone().or(file.ca.map(beside)),
            cert: flags.cert.clone().or(file.cert.map(beside)),
            key: flags.key.clone().or(file.key.map(beside)),
        };
        let credentials = if control.starts_with("http://") { None } else { files.load()? };
        let own = credentials.as_ref().and_then(|credentials| credentials.own.as_ref());
        let cluster = flags
            .cluster
            .clone()
            .or(file.cluster)
            .or_else(|| own.and_then(|(cert, _)| identity(cert)).map(|identity| identity.cluster))
            .unwrap_or_else(|| "default".to_owned());
        Ok(Effective {
            control,
            credentials,
            cluster,
            socket: flags.socket.clone(),
            fallback: file.socket.unwrap_or_else(|| PathBuf::from(SOCKET)),
            json: flags.json,
        })
    }
}

struct Files {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Files {
    /// Reads what was named; what was not is looked for in the usual places.
    fn load(self) -> Result<Option<Credentials>, Failure> {
        let (cert, key, usual_ca) = match (self.cert, self.key) {
            (Some(cert), Some(key)) => (Some(cert), Some(key), None),
            (None, None) => usual(),
            (Some(cert), None) => return Err(half(&cert, "--key")),
            (None, Some(key)) => return Err(half(&key, "--cert")),
        };
        let ca = self
            .ca
            .or(usual_ca)
            .or_else(|| [SYSTEM, FIRST].iter().map(|dir| Path::new(dir).join("ca.pem")).find(|path| readable(path)));
        let Some(ca) = ca else { return Ok(None) };
        let own = match (cert, key) {
            (Some(cert), Some(key)) => Some((read(&cert)?, read(&key)?)),
            _ => None,
        };
        Ok(Some(Credentials { ca: read(&ca)?, own }))
    }
}

fn usual() -> (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>) {
    for (dir, name) in [(SYSTEM, "operator"), (FIRST, "operator-admin")] {
        let (cert, key) = (Path::new(dir).join(format!("{name}.pem")), Path::new(dir).join(format!("{name}.key")));
        if readable(&cert) && readable(&key) {
            return (Some(cert), Some(key), Some(Path::new(dir).join("ca.pem")).filter(|ca| readable(ca)));
        }
    }
    (None, None, None)
}

fn readable(path: &Path) -> bool {
    std::fs::File::open(path).is_ok()
}

fn half(path: &Path, missing: &str) -> Failure {
    Failure::refused(format!("{} alone is of no use: give {missing} too", path.display()))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|why| Failure::refused(format!("cannot read {}: {why}", path.display())))
}

/// The role in a certificate.
pub fn identity(pem: &str) -> Option<Identity> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    Peer::from_certificate(&pem.contents).ok().map(|peer| peer.identity)
}

impl Credentials {
    /// Whether control can accept them at all: our certificate must be of the authority we trust, and valid now. Over TLS 1.3 a
    /// server's refusal comes after the connection stands, and is sometimes lost with it; so it is looked at here first.
    pub fn check(&self) -> Result<(), Failure> {
        let Some((own, _)) = &self.own else { return Ok(()) };
        let refused = |why: String| Failure::refused(format!("your certificate is of no use: {why}"));
        let (_, pem) = parse_x509_pem(own.as_bytes()).map_err(|why| refused(format!("it cannot be read: {why}")))?;
        let own = pem.parse_x509().map_err(|why| refused(format!("it cannot be read: {why}")))?;
        let issued = Pem::iter_from_buffer(self.ca.as_bytes())
            .filter_map(Result::ok)
            .any(|ca| ca.parse_x509().is_ok_and(|ca| own.verify_signature(Some(ca.public_key())).is_ok()));
        let again = "give the right ones with --ca, --cert and --key, or enrol again (`marchctl enrol FILE`)";
        if !issued {
            return Err(refused(format!("it was not issued by the authority given with it; {again}")));
        }
        if own.validity().not_after < ASN1Time::now() {
            return Err(refused(format!("it expired on {}; {again}", own.validity().not_after)));
        }
        Ok(())
    }
}

/// Where a person's settings are.
pub fn home() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    config.map(|config| config.join("marchproxy"))
}

/// The file and the directory its relative paths start from.
fn read_file() -> Result<(File, Option<PathBuf>), Failure> {
    let named = std::env::var_os("MARCHCTL_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match (&named, home()) {
        (Some(path), _) => path.clone(),
        (None, Some(home)) => home.join("marchctl.toml"),
        (None, None) => return Ok((File::default(), None)),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            return Ok((File::default(), None));
        }
        Err(why) => return Err(Failure::refused(format!("cannot read {}: {why}", path.display()))),
    };
    let file = toml::from_str(&text).map_err(|why| Failure::refused(format!("{}: {why}", path.display())))?;
    Ok((file, path.parent().map(Path::to_owned)))
}
