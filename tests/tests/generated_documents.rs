//! Documents that the harness generates are documents to control: it reads them, finds nothing wrong, and finds all that was generated.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

use marchproxy_control::model::{parse, validate};
use marchproxy_perf::generate::document::Document;
use marchproxy_perf::scenario::topology;
use marchproxy_perf::seeded::routes;
use marchproxy_perf::seeded::rules::{Profile, generate};

#[test]
fn control_takes_generated_rules() {
    for profile in [Profile::Acl, Profile::Fw, Profile::Ipc] {
        let rules = generate(profile, 400, 5, &[]);
        let document = Document::of_rules(&rules);
        let yaml = parse(&document.yaml().unwrap()).unwrap();
        assert_eq!(parse(&document.json().unwrap()).unwrap(), yaml, "both forms say the same");
        assert_eq!(yaml.rules.len(), 400);
        let (_, warnings) = validate(&yaml).unwrap_or_else(|wrong| panic!("{profile:?}: {wrong:?}"));
        assert!(warnings.is_empty(), "{profile:?}: {warnings:?}");
    }
}

#[test]
fn control_takes_generated_routes() {
    let prefixes = routes::generate(300, false, 5);
    let document = Document::of_routes(&topology::tables(&prefixes, false));
    let yaml = parse(&document.yaml().unwrap()).unwrap();
    assert_eq!(parse(&document.json().unwrap()).unwrap(), yaml, "both forms say the same");
    // The clients' two beside them.
    assert_eq!(yaml.routes.len(), 302);
    let (_, warnings) = validate(&yaml).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    assert!(warnings.is_empty(), "{warnings:?}");
}
