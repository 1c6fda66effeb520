//! `qos list|show`: QoS of the stored document, and the queues of a node's shaped ports as they stand.

use std::time::Duration;

use marchproxy_proto::v1;
use serde_json::{Value, json};

use crate::args::QosCommand;
use crate::ask::Asked;
use crate::failure::Failure;
use crate::json;
use crate::objects;
use crate::out::{Out, Tone};
use crate::settings::Effective;
use crate::table::{Table, micros, scaled, thousands};

/// Rates are measured over so long.
const MEASURED: Duration = Duration::from_secs(1);

/// Longest bar of a histogram.
const BAR: usize = 40;

/// `qos ...`
pub async fn qos(command: QosCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        QosCommand::List { node } => {
            let (stored, live) = (stored("qos", settings).await?, seen(&node, settings).await);
            list(&stored, live, settings, out)
        }
        QosCommand::Show { name, node } => {
            let (qos, services) = (stored("qos", settings).await?, stored("service", settings).await?);
            let (object, services) =
                if settings.socket.is_some() { (None, vec![name]) } else { meant(&name, &qos, &services)? };
            let mut live = None;
            if let Some(first) = seen(&node, settings).await {
                tokio::time::sleep(MEASURED).await;
                live = seen(&node, settings).await.map(|last| queues((first, last), &services));
            }
            show(object.as_ref(), live, settings, out)
        }
    }
}

/// Objects of the document; a node that was named by its socket stands alone.
async fn stored(kind: &str, settings: &Effective) -> Result<Vec<Value>, Failure> {
    if settings.socket.is_some() { Ok(Vec::new()) } else { objects::stored(kind, settings).await }
}

/// The queues; nothing, with a note, where no node answers: the document is there all the same.
async fn seen(node: &str, settings: &Effective) -> Option<v1::QosResponse> {
    let request = v1::QosRequest { node: node.to_owned(), ..Default::default() };
    let answer = async {
        let mut asked = Asked::find(settings).await?;
        asked
            .ask(settings, |mut client| {
                let request = request.clone();
                async move { client.qos(request).await }
            })
            .await
    };
    let note = |failure: &Failure| eprintln!("marchctl: note: without the queues: {failure}");
    answer.await.inspect_err(note).ok()
}

/// What a name means: a QoS object with the services that have it, or a service with its own.
fn meant(name: &str, qos: &[Value], services: &[Value]) -> Result<(Option<Value>, Vec<String>), Failure> {
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let find = |name: &str| qos.iter().find(|object| text(object, "name") == name).cloned();
    if let Some(object) = find(name) {
        let with = services.iter().filter(|service| text(service, "qos") == name);
        return Ok((Some(object), with.map(|service| text(service, "name")).collect()));
    }
    let service = services.iter().find(|service| text(service, "name") == name);
    let Some(service) = service else {
        let allowed = "a QoS object or a service; `marchctl qos list` and `marchctl service list` name them";
        return Err(Failure::refused(format!("qos: found {name:?}, allowed: {allowed}")));
    };
    Ok((find(&text(service, "qos")), vec![name.to_owned()]))
}

/// A queue at two moments.
struct Measured {
    port: String,
    before: v1::Queue,
    now: v1::Queue,
    bounds: Vec<f64>,
}

impl Measured {
    /// Packets of the second by their wait; of all time when none went meanwhile.
    fn waits(&self) -> Vec<u64> {
        let before = self.before.waits.iter().copied().chain(std::iter::repeat(0));
        let lately: Vec<u64> = self.now.waits.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect();
        if lately.iter().all(|n| *n == 0) { self.now.waits.clone() } else { lately }
    }

    fn rate(&self, value: impl Fn(&v1::Queue) -> u64) -> f64 {
        value(&self.now).saturating_sub(value(&self.before)) as f64 / MEASURED.as_secs_f64()
    }
}

/// These services' queues in both answers.
fn queues((first, last): (v1::QosResponse, v1::QosResponse), services: &[String]) -> Vec<Measured> {
    let find = |port: &str, queue: &v1::Queue| {
        let port = first.ports.iter().find(|shaped| shaped.port == port)?;
        port.queues.iter().find(|old| (&old.service, &old.class) == (&queue.service, &queue.class)).cloned()
    };
    let mut all = Vec::new();
    for port in last.ports {
        for now in port.queues.into_iter().filter(|queue| services.contains(&queue.service)) {
            let before = find(&port.port, &now).unwrap_or_default();
            all.push(Measured { port: port.port.clone(), before, now, bounds: last.wait_bounds_s.clone() });
        }
    }
    all
}

