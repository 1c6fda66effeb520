//! `policer list|show`: policers as they stand in the document, and what a node's packets were coloured.

use std::time::Duration;

use marchproxy_proto::v1;
use serde_json::{Value, json};

use crate::args::PolicerCommand;
use crate::ask::Asked;
use crate::failure::Failure;
use crate::objects;
use crate::out::Out;
use crate::settings::Effective;
use crate::table::{Table, thousands};

/// A rate is measured over so long.
const MEASURED: Duration = Duration::from_secs(1);

/// Packets and octets of all colours, of yellow and of red ones, and packets that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    packets: [u64; 3],
    octets: [u64; 3],
    dropped: u64,
}

/// `policer ...`
pub async fn policer(command: PolicerCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let stored = objects::stored("policer", settings).await?;
    match command {
        PolicerCommand::List { node } => {
            let live = stats(&node, settings).await;
            list(stored, live.as_ref(), settings, out);
            Ok(())
        }
        PolicerCommand::Show { name, node } => {
            let Some(mut found) = stored.into_iter().find(|policer| policer["name"] == name.as_str()) else {
                let allowed = "the name of a policer; `marchctl policer list` names them";
                return Err(Failure::refused(format!("policer: found {name:?}, allowed: {allowed}")));
            };
            if let Some(before) = stats(&node, settings).await {
                tokio::time::sleep(MEASURED).await;
                let after = stats(&node, settings).await.unwrap_or_else(|| before.clone());
                let (first, last) = (seen(&before, &name), seen(&after, &name));
                let mut live = shown(&last);
                let bits = last.octets.iter().sum::<u64>().saturating_sub(first.octets.iter().sum()) * 8;
                live["measured_kbps"] = json!(bits / 1000 / MEASURED.as_secs());
                found["live"] = live;
            }
            if settings.json {
                out.line(format!("{found:#}"));
            } else {
                objects::show(&found, out);
            }
            Ok(())
        }
    }
}

/// What a node counts; nothing, with a note, where none answers: the document is there all the same.
async fn stats(node: &str, settings: &Effective) -> Option<v1::StatsResponse> {
    let request = v1::StatsRequest { node: node.to_owned() };
    let mut asked = match Asked::find(settings).await {
        Ok(asked) => asked,
        Err(failure) => return without(&failure),
    };
    let answer = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.stats(request).await }
        })
        .await;
    answer.map_or_else(|failure| without(&failure), Some)
}

fn without(failure: &Failure) -> Option<v1::StatsResponse> {
    eprintln!("marchctl: note: without live figures: {failure}");
    None
}

fn seen(stats: &v1::StatsResponse, name: &str) -> Seen {
    let count = |kind: &str, name: &str| stats.objects.iter().find(|object| object.kind == kind && object.name == name);
    let [all, yellow, red] =
        [count("policer", name), count("colour", &format!("{name}/yellow")), count("colour", &format!("{name}/red"))];
    let split = |value: fn(&v1::ObjectCount) -> u64| {
        let [all, yellow, red] = [all, yellow, red].map(|object| object.map_or(0, value));
        [all.saturating_sub(yellow + red), yellow, red]
    };
    Seen { packets: split(|o| o.packets), octets: split(|o| o.bytes), dropped: all.map_or(0, |object| object.dropped) }
}

fn shown(seen: &Seen) -> Value {
    let colour = |n: usize| json!({"packets": seen.packets[n], "bytes": seen.octets[n]});
    json!({"green": colour(0), "yellow": colour(1), "red": colour(2), "dropped_packets": seen.dropped})
}

fn list(mut stored: Vec<Value>, live: Option<&v1::StatsResponse>, settings: &Effective, out: &mut Out) {
    let seen = |policer: &Value| live.map(|stats| seen(stats, policer["name"].as_str().unwrap_or_default()));
    if settings.json {
        for policer in &mut stored {
            if let Some(seen) = seen(policer) {
                policer["live"] = shown(&seen);
            }
        }
        out.line(format!("{:#}", Value::Array(stored)));
        return;
    }
    if stored.is_empty() {
        out.line("the document has no policer");
        return;
    }
    let mut table = Table::new(&["NAME", "KIND", "RATES", "BURSTS", ">GREEN", ">YELLOW", ">RED", ">DROPPED"]);
    for policer in &stored {
        let figures = seen(policer).map(|seen| {
            let [green, yellow, red] = seen.packets;
            [green, yellow, red, seen.dropped].map(thousands)
        });
        let figures = figures.unwrap_or([const { String::new() }; 4]);
        let text = |field: &str| policer[field].as_str().unwrap_or_default().to_owned();
        let numbers = |fields: &[&str]| {
            let given = fields.iter().filter_map(|field| {
                let number = policer[*field].as_u64().filter(|number| *number > 0)?;
                let (name, unit) = field.split_once('_')?;
                Some(format!("{name} {number} {unit}"))
            });
            given.collect::<Vec<_>>().join(", ")
        };
        let rates = numbers(&["cir_kbps", "pir_kbps", "eir_kbps", "cir_pps", "pir_pps", "eir_pps"]);
        let bursts = numbers(&["cbs_bytes", "ebs_bytes", "pbs_bytes", "cbs_packets", "ebs_packets", "pbs_packets"]);
        table.row([text("name"), text("kind"), rates, bursts].into_iter().chain(figures));
    }
    out.text(&table.render(out.paint()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn green_is_what_is_neither_yellow_nor_red() {
        let object = |kind: &str, name: &str, packets, dropped| v1::ObjectCount {
            kind: kind.into(),
            name: name.into(),
            packets,
            bytes: packets * 100,
            dropped,
        };
        let stats = v1::StatsResponse {
            objects: vec![
                object("policer", "a", 10, 3),
                object("colour", "a/yellow", 2, 0),
                object("colour", "a/red", 3, 0),
                object("policer", "b", 1, 0),
            ],
            ..Default::default()
        };
        assert_eq!(seen(&stats, "a"), Seen { packets: [5, 2, 3], octets: [500, 200, 300], dropped: 3 });
        assert_eq!(seen(&stats, "b").packets, [1, 0, 0]);
        assert_eq!(seen(&stats, "c"), Seen::default());
        assert_eq!(shown(&seen(&stats, "a"))["red"]["packets"], 3);
    }
}
