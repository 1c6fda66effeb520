//! The interface under a port, as the kernel's ioctls know it: sysfs would show another network namespace's.
//!
//! It is held by its index, so that a rename changes nothing, and another interface of the same name is not mistaken for it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use marchproxy_engine::io::Mac;

use crate::error::Error;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;

/// An Ethernet interface of this network namespace.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    control: OwnedFd,
}

/// Who drives an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfo {
    /// The kernel's driver: `veth`, `ixgbe`.
    pub driver: String,
    /// Where it sits, `0000:03:00.0` for PCI; empty for virtual ones.
    pub bus: String,
}

/// `ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `ethtool_drvinfo`.
#[repr(C)]
struct Info {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

impl Interface {
    /// Finds it.
    pub fn find(name: &str) -> Result<Self, Error> {
        // SAFETY: the call takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(Error::last(name, "socket"));
        }
        // SAFETY: `raw` was opened just now and nobody else holds it.
        let control = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut interface = Self { name: name.into(), index: 0, control };
        let missing = || Error::NoInterface { interface: name.into() };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(missing());
        }
        let answer = interface.ask(libc::SIOCGIFINDEX).map_err(|_| missing())?;
        // SAFETY: the kernel filled the index in.
        interface.index = unsafe { answer.ifr_ifru.ifru_ifindex } as u32;
        Ok(interface)
    }

    /// The name it was found by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its address; refused for what is not Ethernet.
    pub fn mac(&self) -> Result<Mac, Error> {
        let answer = self.ask(libc::SIOCGIFHWADDR).map_err(|source| self.failed("SIOCGIFHWADDR", source))?;
        // SAFETY: the kernel filled the hardware address in.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet { interface: self.name.clone(), found: address.sa_family });
        }
        Ok(std::array::from_fn(|at| address.sa_data[at] as u8))
    }

    /// Its MTU.
    pub fn mtu(&self) -> Result<u32, Error> {
        let answer = self.ask(libc::SIOCGIFMTU).map_err(|source| self.failed("SIOCGIFMTU", source))?;
        // SAFETY: the kernel filled the MTU in.
        Ok(unsafe { answer.ifr_ifru.ifru_mtu } as u32)
    }

    /// Refuses a port that would send what the interface doesn't take.
    pub fn check_mtu(&self, wanted: u16) -> Result<(), Error> {
        let found = self.mtu()?;
        if found < u32::from(wanted) {
            return Err(Error::MtuOfInterface { interface: self.name.clone(), found, wanted });
        }
        Ok(())
    }

    /// Whether it is up and has a carrier. False also when it is gone.
    pub fn is_up(&self) -> bool {
        let wanted = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.flags().is_ok_and(|flags| flags & wanted == wanted)
    }

    /// Whether the interface still exists, whatever its name is now.
    pub fn exists(&self) -> bool {
        self.current_name().is_ok()
    }

    /// Receive queues that are in use.
    pub fn queues(&self) -> u32 {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        match self.ethtool(&mut channels) {
            Ok(()) => (channels.rx + channels.combined).max(1),
            // Drivers with one queue often don't answer.
            Err(_) => 1,
        }
    }

    /// Its driver and place.
    pub fn driver(&self) -> DriverInfo {
        let mut info = Info {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            rom: [0; 32],
            reserved: [0; 12],
            counts: [0; 5],
        };
        if self.ethtool(&mut info).is_err() {
            return DriverInfo::default();
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|&b| b == 0).next().unwrap_or(&[])).into_owned();
        DriverInfo { driver: text(&info.driver), bus: text(&info.bus) }
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        let answer = self.ask(libc::SIOCGIFFLAGS)?;
        // SAFETY: the kernel filled the flags in.
        Ok(unsafe { answer.ifr_ifru.ifru_flags })
    }

    fn current_name(&self) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
        let mut request = request();
        request.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
        self.ioctl(libc::SIOCGIFNAME, &mut request)?;
        Ok(request.ifr_name)
    }

    /// One question about the interface; by its present name, but for the first one.
    fn ask(&self, what: libc::Ioctl) -> io::Result<libc::ifreq> {
        let mut request = request();
        if self.index == 0 {
            for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
                *to = from as libc::c_char;
            }
        } else {
            request.ifr_name = self.current_name()?;
        }
        self.ioctl(what, &mut request)?;
        Ok(request)
    }

    fn ioctl(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every request used here reads and writes one `ifreq`, which is borrowed for the call; only `ethtool` puts a pointer
        // into it, to a structure of its own.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), what, &raw mut *request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// `T` is the structure of the command in its first word.
    fn ethtool<T>(&self, command: &mut T) -> io::Result<()> {
        let mut request = request();
        request.ifr_name = self.current_name()?;
        request.ifr_ifru.ifru_data = (&raw mut *command).cast();
        self.ioctl(SIOCETHTOOL, &mut request)
    }

    fn value(&self, command: u32, data: u32) -> io::Result<u32> {
        let mut value = Value { command, data };
        self.ethtool(&mut value).map(|()| value.data)
    }

    fn failed(&self, step: &'static str, source: io::Error) -> Error {
        Error::Kernel { interface: self.name.clone(), step, source }
    }
}

fn request() -> libc::ifreq {
    // SAFETY: an ifreq is characters, numbers and pointers: all zero is a valid one.
    unsafe { std::mem::zeroed() }
}

/// What the kernel would do to packets before we see them, switched off for as long as this lives: GRO and LRO make packets longer than
/// the MTU, and a receiver that takes VLAN tags out hides them from XDP.
#[derive(Debug)]
pub(crate) struct Untouched {
    interface: std::sync::Arc<Interface>,
    gro: bool,
    flags: u32,
}

impl Untouched {
    pub(crate) fn new(interface: &std::sync::Arc<Interface>) -> Self {
        let gro = interface.value(ETHTOOL_GGRO, 0).is_ok_and(|on| on != 0);
        let flags = interface.value(ETHTOOL_GFLAGS, 0).unwrap_or(0);
        if gro {
            let _ = interface.value(ETHTOOL_SGRO, 0);
        }
        if flags & (FLAG_LRO | FLAG_RXVLAN) != 0 {
            // A driver that can't part from the tag keeps LRO's change at least.
            let _ = interface.value(ETHTOOL_SFLAGS, flags & !FLAG_LRO);
            let _ = interface.value(ETHTOOL_SFLAGS, flags & !(FLAG_LRO | FLAG_RXVLAN));
        }
        Self { interface: interface.clone(), gro, flags }
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        // An interface that is gone needs nothing.
        if self.gro {
            let _ = self.interface.value(ETHTOOL_SGRO, 1);
        }
        if self.flags & (FLAG_LRO | FLAG_RXVLAN) != 0 {
            let _ = self.interface.value(ETHTOOL_SFLAGS, self.flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_that_are_refused() {
        let error = Interface::find("nope9").unwrap_err().to_string();
        assert!(error.contains("\"nope9\" does not exist"), "{error}");
        assert!(Interface::find("").is_err() && Interface::find("a-name-beyond-the-kernels-limit").is_err());
        let loopback = Interface::find("lo").unwrap();
        assert!(loopback.exists() && loopback.index() > 0 && loopback.queues() == 1);
        assert!(loopback.mac().unwrap_err().to_string().contains("no Ethernet device"), "loopback");
        assert!(loopback.check_mtu(1500).is_ok());
    }
}
