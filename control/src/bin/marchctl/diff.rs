//! `diff`: object by object, field by field.

use marchproxy_proto::v1;
use serde_json::Value;

use crate::args::Diff;
use crate::failure::{Failure, from_status};
use crate::out::{Out, Paint, Tone};
use crate::settings::Effective;
use crate::{connect, document, json, preview};

pub async fn diff(args: Diff, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let live = args.live.map(|seconds| (seconds, args.node.clone()));
    let to = match (&args.file, args.to) {
        (Some(file), _) => {
            let mut document = document::read(file)?;
            document::settle_cluster(&mut document, settings);
            v1::diff_request::To::Document(document)
        }
        (None, version) => v1::diff_request::To::ToVersion(version.unwrap_or_default()),
    };
    let candidate = match &to {
        v1::diff_request::To::Document(document) if live.is_some() => Some(document.clone()),
        _ => None,
    };
    let request = v1::DiffRequest { cluster: settings.cluster.clone(), from_version: args.from, to: Some(to) };
    let answer = connect::config(settings)
        .await?
        .diff(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?
        .into_inner();
    let Some(((seconds, node), document)) = live.zip(candidate) else {
        if settings.json {
            out.line(json::pretty("DiffResponse", &answer)?);
        } else {
            out.text(&render(&answer, out.paint()));
        }
        return Ok(());
    };
    if !settings.json {
        out.text(&render(&answer, out.paint()));
        out.flush();
    }
    let previews = preview::ask(document, seconds, node, settings).await?;
    if settings.json {
        let mut whole = json::value("DiffResponse", &answer)?;
        let live = previews.iter().map(|p| json::value("PreviewResponse", p)).collect::<Result<Vec<_>, _>>()?;
        whole["live"] = Value::Array(live);
        out.line(format!("{whole:#}"));
    } else {
        for answer in &previews {
            out.text(&preview::render(answer, out.paint()));
        }
    }
    Ok(())
}

fn render(answer: &v1::DiffResponse, paint: Paint) -> String {
    if answer.objects.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut text = String::new();
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for object in &answer.objects {
        let title = format!("{} {}", object.kind, object.name);
        match object.change.as_str() {
            "added" => {
                add(paint.on(Tone::Good, format!("+ {title}")));
                for (name, value) in fields(&object.after) {
                    add(paint.on(Tone::Good, format!("    + {name}: {value}")));
                }
            }
            "removed" => {
                add(paint.on(Tone::Bad, format!("- {title}")));
                for (name, value) in fields(&object.before) {
                    add(paint.on(Tone::Bad, format!("    - {name}: {value}")));
                }
            }
            _ => {
                add(paint.on(Tone::Strong, format!("~ {title}")));
                let (before, after) = (fields(&object.before), fields(&object.after));
                for (name, value) in before.iter().filter(|pair| !after.contains(pair)) {
                    add(paint.on(Tone::Bad, format!("    - {name}: {value}")));
                }
                for (name, value) in after.iter().filter(|pair| !before.contains(pair)) {
                    add(paint.on(Tone::Good, format!("    + {name}: {value}")));
                }
            }
        }
    }
    let count = |change: &str| answer.objects.iter().filter(|object| object.change == change).count();
    add(format!("{} added, {} changed, {} removed", count("added"), count("changed"), count("removed")));
    if !answer.port_restarts.is_empty() {
        add(paint.on(Tone::Warn, format!("ports that would stop for a moment: {}", answer.port_restarts.join(", "))));
    }
    text
}

/// The fields of an object in canonical JSON; the name is in the title already.
fn fields(canonical: &str) -> Vec<(String, String)> {
    match serde_json::from_str(canonical) {
        Ok(Value::Object(fields)) => fields
            .into_iter()
            .filter(|(name, _)| name != "name")
            .map(|(name, value)| (name, value.to_string()))
            .collect(),
        _ => vec![("value".to_owned(), canonical.to_owned())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_that_differ() {
        let object = v1::ObjectDiff {
            kind: "rule".into(),
            name: "web".into(),
            change: "changed".into(),
            before: r#"{"name":"web","priority":1,"action":"deny"}"#.into(),
            after: r#"{"name":"web","priority":1,"action":"permit"}"#.into(),
        };
        let answer = v1::DiffResponse { objects: vec![object], port_restarts: vec!["edge-1/wan".into()] };
        let want = "~ rule web\n    - action: \"deny\"\n    + action: \"permit\"\n0 added, 1 changed, 0 removed\n\
                    ports that would stop for a moment: edge-1/wan\n";
        assert_eq!(render(&answer, Paint::PLAIN), want);
    }
}
