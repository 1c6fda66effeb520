//! Verbs on the document: apply, confirm, validate, get, history, rollback, watch.

use std::io::Read as _;
use std::path::Path;

use marchproxy_proto::v1;
use prost::Message as _;
use v1::NodeOutcome;
use v1::apply_chunk::Content;

use crate::args::{Apply, Confirm, Format, Get, History, Rollback, Validate, Watch};
use crate::failure::{Failure, from_status};
use crate::out::{Out, Tone};
use crate::settings::Effective;
use crate::table::{Table, micros, moment, short};
use crate::{connect, json};
use marchproxy_control::model;

/// Chunks of a large document, encoded; well below what one message may have.
const CHUNK_OCTETS: usize = 8 << 20;

/// Reads and parses a document here, so that what is unknown is named with its place in the file.
pub fn read(file: &Path) -> Result<v1::Document, Failure> {
    let (name, text) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|why| Failure::refused(format!("cannot read standard input: {why}")))?;
        ("standard input".to_owned(), text)
    } else {
        let text = std::fs::read_to_string(file)
            .map_err(|why| Failure::refused(format!("cannot read {}: {why}", file.display())))?;
        (file.display().to_string(), text)
    };
    model::parse(&text).map_err(|why| Failure::refused(format!("{name}: {why}")))
}

/// A document of no named cluster belongs to ours.
pub fn settle_cluster(document: &mut v1::Document, settings: &Effective) {
    if document.cluster.is_empty() {
        document.cluster.clone_from(&settings.cluster);
    }
}

pub async fn apply(args: Apply, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let mut document = read(&args.file)?;
    settle_cluster(&mut document, settings);
    let header = v1::ApplyHeader {
        cluster: document.cluster.clone(),
        expected_version: args.expect_version,
        request_id: args.request_id,
        validate_only: args.validate_only,
        message: args.message,
        allow_port_restart: args.allow_port_restart,
        confirm_within_s: args.confirm_within.unwrap_or_default(),
        together: args
            .together
            .then(|| v1::Together { nodes: args.nodes, stage_within_s: args.stage_within.unwrap_or_default() }),
    };
    let mut client = connect::config(settings).await?;
    let answer = client
        .apply(tokio_stream::iter(chunks(header, document)))
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    if args.validate_only {
        return say_valid(&answer.warnings, &answer.content_hash, settings, out, Some(&answer));
    }
    say_applied(&answer, settings, out)
}

fn chunks(header: v1::ApplyHeader, mut document: v1::Document) -> Vec<v1::ApplyChunk> {
    let header = Some(header);
    if document.encoded_len() <= CHUNK_OCTETS {
        return vec![v1::ApplyChunk { header, content: Some(Content::Document(document)) }];
    }
    let mut parts = vec![v1::Document {
        api_version: std::mem::take(&mut document.api_version),
        cluster: std::mem::take(&mut document.cluster),
        ..v1::Document::default()
    }];
    let mut octets = 0;
    split(document.nodes, &mut parts, &mut octets, |part| &mut part.nodes);
    split(document.interfaces, &mut parts, &mut octets, |part| &mut part.interfaces);
    split(document.routes, &mut parts, &mut octets, |part| &mut part.routes);
    split(document.rules, &mut parts, &mut octets, |part| &mut part.rules);
    split(document.services, &mut parts, &mut octets, |part| &mut part.services);
    split(document.policers, &mut parts, &mut octets, |part| &mut part.policers);
    split(document.qos, &mut parts, &mut octets, |part| &mut part.qos);
    split(document.dscp_maps, &mut parts, &mut octets, |part| &mut part.dscp_maps);
    let mut header = header;
    parts
        .into_iter()
        .map(|part| v1::ApplyChunk { header: header.take(), content: Some(Content::Document(part)) })
        .collect()
}

fn split<T: prost::Message>(
    objects: Vec<T>,
    parts: &mut Vec<v1::Document>,
    octets: &mut usize,
    list: fn(&mut v1::Document) -> &mut Vec<T>,
) {
    for object in objects {
        let size = object.encoded_len() + 8;
        if *octets + size > CHUNK_OCTETS {
            parts.push(v1::Document::default());
            *octets = 0;
        }
        *octets += size;
        if let Some(part) = parts.last_mut() {
            list(part).push(object);
        }
    }
}

