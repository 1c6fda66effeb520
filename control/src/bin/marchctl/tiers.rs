//! How packets come to the engine, and why.

use marchproxy_proto::v1::{PortTier, RuleTier, TiersRequest, TiersResponse};

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
            if let Some(port) = answer.ports.iter().find(|port| port.port == name) {
                return show(port, &answer.backend, settings, out);
            }
            let Some(rule) = answer.rules.iter().find(|rule| rule.rule == name) else {
                return Err(Failure::refused(format!(
                    "tier: found {name:?}, allowed: a port or a rule of the node (marchctl tier list)"
                )));
            };
            show_rule(rule, settings, out)
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
    if !answer.rules.is_empty() {
        let mut table = Table::new(&["RULE", "TIER", ">XDP PACKETS", "WHY"]);
        for rule in &answer.rules {
            table.row([rule.rule.clone(), rule.tier.clone(), thousands(rule.xdp_packets), rule.reason.clone()]);
        }
        out.line("");
        out.text(&table.render(out.paint()));
    }
    Ok(())
}

fn show_rule(rule: &RuleTier, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    if settings.json {
        out.line(json::pretty("RuleTier", rule)?);
        return Ok(());
    }
    let mut table = Table::new(&["FIELD", "VALUE"]);
    table.row(["rule".to_owned(), rule.rule.clone()]);
    table.row(["tier".to_owned(), rule.tier.clone()]);
    table.row(["why".to_owned(), rule.reason.clone()]);
    let (packets, octets) = (thousands(rule.xdp_packets), thousands(rule.xdp_bytes));
    table.row(["decided in XDP".to_owned(), format!("{packets} packets, {octets} octets")]);
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
    let counts = [
        ("ended in XDP", port.xdp_dropped_packets, port.xdp_dropped_bytes),
        ("left to kernel", port.kernel_packets, port.kernel_bytes),
    ];
    for (field, packets, octets) in counts.into_iter().filter(|(_, packets, _)| *packets > 0) {
        plain(&mut table, field, format!("{} packets, {} octets", thousands(packets), thousands(octets)));
    }
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
