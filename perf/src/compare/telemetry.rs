//! DPDK's own telemetry (rte_telemetry, version 2): counters of any DPDK program's ports from outside, with nothing changed in it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use serde::Deserialize;

/// Name of the socket in a program's folder below its run-time directory.
pub const SOCKET: &str = "dpdk_telemetry.v2";

/// The most octets of an answer: what DPDK announces (MAX_OUTPUT_LEN).
const ANSWER: usize = 16 * 1024;

/// How long an answer may take.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// A connection to one program.
#[derive(Debug)]
pub struct Telemetry(OwnedFd);

/// Counters of a port since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
}

impl Telemetry {
    /// Connects and reads the greeting.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let kind = SockType::SeqPacket;
        let socket = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let telemetry = Self(socket);
        telemetry.receive()?;
        Ok(telemetry)
    }

    /// The counters of a port.
    pub fn stats(&self, port: u16) -> io::Result<PortStats> {
        let command = format!("/ethdev/stats,{port}");
        socket::send(self.0.as_raw_fd(), command.as_bytes(), MsgFlags::empty())?;
        let answer = self.receive()?;
        parse(&answer).map_err(|reason| io::Error::other(format!("{command}: {reason}")))
    }

    /// The counters of the rig's two ports together.
    pub fn both(&self) -> io::Result<PortStats> {
        let (servers, clients) = (self.stats(0)?, self.stats(1)?);
        Ok(PortStats { ipackets: servers.ipackets + clients.ipackets, opackets: servers.opackets + clients.opackets })
    }

    fn receive(&self) -> io::Result<String> {
        let mut answer = vec![0; ANSWER];
        let length = socket::recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.truncate(length);
        String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// The counters out of an answer: `{"/ethdev/stats": {...}}`, or `{"/ethdev/stats": null}` for a port that is not there.
fn parse(answer: &str) -> Result<PortStats, String> {
    let found: BTreeMap<String, Option<PortStats>> =
        serde_json::from_str(answer).map_err(|error| format!("found {answer:.80}, which has no counters ({error})"))?;
    found.into_values().next().flatten().ok_or_else(|| "there is no such port".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::Backlog;

    #[test]
    fn answers_are_understood() {
        let answer = r#"{"/ethdev/stats":{"ipackets":7,"opackets":5,"ibytes":420,"obytes":300,"imissed":2,"ierrors":0,
            "oerrors":1,"rx_nombuf":0,"q_ipackets":[7,0],"q_opackets":[5,0]}}"#;
        assert_eq!(parse(answer), Ok(PortStats { ipackets: 7, opackets: 5 }));
        assert!(parse(r#"{"/ethdev/stats":null}"#).unwrap_err().contains("no such port"));
        assert!(parse("{}").unwrap_err().contains("no such port"));
        assert!(parse(r#"{"/ethdev/stats":{"ipackets":-1}}"#).unwrap_err().contains("no counters"));
        assert!(parse("hello").unwrap_err().contains("hello"));
    }

    #[test]
    fn a_conversation_as_dpdk_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        assert!(Telemetry::connect(&path).is_err());
        let kind = SockType::SeqPacket;
        let server = socket::socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
        socket::bind(server.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&server, Backlog::new(1).unwrap()).unwrap();
        let thread = std::thread::spawn(move || {
            let peer = socket::accept(server.as_raw_fd()).unwrap();
            socket::send(peer, br#"{"version":"DPDK 22.11.11","pid":1,"max_output_len":16384}"#, MsgFlags::empty())
                .unwrap();
            let mut command = [0; 64];
            let length = socket::recv(peer, &mut command, MsgFlags::empty()).unwrap();
            assert_eq!(&command[..length], b"/ethdev/stats,1");
            socket::send(peer, br#"{"/ethdev/stats":{"ipackets":0,"opackets":9}}"#, MsgFlags::empty()).unwrap();
            nix::unistd::close(peer).unwrap();
        });
        let telemetry = Telemetry::connect(&path).unwrap();
        assert_eq!(telemetry.stats(1).unwrap().opackets, 9);
        assert!(telemetry.stats(1).is_err(), "the other side has gone");
        thread.join().unwrap();
    }
}