/// What became of it, node by node.
fn say_applied(answer: &v1::ApplyResponse, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let paint = out.paint();
    if settings.json {
        out.line(json::pretty("ApplyResponse", answer)?);
    } else {
        let unchanged = if answer.unchanged { " (unchanged: this is what was stored already)" } else { "" };
        out.line(format!("version {}  {}{unchanged}", answer.version, short(&answer.content_hash)));
        say_warnings(&answer.warnings, out);
        let mut table = Table::new(&["NODE", "OUTCOME", ">GENERATION", ">BUILD", ">SETTLE", "WHY"]);
        for node in &answer.nodes {
            let (outcome, tone) = match node.outcome() {
                NodeOutcome::Settled => ("settled", Tone::Good),
                NodeOutcome::Refused => ("refused", Tone::Bad),
                NodeOutcome::NotConnected => ("not connected", Tone::Warn),
                NodeOutcome::TimedOut => ("timed out", Tone::Bad),
                NodeOutcome::Unspecified => ("unknown", Tone::Warn),
            };
            let settled = node.outcome() == NodeOutcome::Settled;
            let figure = |text: String| if settled { (text, None) } else { (String::new(), None) };
            table.toned([
                (node.node.clone(), None),
                (outcome.to_owned(), Some(tone)),
                figure(node.generation.to_string()),
                figure(micros(node.build_us)),
                figure(micros(node.settle_us)),
                (node.reason.clone(), None),
            ]);
        }
        if !table.is_empty() {
            out.text(&table.render(paint));
        }
        let settled = answer.nodes.iter().filter(|node| node.outcome() == NodeOutcome::Settled).count();
        out.line(format!(
            "settled on {settled}/{} nodes in {} (store {})",
            answer.nodes.len(),
            micros(answer.settle_us),
            micros(answer.store_us)
        ));
        if let Some(by) = &answer.confirm_by {
            let version = answer.version;
            out.line(paint.on(
                Tone::Warn,
                format!("waits for `marchctl confirm {version}` until {}, else it is reverted", moment(Some(by))),
            ));
        }
    }
    let failed: Vec<&str> = answer
        .nodes
        .iter()
        .filter(|node| matches!(node.outcome(), NodeOutcome::Refused | NodeOutcome::TimedOut))
        .map(|node| node.node.as_str())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Partly(format!(
        "version {} is stored, but not running on {}: these keep what they had; `marchctl node list` shows how it goes on, \
         `marchctl rollback VERSION` returns to an older version",
        answer.version,
        failed.join(", ")
    )))
}

fn say_warnings(warnings: &[v1::Warning], out: &mut Out) {
    let paint = out.paint();
    for warning in warnings {
        out.line(format!("{} {}: {}", paint.on(Tone::Warn, "warning:"), warning.field, warning.message));
    }
}

pub async fn validate(args: &Validate, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let mut document = read(&args.file)?;
    settle_cluster(&mut document, settings);
    if args.local {
        let (_, warnings) = model::validate(&document).map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            Failure::refused(format!("the document is refused:\n  {}", lines.join("\n  ")))
        })?;
        let warnings: Vec<v1::Warning> = warnings.into_iter().map(Into::into).collect();
        return say_valid(&warnings, &model::content_hash(&document), settings, out, None);
    }
    let request = v1::ValidateRequest { document: Some(document) };
    let answer = connect::config(settings)
        .await?
        .validate(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    say_valid(&answer.warnings, &answer.content_hash, settings, out, None)
}

fn say_valid(
    warnings: &[v1::Warning],
    hash: &str,
    settings: &Effective,
    out: &mut Out,
    dry_apply: Option<&v1::ApplyResponse>,
) -> Result<(), Failure> {
    if settings.json {
        let answer = v1::ValidateResponse { warnings: warnings.to_vec(), content_hash: hash.to_owned() };
        out.line(match dry_apply {
            Some(apply) => json::pretty("ApplyResponse", apply)?,
            None => json::pretty("ValidateResponse", &answer)?,
        });
        return Ok(());
    }
    say_warnings(warnings, out);
    let against = match dry_apply {
        Some(apply) if apply.unchanged => format!("; equals the stored version {}", apply.version),
        Some(apply) => format!("; the stored version is {}", apply.version),
        None => String::new(),
    };
    out.line(format!("valid  {}{against}", short(hash)));
    Ok(())
}

