//! No backend: the node has an agent, a socket and metrics, and refuses every port by name.

use marchproxy_engine::io::Mac;
use marchproxy_engine::memory::{Memory, MemoryPool};
use marchproxy_engine::tables::PortSpec;

use super::{Device, Driver, OpenPort, Opened, PortHealth};

/// Opens nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDriver;

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum NoPort {}

impl Driver for NoDriver {
    type Backend = Memory;
    type Port = NoPort;
    type Guard = ();

    fn name(&self) -> &'static str {
        "none"
    }

    fn enter_thread(&self) -> Result<(), String> {
        Ok(())
    }

    fn pool(&self) -> MemoryPool {
        MemoryPool
    }

    fn open(&self, spec: &PortSpec, _: &Device, _: u16) -> Result<Opened<Self>, String> {
        Err(format!("port {}: device {:?} needs the dpdk backend; this build has none", spec.name, spec.device))
    }
}

impl OpenPort for NoPort {
    fn mac(&self) -> Mac {
        match *self {}
    }

    fn health(&self) -> PortHealth {
        match *self {}
    }
}