/// The bound within which so many of all packets lie; `None`: beyond all bounds, or no packets.
fn percentile(waits: &[u64], bounds: &[f64], share: f64) -> Option<f64> {
    let wanted = waits.iter().sum::<u64>() as f64 * share;
    let mut sum = 0;
    for (count, bound) in waits.iter().zip(bounds) {
        sum += count;
        if sum > 0 && sum as f64 >= wanted {
            return Some(*bound);
        }
    }
    None
}

fn seconds(seconds: f64) -> String {
    micros((seconds * 1e6).round() as u64)
}

fn within(waits: &[u64], bounds: &[f64], share: f64) -> String {
    match percentile(waits, bounds, share) {
        Some(bound) => format!("<= {}", seconds(bound)),
        None if waits.iter().sum::<u64>() == 0 => String::new(),
        None => format!("> {}", seconds(bounds.last().copied().unwrap_or_default())),
    }
}

/// `20 Mbit/s`.
fn rate(bits_per_s: f64) -> String {
    let number = scaled(bits_per_s);
    let space = if number.ends_with(|last: char| last.is_ascii_digit()) { " " } else { "" };
    format!("{number}{space}bit/s")
}

fn drops(queue: &v1::Queue) -> u64 {
    queue.dropped_full + queue.dropped_deadline + queue.dropped_aqm
}

fn owner(queue: &v1::Queue) -> String {
    if queue.service.is_empty() { "(no service)".to_owned() } else { queue.service.clone() }
}

fn list(stored: &[Value], live: Option<v1::QosResponse>, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    if settings.json {
        let live = live.map(|live| json::value("QosResponse", &live)).transpose()?;
        out.line(format!("{:#}", json!({"qos": stored, "live": live})));
        return Ok(());
    }
    if settings.socket.is_none() {
        objects::list("qos", stored, out);
    }
    let Some(live) = live else { return Ok(()) };
    if live.ports.is_empty() {
        out.line("no port of the node is shaped (ports[].shaper)");
        return Ok(());
    }
    for port in &live.ports {
        let (whole, p0) = (rate(port.rate_kbps as f64 * 1e3), rate(port.p0_kbps as f64 * 1e3));
        out.line(format!("\nport {}: {whole}, P0 up to {p0}, queues owned by worker {}", port.port, port.worker));
        let columns =
            ["SERVICE", "CLASS", ">WAITING", ">OCTETS", ">TIME", ">SENT", ">FULL", ">DEADLINE", ">AQM", ">MARKED"];
        let mut table = Table::new(&columns);
        for queue in &port.queues {
            let plain = |text: String| (text, None);
            let dropped = |count: u64| (thousands(count), (count > 0).then_some(Tone::Warn));
            table.toned([
                plain(owner(queue)),
                plain(queue.class.clone()),
                plain(thousands(queue.waiting_packets)),
                plain(thousands(queue.waiting_bytes)),
                plain(seconds(queue.last_wait_s)),
                plain(thousands(queue.sent_packets)),
                dropped(queue.dropped_full),
                dropped(queue.dropped_deadline),
                dropped(queue.dropped_aqm),
                plain(thousands(queue.marked)),
            ]);
        }
        out.text(&table.render(out.paint()));
    }
    Ok(())
}

fn show(
    object: Option<&Value>,
    live: Option<Vec<Measured>>,
    settings: &Effective,
    out: &mut Out,
) -> Result<(), Failure> {
    if settings.json {
        let one = |queue: &Measured| -> Result<Value, Failure> {
            let mut value = json::value("Queue", &queue.now)?;
            let waits = queue.waits();
            value["port"] = json!(queue.port);
            value["measured_bits_per_s"] = json!(queue.rate(|q| q.sent_bytes) * 8.0);
            value["measured_packets_per_s"] = json!(queue.rate(|q| q.sent_packets));
            for (name, share) in [("wait_p50_s", 0.5), ("wait_p99_s", 0.99)] {
                value[name] = json!(percentile(&waits, &queue.bounds, share));
            }
            value["wait_bounds_s"] = json!(queue.bounds);
            Ok(value)
        };
        let live = live.map(|all| all.iter().map(one).collect::<Result<Vec<_>, _>>()).transpose()?;
        out.line(format!("{:#}", json!({"qos": object, "queues": live})));
        return Ok(());
    }
    if let Some(object) = object {
        objects::show(object, out);
    }
    let Some(live) = live else { return Ok(()) };
    if live.is_empty() {
        out.line("no packet of it came to a shaped port yet");
    }
    for queue in &live {
        let (bits, packets) = (queue.rate(|q| q.sent_bytes) * 8.0, queue.rate(|q| q.sent_packets));
        let (now, waits) = (&queue.now, queue.waits());
        out.line(format!("\nport {}, {} {}", queue.port, owner(now), now.class));
        let limit =
            if now.rate_kbps == 0 { String::new() } else { format!(" of {}", rate(now.rate_kbps as f64 * 1e3)) };
        out.line(format!("  rate     {}{limit}, {} packets/s", rate(bits), scaled(packets)));
        out.line(format!(
            "  waiting  {} packets, {} octets, {}",
            thousands(now.waiting_packets),
            thousands(now.waiting_bytes),
            seconds(now.last_wait_s)
        ));
        out.line(format!(
            "  waits    half {}, 99 % {}",
            within(&waits, &queue.bounds, 0.5),
            within(&waits, &queue.bounds, 0.99)
        ));
        out.line(format!(
            "  dropped  {} (full {}, deadline {}, queue management {}), marked {}",
            thousands(drops(now)),
            thousands(now.dropped_full),
            thousands(now.dropped_deadline),
            thousands(now.dropped_aqm),
            thousands(now.marked)
        ));
        histogram(&waits, &queue.bounds, out);
    }
    Ok(())
}