pub async fn get(args: Get, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::GetRequest { cluster: settings.cluster.clone(), version: args.version };
    let answer = connect::config(settings)
        .await?
        .get(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    let document = answer.document.unwrap_or_default();
    if settings.json || args.output == Format::Json {
        out.line(model::to_json(&document).map_err(|why| unwritable(&why))?);
    } else {
        out.line(format!("# version {}, content hash {}", answer.version, answer.content_hash));
        out.text(&model::to_yaml(&document).map_err(|why| unwritable(&why))?);
    }
    Ok(())
}

fn unwritable(why: &model::RenderError) -> Failure {
    Failure::refused(format!("cannot write the document: {why}; please report this"))
}

pub async fn history(args: History, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::HistoryRequest { cluster: settings.cluster.clone(), limit: args.limit };
    let answer = connect::config(settings)
        .await?
        .history(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    if settings.json {
        out.line(json::pretty("HistoryResponse", &answer)?);
        return Ok(());
    }
    if answer.versions.is_empty() {
        out.line("no version yet; store one with `marchctl apply -f FILE`");
        return Ok(());
    }
    let mut table = Table::new(&[">VERSION", "AT", "AUTHOR", ">OBJECTS", "HASH", "STATE", "MESSAGE"]);
    for version in &answer.versions {
        let (state, tone) = match version.confirmation() {
            v1::Confirmation::Unspecified => (String::new(), None),
            v1::Confirmation::Pending => {
                (format!("pending until {}", moment(version.confirm_by.as_ref())), Some(Tone::Warn))
            }
            v1::Confirmation::Confirmed => ("confirmed".to_owned(), Some(Tone::Good)),
            v1::Confirmation::Reverted => ("reverted".to_owned(), Some(Tone::Bad)),
        };
        table.toned([
            (version.version.to_string(), None),
            (moment(version.at.as_ref()), None),
            (version.author.clone(), None),
            (version.objects.to_string(), None),
            (short(&version.content_hash).to_owned(), None),
            (state, tone),
            (said(version), None),
        ]);
    }
    out.text(&table.render(out.paint()));
    Ok(())
}

fn said(version: &v1::VersionInfo) -> String {
    match (version.rollback_of, version.message.as_str()) {
        (0, message) => message.to_owned(),
        (of, message) if message.contains(&of.to_string()) => message.to_owned(),
        (of, message) => format!("{message} (content of version {of})"),
    }
}

pub async fn rollback(args: Rollback, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::RollbackRequest {
        cluster: settings.cluster.clone(),
        to_version: args.version,
        request_id: args.request_id,
        message: args.message,
        expected_version: args.expect_version,
        allow_port_restart: args.allow_port_restart,
        confirm_within_s: args.confirm_within.unwrap_or_default(),
        together: None,
    };
    let answer = connect::config(settings)
        .await?
        .rollback(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    say_applied(&answer, settings, out)
}

pub async fn confirm(args: &Confirm, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::ConfirmRequest { cluster: settings.cluster.clone(), version: args.version };
    let answer = connect::config(settings)
        .await?
        .confirm(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    if settings.json {
        out.line(json::pretty("ConfirmResponse", &answer)?);
    } else {
        let before = if answer.unchanged { " before" } else { "" };
        out.line(format!("version {}  {}  confirmed{before}", answer.version, short(&answer.content_hash)));
    }
    Ok(())
}

pub async fn watch(args: Watch, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::WatchRequest { cluster: settings.cluster.clone(), resume_token: args.resume };
    let failed = |status: tonic::Status| from_status(&status, &settings.control);
    let mut events = connect::config(settings).await?.watch(request).await.map_err(failed)?.into_inner();
    while let Some(event) = events.message().await.map_err(failed)? {
        if settings.json {
            out.line(json::value("WatchEvent", &event)?.to_string());
        } else if let Some(version) = &event.version {
            out.line(format!(
                "{}  version {}  {}  by {}  {}  (resume with {})",
                moment(version.at.as_ref()),
                version.version,
                short(&version.content_hash),
                version.author,
                said(version),
                event.resume_token
            ));
        }
        out.flush();
        if out.is_gone() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_document_travels_in_chunks_and_arrives_whole() {
        let rules = (0..200_000)
            .map(|n| v1::Rule { name: format!("{n:0100}"), priority: n, ..v1::Rule::default() })
            .collect::<Vec<_>>();
        let document = v1::Document { cluster: "blue".into(), rules: rules.clone(), ..v1::Document::default() };
        let chunks = chunks(v1::ApplyHeader::default(), document);
        assert!(chunks.len() > 2);
        assert!(chunks[0].header.is_some() && chunks[1..].iter().all(|chunk| chunk.header.is_none()));
        assert!(chunks.iter().all(|chunk| chunk.encoded_len() < 2 * CHUNK_OCTETS));
        let arrived: Vec<v1::Rule> = chunks
            .into_iter()
            .flat_map(|chunk| match chunk.content {
                Some(Content::Document(part)) => part.rules,
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(arrived, rules);
    }
}
