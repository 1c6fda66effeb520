//! `trace` and `capture`: live packets of a node, until there are enough, time is up, or ctrl-C.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use marchproxy_engine::observe::language;
use marchproxy_proto::v1;
use marchproxy_proto::v1::observation::Item;
use tonic::Streaming;

use crate::args::{Capture, Trace};
use crate::ask::Asked;
use crate::failure::Failure;
use crate::json;
use crate::out::{Out, Paint, Tone};
use crate::pcapng::{Packet, Way, Writer};
use crate::settings::Effective;

pub async fn trace(args: Trace, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    check(&args.filter)?;
    let request = v1::TraceRequest {
        node: args.node,
        r#match: args.filter,
        count: args.count,
        timeout_ms: args.timeout.saturating_mul(1000),
    };
    let mut asked = Asked::find(settings).await?;
    let stream = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.trace(request).await }
        })
        .await?;
    let json = settings.json;
    let told = follow(stream, &asked, |observation| {
        if json {
            out.line(json::value("Observation", observation)?.to_string());
        } else if let Some(item) = &observation.item {
            let paint = out.paint();
            match item {
                Item::Begun(begun) => {
                    let (count, timeout) = (request.count, args.timeout);
                    eprintln!("tracing on {}: up to {count} packets, {timeout} s; ctrl-C ends it", begun.node);
                }
                Item::Packet(packet) => out.text(&told_of(packet, paint)),
                Item::SlowPath(end) => out.line(format!(
                    "#{} slow path: {}  {}",
                    end.number,
                    paint.on(tone(&end.fate), format!("{}: {}", end.fate, end.reason)),
                    paint.on(Tone::Faint, &end.reason_description)
                )),
                Item::End(_) => {}
            }
        }
        out.flush();
        Ok(!out.is_gone())
    })
    .await?;
    if !json {
        out.line(told.summary());
    }
    told.judged()
}

pub async fn capture(args: Capture, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    check(&args.filter)?;
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::refused(
            "-w -: standard output is a terminal; write to a file, or into a pipe like `| tcpdump -r -`",
        ));
    }
    let request = v1::CaptureRequest {
        node: args.node,
        at: args.at.label().into(),
        r#match: args.filter,
        count: args.count,
        timeout_ms: args.timeout.saturating_mul(1000),
        snaplen: args.snaplen,
    };
    let mut asked = Asked::find(settings).await?;
    let stream = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.capture(request).await }
        })
        .await?;
    let failed = |why: io::Error| Failure::refused(format!("cannot write {}: {why}", args.write.display()));
    // Nothing is opened before the node began: a refused capture leaves an older file alone.
    let mut writer: Option<Writer<Box<dyn Write>>> = None;
    let told = follow(stream, &asked, |observation| {
        let written = match &observation.item {
            Some(Item::Begun(begun)) => {
                eprintln!(
                    "capturing on {} at {}: up to {} packets, {} s; ctrl-C ends it",
                    begun.node, request.at, request.count, args.timeout
                );
                open(&args.write, to_stdout)
                    .and_then(|file| begin(file, args.snaplen, &begun.ports))
                    .map(|begun| writer = Some(begun))
            }
            Some(Item::Packet(packet)) => writer.as_mut().map_or(Ok(()), |writer| write(writer, packet, &request.at)),
            _ => Ok(()),
        };
        match written {
            Ok(()) => Ok(true),
            // The reader of the pipe has seen enough.
            Err(why) if to_stdout && why.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(why) => Err(failed(why)),
        }
    })
    .await?;
    if let Some(writer) = &mut writer {
        writer.flush().map_err(failed)?;
    }
    if to_stdout {
        eprintln!("{}", told.summary());
    } else if settings.json {
        let file = args.write.display().to_string();
        out.line(
            serde_json::json!({"file": file, "packets": told.packets, "missed": told.missed, "ended": told.ended})
                .to_string(),
        );
    } else {
        out.line(format!("{}: {}", args.write.display(), told.summary()));
    }
    told.judged()
}

/// What a trace or capture came to.
struct Told {
    packets: u64,
    missed: u64,
    ended: &'static str,
}

impl Told {
    fn summary(&self) -> String {
        let Told { packets, missed, ended } = self;
        format!("{packets} packets, {missed} missed, ended by {ended}")
    }

    /// Packets that were wanted and not shown are worth an exit code.
    fn judged(&self) -> Result<(), Failure> {
        if self.missed == 0 {
            return Ok(());
        }
        let why = "came faster than they could be shown; a narrower --match, or a shorter --snaplen of captures, leaves fewer out";
        Err(Failure::Partly(format!("{} packets {why}", self.missed)))
    }
}

