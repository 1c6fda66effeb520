//! Backends and what their health checks say.

use marchproxy_proto::v1::{BackendHealth, BackendStatus, BackendsRequest, BackendsResponse};

use crate::args::BackendCommand;
use crate::ask::Asked;
use crate::failure::Failure;
use crate::json;
use crate::out::{Out, Tone};
use crate::settings::Effective;
use crate::table::{Table, span, thousands};

/// `backend ...`
pub async fn backend(command: BackendCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        BackendCommand::List { service, node } => list(BackendsRequest { node, service }, settings, out).await,
        BackendCommand::Show { name, node } => {
            let Some((service, backend)) = name.split_once('/') else {
                return Err(Failure::refused(format!("backend: found {name:?}, allowed: SERVICE/BACKEND")));
            };
            let request = BackendsRequest { node, service: service.to_owned() };
            let answer = ask(request, settings).await?;
            let Some(found) = answer.backends.into_iter().find(|found| found.name == backend) else {
                return Err(Failure::refused(format!(
                    "backend: found {backend:?}, allowed: a backend of service {service} (marchctl backend list)"
                )));
            };
            show(&found, settings, out)
        }
    }
}

async fn ask(request: BackendsRequest, settings: &Effective) -> Result<BackendsResponse, Failure> {
    let mut asked = Asked::find(settings).await?;
    asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.backends(request).await }
        })
        .await
}

async fn list(request: BackendsRequest, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let answer = ask(request, settings).await?;
    if settings.json {
        out.line(json::pretty("BackendsResponse", &answer)?);
        return Ok(());
    }
    let mut table = Table::new(&[
        "BACKEND",
        "ADDRESS",
        ">WEIGHT",
        "STATE",
        "HEALTH",
        ">SINCE",
        "LAST CHECK",
        ">RTT",
        ">CHECKS",
        ">PACKETS",
    ]);
    for backend in &answer.backends {
        let health = backend.health.as_ref();
        let (word, tone) = word(health);
        let of = |text: fn(&BackendHealth) -> String| (health.map(text).unwrap_or_default(), None);
        table.toned([
            (format!("{}/{}", backend.service, backend.name), None),
            (endpoint(backend), None),
            (backend.weight.to_string(), None),
            (backend.state.clone(), (backend.state != "up").then_some(Tone::Warn)),
            (word, tone),
            of(|health| span(health.since_s.max(0.0) as u64)),
            of(last),
            of(rtt),
            of(|health| thousands(health.checks)),
            (thousands(backend.packets), None),
        ]);
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn show(backend: &BackendStatus, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    if settings.json {
        out.line(json::pretty("BackendStatus", backend)?);
        return Ok(());
    }
    let (word, tone) = word(backend.health.as_ref());
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let plain = |table: &mut Table, field: &str, value: String| table.row([field.to_owned(), value]);
    plain(&mut table, "backend", format!("{}/{}", backend.service, backend.name));
    plain(&mut table, "address", endpoint(backend));
    plain(&mut table, "weight", backend.weight.to_string());
    plain(&mut table, "state", backend.state.clone());
    plain(&mut table, "new sessions", if backend.takes_sessions { "yes" } else { "no" }.to_owned());
    plain(&mut table, "packets", thousands(backend.packets));
    table.toned([("health".to_owned(), None), (word, tone)]);
    if let Some(health) = &backend.health {
        let asked =
            if health.port == 0 { health.kind.clone() } else { format!("{} port {}", health.kind, health.port) };
        plain(&mut table, "check", asked);
        plain(&mut table, "since", span(health.since_s.max(0.0) as u64));
        plain(
            &mut table,
            "last check",
            format!("{}, {:.1} s ago, {} in a row", last(health), health.last_s, health.streak),
        );
        plain(&mut table, "round trip", rtt(health));
        plain(
            &mut table,
            "checks",
            format!("{}, of them failed {}", thousands(health.checks), thousands(health.failures)),
        );
        plain(&mut table, "flaps in a row", health.flaps.to_string());
        if health.hold_s > 0.0 {
            plain(&mut table, "held down for", format!("{:.1} s more", health.hold_s));
        }
        if health.panic {
            plain(&mut table, "panic", "too few of the service are healthy: all are used".to_owned());
        }
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn endpoint(backend: &BackendStatus) -> String {
    match backend.port {
        Some(port) if backend.address.contains(':') => format!("[{}]:{port}", backend.address),
        Some(port) => format!("{}:{port}", backend.address),
        None => backend.address.clone(),
    }
}

/// The health in a word; in a panic the backend is used although it is down.
fn word(health: Option<&BackendHealth>) -> (String, Option<Tone>) {
    let Some(health) = health else { return ("not checked".to_owned(), None) };
    let tone = match health.state.as_str() {
        "up" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Warn,
    };
    let panic = if health.panic { " (panic)" } else { "" };
    (format!("{}{panic}", health.state), Some(tone))
}

fn last(health: &BackendHealth) -> String {
    match (health.last_result.as_str(), health.last_status) {
        ("", _) => "none yet".to_owned(),
        ("status", status) => format!("status {status}"),
        (result, _) => result.replace('_', " "),
    }
}

fn rtt(health: &BackendHealth) -> String {
    health.rtt_s.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0))
}
