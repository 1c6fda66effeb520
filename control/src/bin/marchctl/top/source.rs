//! Who is asked: control for all nodes, or the socket of the node on this host.

use std::time::Duration;

use marchproxy_proto::v1;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use tokio::task::JoinSet;

use crate::ask::Asked;
use crate::connect::Connection;
use crate::failure::Failure;
use crate::settings::Effective;
use crate::table::moment;

/// A node that takes longer has vanished as far as a screen is concerned.
const PATIENCE: Duration = Duration::from_secs(3);

/// One look at one node.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Its statistics.
    pub stats: v1::StatsResponse,
    /// Its backends.
    pub backends: Vec<v1::BackendStatus>,
}

/// What a round of questions brought: every node with its look or its trouble, or why nobody could be asked.
pub type Round = Result<Vec<(String, Result<Look, String>)>, String>;

/// Somebody who knows nodes.
pub trait Source {
    /// Asks all nodes at once.
    fn look(&mut self) -> impl Future<Output = Round> + Send;
}

/// Running nodes.
pub struct Live {
    client: OperateServiceClient<Connection>,
    name: String,
    /// Whether it is control, which knows the names of nodes.
    names: bool,
    cluster: String,
    wanted: Vec<String>,
}

impl Live {
    /// The socket when it was named; else control; else the socket of a node on this host.
    pub async fn find(wanted: Vec<String>, settings: &Effective) -> Result<Live, Failure> {
        let (client, name, names) = Asked::find(settings).await?.into_parts();
        Ok(Live { client, name, names, cluster: settings.cluster.clone(), wanted })
    }

    /// The nodes to ask, and what is wrong with those that need not be asked.
    async fn targets(&mut self) -> Result<Vec<(String, Option<String>)>, String> {
        if !self.names {
            let names = if self.wanted.is_empty() { vec![String::new()] } else { self.wanted.clone() };
            return Ok(names.into_iter().map(|name| (name, None)).collect());
        }
        let request = v1::NodesRequest { cluster: self.cluster.clone() };
        let nodes = within(self.client.nodes(request)).await.map_err(|why| format!("{}: {why}", self.name))?.nodes;
        let trouble = |node: &v1::NodeInfo| {
            (!node.connected).then(|| match moment(node.last_seen.as_ref()) {
                seen if seen.is_empty() => "was never connected to control".to_owned(),
                seen => format!("not connected to control; last seen {seen}"),
            })
        };
        if self.wanted.is_empty() {
            return Ok(nodes.iter().map(|node| (node.name.clone(), trouble(node))).collect());
        }
        let found = |name: &String| match nodes.iter().find(|node| node.name == *name) {
            Some(node) => (name.clone(), trouble(node)),
            None => (name.clone(), Some("control knows no such node".to_owned())),
        };
        Ok(self.wanted.iter().map(found).collect())
    }
}

impl Source for Live {
    async fn look(&mut self) -> Round {
        let mut asked = JoinSet::new();
        let mut round = Vec::new();
        for (place, (name, trouble)) in self.targets().await?.into_iter().enumerate() {
            if let Some(trouble) = trouble {
                round.push((place, name, Err(trouble)));
            } else {
                let client = self.client.clone();
                asked.spawn(async move { (place, name.clone(), ask(client, name).await) });
            }
        }
        while let Some(answer) = asked.join_next().await {
            round.extend(answer);
        }
        round.sort_by_key(|(place, ..)| *place);
        Ok(round
            .into_iter()
            .map(|(_, name, look)| match look {
                Ok(look) if name.is_empty() => (look.stats.node.clone(), Ok(look)),
                look => (name, look),
            })
            .collect())
    }
}

async fn ask(mut client: OperateServiceClient<Connection>, node: String) -> Result<Look, String> {
    let stats = within(client.stats(v1::StatsRequest { node: node.clone() })).await?;
    let backends = within(client.backends(v1::BackendsRequest { node, service: String::new() })).await?.backends;
    Ok(Look { stats, backends })
}

async fn within<T>(answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.message().is_empty() => Err(format!("{:?}", status.code())),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("did not answer within {} s", PATIENCE.as_secs())),
    }
}
