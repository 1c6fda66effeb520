//! `-i`: the console.

use clap::Args;

use crate::Error;
use crate::command::amounts::Amounts;
use crate::console::{self, Settings, Source};
use crate::load::Size;
use crate::progress::Progress;
use crate::scenario::Scenario;
use crate::source::{self, DeviceOptions};

/// Options of the interactive mode.
#[derive(Debug, Args)]
pub struct Interactive {
    /// Take commands from the terminal or a script: start, stop, set fwd, set burst, show, clear; `help` lists them
    #[arg(short = 'i', long = "interactive", required = true)]
    console: bool,
    /// Where packets come from, as in `run`: memory, vdev:NAME[,ARGUMENTS] or pci:ADDRESS; twice for a device towards servers and one
    /// towards clients
    #[arg(long, value_name = "BACKEND", default_value = "memory")]
    backend: Vec<source::Source>,
    /// Scenario to begin with
    #[arg(long, value_name = "SCENARIO", default_value = "forward")]
    fwd: Scenario,
    /// Frame size with FCS: 64, 128, 256, 512, 1024, 1280, 1518 or imix
    #[arg(long, value_name = "SIZE", default_value = "64")]
    packet: Size,
    #[command(flatten)]
    amounts: Amounts,
    /// Core of the worker [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    #[command(flatten)]
    device: DeviceOptions,
}

impl Interactive {
    /// Takes commands until there are no more. False when one of a script was refused.
    pub fn run(&self, progress: &Progress) -> Result<bool, Error> {
        let devices = source::devices(&self.backend)?;
        if devices.is_empty() {
            self.device.refuse()?;
        }
        if source::are_interfaces(&devices) {
            let allowed = "memory or devices of DPDK: of the kernel's interfaces only `run` knows".into();
            return Err(Error::Option { option: "backend", found: devices.join(" and "), allowed });
        }
        #[cfg(not(feature = "dpdk"))]
        if !devices.is_empty() {
            return Err(source::no_devices(&devices));
        }
        let source = Source {
            #[cfg(feature = "dpdk")]
            env: self.environment(&devices)?,
            devices,
            options: self.device.clone(),
            amounts: self.amounts.clone(),
            packet: self.packet,
        };
        console::run(Settings { source, scenario: self.fwd, core: self.core }, progress)
    }

    #[cfg(feature = "dpdk")]
    fn environment(&self, devices: &[String]) -> Result<Option<std::sync::Arc<crate::live::Environment>>, Error> {
        if devices.is_empty() {
            return Ok(None);
        }
        let cores = crate::process::cores_but(self.core)?;
        let env = crate::live::Environment::start(&self.device, devices.len(), &cores)?;
        Ok(Some(std::sync::Arc::new(env)))
    }
}
