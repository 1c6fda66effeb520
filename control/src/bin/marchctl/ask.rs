//! Questions to a running node, over control or over its own socket.

use std::future::Future;
use std::path::Path;

use marchproxy_proto::v1;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use tonic::{Response, Status};

use crate::args::{NeighbourCommand, SessionCommand, Why};
use crate::connect::{self, Connection};
use crate::failure::{Failure, connection_lost, from_status, node_away};
use crate::json;
use crate::out::{Out, Tone};
use crate::settings::Effective;
use crate::table::{Table, span, thousands};

/// Somebody who answers questions, and how they are called.
pub struct Asked {
    client: OperateServiceClient<Connection>,
    name: String,
    over_control: bool,
}

impl Asked {
    /// The socket when it was named; else control; else, with a note, the socket of a node on this host.
    pub async fn find(settings: &Effective) -> Result<Asked, Failure> {
        if let Some(path) = &settings.socket {
            return Asked::local(path).await;
        }
        match connect::operate(settings).await {
            Ok(client) => Ok(Asked { client, name: settings.control.clone(), over_control: true }),
            Err(failure) if settings.fallback.exists() => {
                eprintln!("marchctl: note: {failure}");
                Asked::instead(&settings.fallback).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// The client, who is asked, and whether that is control.
    pub fn into_parts(self) -> (OperateServiceClient<Connection>, String, bool) {
        (self.client, self.name, self.over_control)
    }

    async fn local(path: &Path) -> Result<Asked, Failure> {
        let client = connect::socket(path).await?;
        Ok(Asked { client, name: format!("the node's socket {}", path.display()), over_control: false })
    }

    async fn instead(path: &Path) -> Result<Asked, Failure> {
        eprintln!("marchctl: note: asking the node's local socket {} instead", path.display());
        Asked::local(path).await
    }

    /// What a later word of whoever is asked means.
    pub fn failure(&self, status: &Status) -> Failure {
        from_status(status, &self.name)
    }

    /// Asks; when control turns out to be gone, or to have no stream of the node, asks the socket.
    pub async fn ask<T, F>(
        &mut self,
        settings: &Effective,
        question: impl Fn(OperateServiceClient<Connection>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match question(self.client.clone()).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status)
                if self.over_control
                    && (connection_lost(&status) || node_away(&status))
                    && settings.fallback.exists() =>
            {
                eprintln!("marchctl: note: {}", from_status(&status, &self.name));
                *self = Asked::instead(&settings.fallback).await?;
                let answer = question(self.client.clone()).await;
                answer.map(Response::into_inner).map_err(|status| from_status(&status, &self.name))
            }
            Err(status) => Err(from_status(&status, &self.name)),
        }
    }
}

pub async fn why(args: Why, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let request = v1::WhyRequest {
        node: args.node,
        r#in: args.interface,
        src: args.src,
        dst: args.dst,
        protocol: args.protocol,
        src_port: args.sport.into(),
        dst_port: args.dport.into(),
        length: args.length,
        ttl: args.ttl.into(),
        tcp_flags: args.tcp_flags.map(u32::from),
        dscp: args.dscp.into(),
        fragment: args.fragment,
    };
    let mut asked = Asked::find(settings).await?;
    let answer = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.why(request).await }
        })
        .await?;
    if settings.json {
        out.line(json::pretty("WhyResponse", &answer)?);
        return Ok(());
    }
    let paint = out.paint();
    let tone = if answer.verdict == "dropped" { Tone::Bad } else { Tone::Good };
    let reason = if answer.reason.is_empty() { String::new() } else { format!(": {}", answer.reason) };
    out.line(format!(
        "{}  (version {}, generation {})",
        paint.on(tone, format!("{}{reason}", answer.verdict)),
        answer.version,
        answer.generation
    ));
    let mut table = Table::new(&["STAGE", "DECIDED BY", "DETAIL"]);
    for step in answer.steps {
        table.row([step.stage, step.object, step.detail]);
    }
    out.text(&table.render(paint));
    Ok(())
}

pub async fn session(command: SessionCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let SessionCommand::List { service, limit, node } = command;
    let request = v1::SessionsRequest { node, service, limit };
    let mut asked = Asked::find(settings).await?;
    let answer = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.sessions(request).await }
        })
        .await?;
    if settings.json {
        out.line(json::pretty("SessionsResponse", &answer)?);
        return Ok(());
    }
    let mut table = Table::new(&[
        "PROTOCOL",
        "CLIENT",
        "SERVICE ADDRESS",
        "BACKEND",
        "SERVICE",
        "STATE",
        ">IDLE",
        ">TIMEOUT",
        ">WORKER",
    ]);
    let shown = answer.sessions.len();
    for session in answer.sessions {
        table.row([
            session.protocol,
            session.client,
            session.service_address,
            session.backend,
            session.service,
            session.state,
            format!("{:.1} s", session.idle_s),
            format!("{:.0} s", session.timeout_s),
            session.worker.to_string(),
        ]);
    }
    out.text(&table.render(out.paint()));
    out.line(format!("{shown} of {} sessions", thousands(answer.total)));
    Ok(())
}

pub async fn neighbour(command: NeighbourCommand, settings: &Effective, out: &mut Out) -> Result<(), Failure> {
    let NeighbourCommand::List { node } = command;
    let request = v1::NeighboursRequest { node };
    let mut asked = Asked::find(settings).await?;
    let answer = asked
        .ask(settings, |mut client| {
            let request = request.clone();
            async move { client.neighbours(request).await }
        })
        .await?;
    if settings.json {
        out.line(json::pretty("NeighboursResponse", &answer)?);
        return Ok(());
    }
    let mut table = Table::new(&["INTERFACE", "ADDRESS", "MAC", "STATE", ">AGE"]);
    for neighbour in answer.neighbours {
        let tone = match neighbour.state.as_str() {
            "reachable" => Tone::Good,
            "incomplete" => Tone::Bad,
            _ => Tone::Warn,
        };
        table.toned([
            (neighbour.interface, None),
            (neighbour.address, None),
            (neighbour.mac, None),
            (neighbour.state, Some(tone)),
            (span(neighbour.age_s.max(0.0) as u64), None),
        ]);
    }
    out.text(&table.render(out.paint()));
    Ok(())
}
