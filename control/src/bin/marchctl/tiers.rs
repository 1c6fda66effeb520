//! How packets come to the engine, and why.

use marchproxy_proto::v1::{PortTier, TiersRequest, TiersResponse};

use crate::args::TierCommand;
use crate::ask::Asked;
use crate::failure::Failure;
use crate::json;
use crate::out::{Out, Tone};
use crate::settings::Effective;
use crate::table::{Table, thousands};

/// `tier ...`
pub async fn tier(command: TierCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        TierCommand::List { node } => list(&ask(node, settings).await?, settings, out),
        TierCommand::Show { name, node } => {
            let answer = ask(node, settings).await?;
            let Some(found) = answer.ports.iter().find(|port| port.port == name) else {
                return Err(Failure::refused(format!(
                    "tier: found {name:?}, allowed: a port of the node (marchctl tier list)"
                )));
            };
            show(found, &answer.backend, settings, out)
        }
    }
}

async fn ask(node: String, settings: &Effective) -> Result<TiersResponse, Failure> {
    let mut asked = Asked::find(settings).await?;
    let request = TiersRequest { node };
    asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.tiers(request).await }
        })
        .await
}

fn list(answer: &TiersResponse, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    if settings.json {
        out.line(json::pretty("TiersResponse", answer)?);
        return Ok(());
    }
    let mut table =
        Table::new(&["PORT", "DEVICE", "TIER", "LINK", ">RX PACKETS", ">RX BYTES", ">TX PACKETS", ">TX BYTES"]);
    for port in &answer.ports {
        let (link, tone) = link(port);
        table.toned([
            (port.port.clone(), None),
            (port.device.clone(), None),
            (port.tier.clone(), None),
            (link, tone),
            (thousands(port.rx_packets), None),
            (thousands(port.rx_bytes), None),
            (thousands(port.tx_packets), None),
            (thousands(port.tx_bytes), None),
        ]);
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn show(port: &PortTier, backend: &str, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    if settings.json {
        out.line(json::pretty("PortTier", port)?);
        return Ok(());
    }
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let plain = |table: &mut Table, field: &str, value: String| table.row([field.to_owned(), value]);
    plain(&mut table, "port", port.port.clone());
    plain(&mut table, "device", port.device.clone());
    plain(&mut table, "tier", format!("{} (backend {backend})", port.tier));
    let (link, tone) = link(port);
    table.toned([("link".to_owned(), None), (link, tone)]);
    plain(
        &mut table,
        "received",
        format!("{} packets, {} octets", thousands(port.rx_packets), thousands(port.rx_bytes)),
    );
    plain(&mut table, "sent", format!("{} packets, {} octets", thousands(port.tx_packets), thousands(port.tx_bytes)));
    if !port.note.is_empty() {
        table.toned([("note".to_owned(), None), (port.note.clone(), Some(Tone::Warn))]);
    }
    for over in &port.passed_over {
        plain(&mut table, &format!("not {}", over.tier), over.reason.clone());
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn link(port: &PortTier) -> (String, Option<Tone>) {
    if port.link_up { ("up".to_owned(), None) } else { ("down".to_owned(), Some(Tone::Bad)) }
}