/// Takes items until the last one, ctrl-C, or until `take` has enough. Dropping the stream ends it on the node.
async fn follow(
    mut stream: Streaming<v1::Observation>,
    asked: &Asked,
    mut take: impl FnMut(&v1::Observation) -> Result<bool, Failure>,
) -> Result<Told, Failure> {
    let mut told = Told { packets: 0, missed: 0, ended: "ctrl-C" };
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = &mut interrupted => return Ok(told),
        };
        let Some(observation) = message.map_err(|status| broken(&told, asked.failure(&status)))? else {
            return Err(broken(&told, Failure::Unreachable("the node broke off".into())));
        };
        match &observation.item {
            Some(Item::Packet(_)) => told.packets += 1,
            Some(Item::End(end)) => {
                told.missed = end.missed;
                told.ended = if end.ended == "count" { "count" } else { "time" };
            }
            _ => {}
        }
        if !take(&observation)? {
            told.ended = "its reader";
            return Ok(told);
        }
        if matches!(observation.item, Some(Item::End(_))) {
            return Ok(told);
        }
    }
}

/// A stream that breaks behind its first packets did a part.
fn broken(told: &Told, failure: Failure) -> Failure {
    if told.packets == 0 { failure } else { Failure::Partly(format!("after {} packets: {failure}", told.packets)) }
}

/// What is wrong with a filter shows here, with a finger on it; names of ports are the node's to judge.
fn check(filter: &str) -> Result<(), Failure> {
    language::parse(filter, None).map(drop).map_err(|error| {
        let finger = " ".repeat(error.at.saturating_sub(1));
        Failure::refused(format!("{error}\n  {filter}\n  {finger}^"))
    })
}

fn told_of(packet: &v1::ObservedPacket, paint: Paint) -> String {
    let mut text = format!(
        "#{} {} {}, {}: {} ({} octets)\n",
        packet.number,
        clock(packet),
        packet.thread,
        if packet.port.is_empty() { "own" } else { &packet.port },
        paint.on(Tone::Strong, &packet.frame),
        packet.length
    );
    let width =
        |of: fn(&v1::WhyStep) -> &str| packet.steps.iter().map(|step| of(step).chars().count()).max().unwrap_or(0);
    let (stages, objects) = (width(|step| &step.stage), width(|step| &step.object));
    for step in &packet.steps {
        let line = format!("    {:stages$}  {:objects$}  {}", step.stage, step.object, step.detail);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let end = paint.on(tone(&packet.fate), &packet.end);
    let description = paint.on(Tone::Faint, &packet.reason_description);
    text.push_str(format!("    {end}  {description}").trim_end());
    text.push('\n');
    text
}

fn tone(fate: &str) -> Tone {
    match fate {
        "dropped" => Tone::Bad,
        "sent" | "consumed" => Tone::Good,
        _ => Tone::Warn,
    }
}

/// Time of day, UTC.
fn clock(packet: &v1::ObservedPacket) -> String {
    let at = since_1970(packet);
    let seconds = at.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:09}", seconds / 3600, seconds / 60 % 60, seconds % 60, at.subsec_nanos())
}

fn since_1970(packet: &v1::ObservedPacket) -> Duration {
    let at = packet.at.unwrap_or_default();
    Duration::new(at.seconds.max(0) as u64, at.nanos.clamp(0, 999_999_999) as u32)
}

fn open(path: &Path, to_stdout: bool) -> io::Result<Box<dyn Write>> {
    Ok(if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(File::create(path)?) })
}

fn begin(file: Box<dyn Write>, snaplen: u32, ports: &[String]) -> io::Result<Writer<Box<dyn Write>>> {
    let mut writer = Writer::new(Box::new(BufWriter::new(file)) as Box<dyn Write>, snaplen)?;
    for port in ports {
        writer.interface(port)?;
    }
    writer.flush()?;
    Ok(writer)
}

fn write(writer: &mut Writer<Box<dyn Write>>, packet: &v1::ObservedPacket, at: &str) -> io::Result<()> {
    let leaves = matches!(at, "tx" | "post-nat");
    let (first, second) = if leaves { (&packet.out_port, &packet.port) } else { (&packet.port, &packet.out_port) };
    let interface = [first, second].into_iter().find(|port| !port.is_empty()).map_or("none", String::as_str);
    let way = if leaves { Way::Out } else { Way::In };
    let (octets, length) = (&packet.octets, packet.length);
    writer.packet(&Packet { interface, at: since_1970(packet), octets, length, way, comment: &comment(packet, at) })
}

/// The verdict in front, and what led to it.
fn comment(packet: &v1::ObservedPacket, at: &str) -> String {
    let mut parts = vec![format!("{at}: {}", packet.end)];
    parts.extend(packet.steps.iter().map(|step| match step.detail.as_str() {
        "" => step.object.clone(),
        detail => format!("{}: {detail}", step.object),
    }));
    parts.push(match packet.generation {
        0 => packet.thread.clone(),
        generation => format!("{}, generation {generation}", packet.thread),
    });
    parts.join("; ")
}
