//! Nodes and operators: what runs where, tokens, certificates, enrolment.

use std::path::Path;

use marchproxy_proto::v1;
use v1::revoke_request::What;

use crate::args::{Enrol, NodeCommand, OperatorCommand, Revoke, Token};
use crate::failure::{Failure, from_status};
use crate::out::{Out, Tone};
use crate::settings::{Effective, home};
use crate::table::{Table, moment};
use crate::{connect, json};
use marchproxy_control::pki::{Enrolment, PkiError, Request, Role, write_private, write_public};

pub async fn node(command: NodeCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(settings, out).await,
        NodeCommand::Show { name } => show(&name, settings, out).await,
        NodeCommand::Token(args) => token(Role::Node, args, settings, out).await,
        NodeCommand::Revoke(args) => revoke(Role::Node, args, settings, out).await,
    }
}

pub async fn operator(command: OperatorCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        OperatorCommand::List => operators(settings, out).await,
        OperatorCommand::Token(args) => token(Role::Operator, args, settings, out).await,
        OperatorCommand::Revoke(args) => revoke(Role::Operator, args, settings, out).await,
    }
}

async fn known(settings: &Effective) -> Result<v1::NodesResponse, Failure> {
    let request = v1::NodesRequest { cluster: settings.cluster.clone() };
    let answer = connect::operate(settings).await?.nodes(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status, &settings.control))
}

async fn certificates(settings: &Effective, role: Role) -> Result<Vec<v1::CertificateInfo>, Failure> {
    let request = v1::CertificatesRequest { cluster: settings.cluster.clone() };
    let answer = connect::enrol(settings).await?.certificates(request).await;
    let answer = answer.map_err(|status| from_status(&status, &settings.control))?.into_inner();
    Ok(answer.certificates.into_iter().filter(|certificate| certificate.role == role.as_str()).collect())
}

async fn list(settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let answer = known(settings).await?;
    if settings.json {
        out.line(json::pretty("NodesResponse", &answer)?);
        return Ok(());
    }
    if answer.nodes.is_empty() {
        out.line("no node in the document and none connected; write `nodes:` into the document, and see `marchctl node token --help`");
        return Ok(());
    }
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        ">VERSION",
        ">WANTED",
        ">GENERATION",
        ">WORKERS",
        "BACKEND",
        "SOFTWARE",
        "LAST SEEN",
        "TROUBLE",
    ]);
    for node in &answer.nodes {
        let (state, tone) = state(node);
        table.toned([
            (node.name.clone(), None),
            (state.to_owned(), Some(tone)),
            (node.version.to_string(), None),
            (node.wanted_version.to_string(), None),
            (node.generation.to_string(), None),
            (node.workers.to_string(), None),
            (node.backend.clone(), None),
            (node.software.clone(), None),
            (moment(node.last_seen.as_ref()), None),
            (node.last_error.clone(), None),
        ]);
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn state(node: &v1::NodeInfo) -> (&'static str, Tone) {
    match (node.connected, node.version == node.wanted_version) {
        (false, _) => ("away", Tone::Bad),
        (true, _) if node.wanted_version == 0 => ("not in document", Tone::Warn),
        (true, true) => ("settled", Tone::Good),
        (true, false) => ("behind", Tone::Warn),
    }
}

async fn show(name: &str, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let answer = known(settings).await?;
    let node = answer.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
        Failure::refused(format!("cluster {} has no node {name:?}; `marchctl node list` names them", settings.cluster))
    })?;
    let mut owned = certificates(settings, Role::Node).await?;
    owned.retain(|certificate| certificate.name == name);
    if settings.json {
        let mut whole = json::value("NodeInfo", node)?;
        let list = owned.iter().map(|c| json::value("CertificateInfo", c)).collect::<Result<Vec<_>, _>>()?;
        whole["certificates"] = serde_json::Value::Array(list);
        out.line(format!("{whole:#}"));
        return Ok(());
    }
    let (state, tone) = state(node);
    let state = out.paint().on(tone, state);
    for (title, value) in [
        ("node", node.name.clone()),
        ("cluster", node.cluster.clone()),
        ("state", state),
        ("version", format!("{} (wanted {})", node.version, node.wanted_version)),
        ("generation", node.generation.to_string()),
        ("workers", node.workers.to_string()),
        ("backend", node.backend.clone()),
        ("software", node.software.clone()),
        ("last seen", moment(node.last_seen.as_ref())),
        ("trouble", if node.last_error.is_empty() { "none".to_owned() } else { node.last_error.clone() }),
    ] {
        out.line(format!("{title:12}{value}"));
    }
    if !owned.is_empty() {
        out.line("");
        say_certificates(&owned, out);
    }
    Ok(())
}

async fn operators(settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let all = certificates(settings, Role::Operator).await?;
    if settings.json {
        out.line(json::pretty("CertificatesResponse", &v1::CertificatesResponse { certificates: all })?);
    } else {
        say_certificates(&all, out);
    }
    Ok(())
}