/// A bar for each wait, from the first to the last that there are packets of.
fn histogram(waits: &[u64], bounds: &[f64], out: &mut Out) {
    let most = waits.iter().copied().max().unwrap_or(0);
    let (Some(first), Some(last)) = (waits.iter().position(|n| *n > 0), waits.iter().rposition(|n| *n > 0)) else {
        return;
    };
    for (at, count) in waits.iter().enumerate().take(last + 1).skip(first) {
        let name = match bounds.get(at) {
            Some(bound) => format!("<= {}", seconds(*bound)),
            None => format!("> {}", seconds(bounds.last().copied().unwrap_or_default())),
        };
        let length = (*count as f64 / most as f64 * BAR as f64).ceil() as usize;
        out.line(format!("  {name:>12}  {:<BAR$}  {}", "#".repeat(length), thousands(*count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(sent: u64, waits: &[u64]) -> v1::QosResponse {
        let queue = |service: &str, class: &str| v1::Queue {
            service: service.into(),
            class: class.into(),
            sent_packets: sent,
            sent_bytes: sent * 100,
            waits: waits.to_vec(),
            ..Default::default()
        };
        let queues = vec![queue("", "P3"), queue("web", "P1")];
        let port = v1::ShapedPort { port: "wan".into(), queues, ..Default::default() };
        v1::QosResponse { ports: vec![port], wait_bounds_s: vec![0.001, 0.01] }
    }

    #[test]
    fn rates_and_waits_are_of_the_time_between() {
        let seen = queues((response(10, &[10, 0, 0]), response(110, &[60, 49, 1])), &["web".to_owned()]);
        assert_eq!(seen.len(), 1, "only the service that was asked for");
        assert!((seen[0].rate(|q| q.sent_bytes) - 10_000.0).abs() < 0.1);
        let waits = seen[0].waits();
        assert_eq!(waits, [50, 49, 1]);
        assert_eq!(percentile(&waits, &seen[0].bounds, 0.5), Some(0.001));
        assert_eq!(percentile(&waits, &seen[0].bounds, 0.99), Some(0.01));
        assert_eq!(percentile(&waits, &seen[0].bounds, 1.0), None);
        assert_eq!(within(&waits, &seen[0].bounds, 1.0), "> 10.0 ms");
    }

    #[test]
    fn of_a_quiet_second_all_time_is_shown() {
        let seen = queues((response(10, &[10, 0, 0]), response(10, &[10, 0, 0])), &[String::new()]);
        assert_eq!((seen.len(), seen[0].waits()), (1, vec![10, 0, 0]));
        assert_eq!(percentile(&[0, 0, 0], &seen[0].bounds, 0.99), None);
    }

    #[test]
    fn a_name_is_a_qos_object_or_a_service() {
        let qos = vec![json!({"name": "voice"})];
        let services = [json!({"name": "sip", "qos": "voice"}), json!({"name": "web"})];
        let meant = |name| meant(name, &qos, &services).map_err(|failure| failure.to_string());
        assert_eq!(meant("voice").unwrap(), (Some(qos[0].clone()), vec!["sip".to_owned()]));
        assert_eq!(meant("sip").unwrap(), (Some(qos[0].clone()), vec!["sip".to_owned()]));
        assert_eq!(meant("web").unwrap(), (None, vec!["web".to_owned()]));
        assert!(meant("nothing").unwrap_err().contains("found \"nothing\", allowed: a QoS object or a service"));
    }
}
