//! Validation: everything that is wrong with a document, not just the first thing.
//!
//! One file per kind of object. Each reads its objects into the model's types, leaving holes where something is wrong, so that the
//! checks of other kinds can go on without complaining a second time.

mod flows;
mod health;
mod interfaces;
mod limits;
mod marks;
mod network;
mod nodes;
mod policers;
mod qos;
mod routes;
mod rules;
mod services;

use marchproxy_proto::v1::{self, Document};

use super::objects::{API_VERSION, DEFAULT_CLUSTER};
use super::report::{At, Names, Report, quoted};
use super::types::{Model, Rule};
use super::violation::{Violation, Warning};
use super::words;
use network::Network;

/// The names of the objects that others refer to.
struct References<'a> {
    nodes: Names<'a>,
    interfaces: Names<'a>,
    services: Names<'a>,
    policers: Names<'a>,
    qos: Names<'a>,
    maps: marks::Maps<'a>,
}

impl<'a> References<'a> {
    fn new(document: &'a Document, report: &mut Report) -> Self {
        let names = |report: &mut Report, kind, list, names: Vec<&'a str>| {
            Names::new(report, kind, names.into_iter(), |index, name| At::new(list, index, kind, name))
        };
        let nodes = document.nodes.iter().map(|it| it.name.as_str()).collect();
        let interfaces = document.interfaces.iter().map(|it| it.name.as_str()).collect();
        let rules = document.rules.iter().map(|it| it.name.as_str()).collect();
        let services = document.services.iter().map(|it| it.name.as_str()).collect();
        let policers = document.policers.iter().map(|it| it.name.as_str()).collect();
        let qos = document.qos.iter().map(|it| it.name.as_str()).collect();
        let (nodes, interfaces) =
            (names(report, "node", "nodes", nodes), names(report, "interface", "interfaces", interfaces));
        // Nothing refers to rules, but their names are names.
        names(report, "rule", "rules", rules);
        let services = names(report, "service", "services", services);
        let (policers, qos) = (names(report, "policer", "policers", policers), names(report, "qos", "qos", qos));
        let maps = marks::Maps::new(document, report);
        Self { nodes, interfaces, services, policers, qos, maps }
    }
}

/// The document as a model with warnings, or all that is wrong with it.
pub fn validate(document: &Document) -> Result<(Model, Vec<Warning>), Vec<Violation>> {
    validate_keeping(document).map(|(model, warnings, _)| (model, warnings))
}

/// What rules of a valid document may refer to, kept to judge others by.
#[derive(Debug)]
pub struct RuleContext {
    /// The document without rules, routes and services, which rules don't name.
    scaffold: Document,
    network: Network,
}

impl RuleContext {
    /// These rules as rules of the model, in their order. `None` where there is anything to say about one of them: then the whole document
    /// is validated, which says it. That names are there once is the caller's affair.
    pub(crate) fn rules(&self, rules: Vec<v1::Rule>) -> Option<Vec<Rule>> {
        if rules.iter().any(|rule| words::name(&rule.name).is_err()) {
            return None;
        }
        let document = Document { rules, ..self.scaffold.clone() };
        let mut report = Report::default();
        let references = References::new(&document, &mut report);
        let rules = rules::check(&document, &references, &self.network, &mut report);
        let silent = report.violations.is_empty() && report.warnings.is_empty();
        silent.then(|| rules.into_iter().flatten().collect())
    }
}

/// The same with what other rules can be judged by.
pub fn validate_keeping(document: &Document) -> Result<(Model, Vec<Warning>, RuleContext), Vec<Violation>> {
    let mut report = Report::default();
    header(document, &mut report);
    let references = References::new(document, &mut report);
    let nodes = nodes::check(document, &references, &mut report);
    let interfaces = interfaces::check(document, &nodes, &references, &mut report);
    let mut network = Network::new(document, &interfaces, services::addresses(document));
    let routes = routes::check(document, &references, &mut network, &mut report);
    let rules = rules::check(document, &references, &network, &mut report);
    let policers = policers::check_policers(document, &nodes, &references, &mut report);
    let dscp_maps = marks::check(document, &mut report);
    let profiles = policers::check_qos(document, &nodes, &references, &mut report);
    let services = services::check(document, &references, &profiles, &network, &mut report);

    if !report.violations.is_empty() {
        return Err(report.violations);
    }
    let cluster = if document.cluster.is_empty() { DEFAULT_CLUSTER } else { &document.cluster }.to_owned();
    // No violation, no hole: nothing is lost by flattening, and indices stay what they were.
    let mut services: Vec<_> = services.into_iter().flatten().collect();
    let mut policers: Vec<_> = policers.into_iter().flatten().collect();
    qos::police(document, &profiles, &mut services, &mut policers);
    let model = Model {
        cluster,
        nodes,
        interfaces: interfaces.into_iter().flatten().collect(),
        routes: routes.into_iter().flatten().collect(),
        rules: rules.into_iter().flatten().collect(),
        services,
        policers,
        dscp_maps,
    };
    let scaffold = Document {
        nodes: document.nodes.clone(),
        interfaces: document.interfaces.clone(),
        policers: document.policers.clone(),
        qos: document.qos.clone(),
        dscp_maps: document.dscp_maps.clone(),
        ..Document::default()
    };
    Ok((model, report.warnings, RuleContext { scaffold, network }))
}

fn header(document: &Document, report: &mut Report) {
    if document.api_version != API_VERSION {
        report.refuse_document("api_version", quoted(&document.api_version), format!("\"{API_VERSION}\""));
    }
    if !document.cluster.is_empty()
        && let Err(allowed) = words::name(&document.cluster)
    {
        report.refuse_document("cluster", quoted(&document.cluster), allowed);
    }
}

#[cfg(test)]
mod tests;
