//! `interface|route|rule|service|dscp-map list|show`: objects of the stored document.

use marchproxy_proto::v1;
use serde_json::Value;

use crate::args::ObjectCommand;
use crate::connect;
use crate::failure::{Failure, from_status};
use crate::out::Out;
use crate::settings::Effective;
use crate::table::Table;

pub async fn run(
    kind: &'static str,
    command: ObjectCommand,
    settings: &Effective,
    out: &mut Out,
) -> Result<(), Failure> {
    let objects = stored(kind, settings).await?;
    match command {
        ObjectCommand::List if settings.json => out.line(format!("{:#}", Value::Array(objects))),
        ObjectCommand::List => list(kind, &objects, out),
        ObjectCommand::Show { name } => {
            let found = objects.iter().find(|object| names(kind, object).contains(&name)).ok_or_else(|| {
                Failure::refused(format!(
                    "there is no {kind} {name:?} in the stored document; `marchctl {} list` names them",
                    kind.replace('_', "-")
                ))
            })?;
            if settings.json {
                out.line(format!("{found:#}"));
            } else {
                show(found, out);
            }
        }
    }
    Ok(())
}

/// The objects of a kind in the stored document.
pub async fn stored(kind: &str, settings: &Effective) -> Result<Vec<Value>, Failure> {
    let request = v1::ListRequest { cluster: settings.cluster.clone(), kind: kind.to_owned() };
    let answer = connect::config(settings)
        .await?
        .list(request)
        .await
        .map_err(|status| from_status(&status, &settings.control))?;
    objects(answer.into_inner().objects.unwrap_or_default())
}

/// The one filled list of the document, in the form people write it.
fn objects(document: v1::Document) -> Result<Vec<Value>, Failure> {
    let mut document = document;
    document.rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    let whole = serde_json::to_value(&document)
        .map_err(|why| Failure::refused(format!("cannot write the objects: {why}; please report this")))?;
    let Value::Object(fields) = whole else { return Ok(Vec::new()) };
    let list = fields.into_iter().find_map(|(_, value)| if let Value::Array(list) = value { Some(list) } else { None });
    Ok(list.unwrap_or_default())
}

/// What an object may be called; routes have no name of their own.
fn names(kind: &str, object: &Value) -> Vec<String> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    if kind != "route" {
        return vec![text("name")];
    }
    match text("table") {
        table if table.is_empty() || table == "main" => vec![text("prefix"), format!("main {}", text("prefix"))],
        table => vec![format!("{table} {}", text("prefix"))],
    }
}

/// One line for each.
pub fn list(kind: &str, objects: &[Value], out: &mut Out) {
    if objects.is_empty() {
        out.line(format!("the document has no {kind}"));
        return;
    }
    let columns: &[(&'static str, &[&str])] = match kind {
        "interface" => &[
            ("NAME", &["name"]),
            ("NODE", &["node"]),
            ("PORT", &["port"]),
            ("VLAN", &["vlan"]),
            ("TABLE", &["table"]),
            ("POLICER", &["policer"]),
            ("ADDRESSES", &["addresses"]),
        ],
        "route" => &[
            ("TABLE", &["table"]),
            ("PREFIX", &["prefix"]),
            ("NODE", &["node"]),
            ("VIA", &["via", "blackhole", "reject"]),
        ],
        "rule" => &[
            (">PRIORITY", &["priority"]),
            ("NAME", &["name"]),
            ("ACTION", &["action"]),
            ("MARK", &["mark"]),
            ("SETS", &["class", "policer", "next_hop", "table", "log_sample", "new_only"]),
            ("MATCH", &["match"]),
        ],
        "service" => &[
            ("NAME", &["name"]),
            ("PROTOCOL", &["protocol"]),
            ("ADDRESS", &["address"]),
            ("PORTS", &["ports"]),
            ("MODE", &["mode"]),
            ("QOS", &["qos"]),
            ("BACKENDS", &["backends"]),
        ],
        "dscp_map" => &[("NAME", &["name"]), ("MAP", &["map"])],
        _ => &[
            ("NAME", &["name"]),
            ("BANDWIDTH", &["bandwidth"]),
            ("PRIORITY", &["priority"]),
            ("AQM", &["aqm"]),
            ("POLICER", &["policer"]),
        ],
    };
    let titles: Vec<&'static str> = columns.iter().map(|(title, _)| *title).collect();
    let mut table = Table::new(&titles);
    for object in objects {
        table.row(columns.iter().map(|(_, fields)| {
            let cells = fields.iter().filter_map(|field| {
                let text = cell(field, &object[*field])?;
                // What stands in its own column needs no name, a flag is its name.
                let named = fields.len() == 1 || kind == "route" || text == *field;
                Some(if named { text } else { format!("{field} {text}") })
            });
            cells.collect::<Vec<_>>().join(", ")
        }));
    }
    out.text(&table.render(out.paint()));
}

/// A field in few words; nothing where it is not there.
fn cell(field: &str, value: &Value) -> Option<String> {
    match (field, value) {
        (_, Value::Null | Value::Bool(false)) => None,
        (_, Value::Bool(true)) => Some(field.to_owned()),
        ("backends", Value::Array(backends)) => {
            Some(backends.iter().map(|b| brief(&b["name"])).collect::<Vec<_>>().join(" "))
        }
        ("via", Value::Array(hops)) => Some(hops.iter().map(|h| brief(&h["next_hop"])).collect::<Vec<_>>().join(" ")),
        (_, Value::Object(fields)) if fields.is_empty() => Some("everything".to_owned()),
        (_, value) => Some(brief(value)),
    }
}

fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(brief).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {}", brief(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// Field by field.
pub fn show(object: &Value, out: &mut Out) {
    let Value::Object(fields) = object else { return };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields {
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.line(format!("{name}:"));
                for item in items {
                    out.line(format!("  - {}", brief(item)));
                }
            }
            value => out.line(format!("{name:width$}  {}", brief(value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_are_found_by_prefix_and_by_table_and_prefix() {
        assert_eq!(names("route", &json!({"prefix": "0.0.0.0/0"})), ["0.0.0.0/0", "main 0.0.0.0/0"]);
        assert_eq!(names("route", &json!({"prefix": "10.9.0.0/16", "table": "blue"})), ["blue 10.9.0.0/16"]);
        assert_eq!(names("rule", &json!({"name": "web"})), ["web"]);
    }

    #[test]
    fn cells_are_brief() {
        assert_eq!(cell("match", &json!({})), Some("everything".into()));
        assert_eq!(
            cell("match", &json!({"protocol": "tcp", "dst_ports": [80, "81-82"]})).unwrap(),
            "dst_ports 80,81-82 protocol tcp"
        );
        assert_eq!(cell("blackhole", &json!(true)), Some("blackhole".into()));
        assert_eq!(cell("via", &json!([{"next_hop": "192.0.2.1", "weight": 2}])), Some("192.0.2.1".into()));
    }
}