fn say_certificates(certificates: &[v1::CertificateInfo], out: &mut Out) {
    let mut table = Table::new(&["NAME", "STATE", "VALID UNTIL", "SERIAL"]);
    for certificate in certificates {
        let state = if certificate.revoked { ("revoked", Tone::Bad) } else { ("valid", Tone::Good) };
        table.toned([
            (certificate.name.clone(), None),
            (state.0.to_owned(), Some(state.1)),
            (moment(certificate.not_after.as_ref()), None),
            (certificate.serial.clone(), None),
        ]);
    }
    out.text(&table.render(out.paint()));
}

async fn token(role: Role, args: Token, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::CreateTokenRequest {
        cluster: settings.cluster.clone(),
        role: role.as_str().to_owned(),
        name: args.name.clone(),
        valid_s: args.valid,
    };
    let answer = connect::enrol(settings)
        .await?
        .create_token(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    let control = args.advertise.unwrap_or_else(|| settings.control.clone());
    if control.contains("//127.0.0.1") || control.contains("//localhost") || control.contains("//[::1]") {
        eprintln!("marchctl: note: the file says {control}, which is this host only; see --advertise");
    }
    let file = Enrolment {
        control,
        ca_pem: answer.ca_pem,
        token: answer.token,
        cluster: settings.cluster.clone(),
        role: role.as_str().to_owned(),
        name: args.name,
    };
    let text = serde_json::to_string_pretty(&file)
        .map_err(|why| Failure::refused(format!("cannot write the enrolment file: {why}; please report this")))?;
    let until = moment(answer.expires.as_ref());
    match args.out {
        Some(path) => {
            write_private(&path, &format!("{text}\n")).map_err(|why| from_pki(&why))?;
            let next = match role {
                Role::Node => "give it to the node's marchproxy-dataplane",
                Role::Operator => "they run `marchctl enrol FILE`",
            };
            if settings.json {
                out.line(serde_json::json!({ "file": path, "expires": until }).to_string());
            } else {
                out.line(format!("wrote {}: good once, until {until}; {next}", path.display()));
            }
        }
        None => out.line(text),
    }
    Ok(())
}

async fn revoke(role: Role, args: Revoke, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let what = match args.serial {
        Some(serial) => {
            let owned = certificates(settings, role).await?;
            if !owned.iter().any(|c| c.serial == serial && c.name == args.name) {
                return Err(Failure::refused(format!("{role} {} has no certificate with serial {serial}", args.name)));
            }
            What::Serial(serial)
        }
        None => What::Name(format!("{role}/{}", args.name)),
    };
    let request = v1::RevokeRequest { cluster: settings.cluster.clone(), what: Some(what) };
    let answer = connect::enrol(settings)
        .await?
        .revoke(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    if settings.json {
        out.line(json::pretty("RevokeResponse", &answer)?);
    } else if answer.revoked == 0 {
        out.line(format!("nothing to revoke: {role} {} has no valid certificate", args.name));
    } else {
        out.line(format!("revoked {} certificates of {role} {}", answer.revoked, args.name));
    }
    Ok(())
}

/// Trades the token in; keeps key, certificate, authority and a marchctl.toml that names them.
pub async fn enrol(args: Enrol, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let file = Enrolment::read(&args.file, Role::Operator).map_err(|why| from_pki(&why))?;
    let dir =
        args.dir.or_else(home).ok_or_else(|| Failure::refused("there is no home directory; say where with --dir"))?;
    std::fs::create_dir_all(&dir).map_err(|why| Failure::refused(format!("cannot make {}: {why}", dir.display())))?;
    let request = Request::generate().map_err(|why| from_pki(&why))?;
    let answer = connect::enrol_as_nobody(&file.control, &file.ca_pem)
        .await?
        .enrol(v1::EnrolRequest { token: file.token, csr_der: request.csr_der })
        .await
        .map_err(|status| from_status(&status, &file.control))?
        .into_inner();
    let config = format!(
        "control = {:?}\ncluster = {:?}\nca = \"ca.pem\"\ncert = \"operator.pem\"\nkey = \"operator.key\"\n",
        file.control, file.cluster
    );
    let keep = |name: &str, text: &str, write: fn(&Path, &str) -> Result<(), PkiError>| {
        write(&dir.join(name), text).map_err(|why| from_pki(&why))
    };
    keep("operator.key", &request.key_pem, write_private)?;
    keep("operator.pem", &answer.certificate_pem, write_public)?;
    keep("ca.pem", &answer.ca_pem, write_public)?;
    keep("marchctl.toml", &config, write_public)?;
    if settings.json {
        out.line(serde_json::json!({ "name": file.name, "cluster": file.cluster, "dir": dir }).to_string());
    } else {
        out.line(format!("you are operator {} of cluster {}; files are in {}", file.name, file.cluster, dir.display()));
        if home().as_deref() != Some(dir.as_path()) {
            out.line(format!("use them with MARCHCTL_CONFIG={}", dir.join("marchctl.toml").display()));
        }
    }
    Ok(())
}

fn from_pki(why: &PkiError) -> Failure {
    Failure::refused(why.to_string())
}
