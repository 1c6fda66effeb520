//! What `gen` writes: documents for control, lists of flows; capture files are the scenario's frames as they are.

pub mod document;
pub mod flows;
