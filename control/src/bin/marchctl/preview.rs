//! `diff --live`: what a document would change for the traffic that is there now.

use std::fmt::Write as _;

use marchproxy_proto::v1;
use tokio::task::JoinSet;

use crate::connect;
use crate::failure::{Failure, from_status};
use crate::out::{Paint, Tone};
use crate::settings::Effective;
use crate::table::{micros, thousands};

/// Asks one node, or all connected ones of the document at the same time.
pub async fn ask(
    document: v1::Document,
    seconds: u32,
    node: Option<String>,
    settings: &Effective,
) -> Result<Vec<v1::PreviewResponse>, Failure> {
    let failed = |status: tonic::Status| from_status(&status, &settings.control);
    let client = connect::operate(settings).await?;
    let nodes = if let Some(node) = node {
        vec![node]
    } else {
        let request = v1::NodesRequest { cluster: settings.cluster.clone() };
        let known = client.clone().nodes(request).await.map_err(failed)?.into_inner().nodes;
        let meant = |node: &v1::NodeInfo| node.connected && document.nodes.iter().any(|n| n.name == node.name);
        known.into_iter().filter(meant).map(|node| node.name).collect()
    };
    if nodes.is_empty() {
        return Err(Failure::refused("no node of the document is connected; see `marchctl node list`"));
    }
    let mut asked = JoinSet::new();
    for node in nodes {
        let mut client = client.clone();
        let request =
            v1::PreviewRequest { node, document: Some(document.clone()), duration_ms: seconds.saturating_mul(1000) };
        asked.spawn(async move { client.preview(request).await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        let answer = answer.map_err(|why| Failure::refused(format!("asking ended unexpectedly: {why}")))?;
        answers.push(answer.map_err(failed)?.into_inner());
    }
    answers.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(answers)
}

/// The changes of one node's flows, most flows first.
pub fn render(preview: &v1::PreviewResponse, paint: Paint) -> String {
    let mut text = String::new();
    let title = format!("node {}, version {} runs", preview.node, preview.version);
    let _ = writeln!(
        text,
        "{}: {} of {} flows would change ({} packets looked at, {} not judged; built in {})",
        paint.on(Tone::Strong, title),
        thousands(preview.flows_changed),
        thousands(preview.flows),
        thousands(preview.packets),
        thousands(preview.missed),
        micros(preview.build_us),
    );
    for change in &preview.changes {
        let what = paint.on(Tone::Warn, change.what.join(", "));
        let _ = writeln!(text, "~ {what}: {} flows, {} packets", thousands(change.flows), thousands(change.packets));
        let told = |outcome: &Option<v1::PreviewOutcome>| outcome.as_ref().map(outcome_line).unwrap_or_default();
        let _ = writeln!(text, "    {}", paint.on(Tone::Bad, format!("- {}", told(&change.before))));
        let _ = writeln!(text, "    {}", paint.on(Tone::Good, format!("+ {}", told(&change.after))));
        for example in &change.examples {
            let _ = writeln!(text, "      {example}");
        }
    }
    if preview.changes_omitted > 0 {
        let _ = writeln!(text, "{} more kinds of change", preview.changes_omitted);
    }
    text
}

fn outcome_line(outcome: &v1::PreviewOutcome) -> String {
    let mut line = outcome.fate.clone();
    if !outcome.reason.is_empty() {
        let _ = write!(line, " ({})", outcome.reason);
    }
    if !outcome.rule.is_empty() {
        let _ = write!(line, " by {}", outcome.rule);
    }
    let mark = outcome.mark.map(|dscp| dscp.to_string()).unwrap_or_default();
    for (name, value) in
        [("backend", &outcome.backend), ("mark", &mark), ("policer", &outcome.policer), ("out", &outcome.out)]
    {
        if !value.is_empty() {
            let _ = write!(line, ", {name} {value}");
        }
    }
    line
}
