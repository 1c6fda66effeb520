//! Frames of a capture file as a load: readdressed to the measured port, everything else as it was seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use marchproxy_engine::wire::{ETHERNET, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TAG, be16};
use serde::{Serialize, Serializer};

use crate::load::{Load, Template};
use crate::rig::mac;
use crate::scenario::station;
use crate::{Error, pcap};

/// The port all of it arrives on.
const PORT: u8 = crate::scenario::WAN;
/// The longest frame without FCS that a port with an MTU of 1500 takes; a tag comes on top.
const LONGEST: usize = ETHERNET + 1500;
/// The shortest without FCS (IEEE 802.3, 3.2.8); a capture taken before the network card may have shorter ones.
const SHORTEST: usize = 60;

/// A capture file, read and found good.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Where it is.
    pub path: PathBuf,
    frames: Arc<[Vec<u8>]>,
}

impl Capture {
    /// Reads a file. Fails with the number of the first frame that cannot be sent, counted from 1 as other tools do.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let frames: Vec<_> = pcap::read_file(path)?.into_iter().map(|frame| frame.data).collect();
        let refused = |number: usize, found: String, allowed: String| Error::Capture {
            file: path.display().to_string(),
            frame: number,
            found,
            allowed,
        };
        for (number, frame) in frames.iter().enumerate() {
            let tagged = be16(frame, 12) == ETHERTYPE_VLAN;
            let longest = LONGEST + if tagged { TAG } else { 0 };
            if !(ETHERNET..=longest).contains(&frame.len()) {
                let allowed = format!("{ETHERNET} to {longest} without FCS");
                return Err(refused(number + 1, format!("{} octets", frame.len()), allowed));
            }
        }
        if frames.is_empty() {
            return Err(refused(0, "no frame".into(), "at least one".into()));
        }
        Ok(Self { path: path.to_owned(), frames: frames.into() })
    }

    /// How many frames it has.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// All frames in their order, over and over, as if they came from the clients' gateway.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        load.add_in_turn(1000, self.frames.iter().map(|frame| Template::captured(PORT, &readdressed(frame))));
        load
    }
}

fn readdressed(frame: &[u8]) -> Vec<u8> {
    let at = if be16(frame, 12) == ETHERTYPE_VLAN { 12 + TAG } else { 12 };
    let v6 = be16(frame, at) == ETHERTYPE_IPV6;
    let mut whole = [&mac(PORT)[..], &station(PORT, v6)[..], &frame[12..]].concat();
    whole.resize(whole.len().max(SHORTEST), 0);
    whole
}

impl Serialize for Capture {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Rng;
    use marchproxy_engine::io::PacketBuf;
    use marchproxy_engine::memory::MemoryBuf;
    use marchproxy_engine::packet::Packet;

    /// What reading a file of these frames says.
    fn read(name: &str, frames: &[Vec<u8>]) -> Result<Capture, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{name}.pcap"));
        pcap::write_file(&path, frames).unwrap();
        Capture::read(&path)
    }

    #[test]
    fn frames_come_in_their_order_with_our_addresses() {
        let packet = |n: u8| Packet::eth([9; 6], [8; 6]).ipv4([1, 1, 1, n], [2, 2, 2, 2]).udp(1, 2);
        let long = Packet::eth([9; 6], [8; 6]).ip("2a00::1".parse().unwrap(), "2a00::2".parse().unwrap()).udp(1, 2);
        let frames = [packet(0).build(), packet(1).payload(vec![7; 1400]).build(), long.payload(vec![5; 500]).build()];
        let capture = read("order", &frames).unwrap();
        assert_eq!(capture.frames(), 3);
        let (mut load, mut rng) = (capture.load(), Rng::new(1, "draw"));
        let mut buffer = MemoryBuf::empty();
        // Twice round, and one buffer for all: nothing is left of a longer frame.
        for n in 0..6 {
            load.draw(&mut rng).unwrap().fill(&mut buffer);
            let (sent, seen) = (buffer.data(), &frames[n % 3]);
            assert_eq!(sent[..6], mac(PORT));
            assert_eq!(sent[6..12], station(PORT, n % 3 == 2));
            assert_eq!(sent[12..seen.len()], seen[12..], "frame {n}");
            assert!(sent[seen.len()..].iter().all(|&b| b == 0) && sent.len() == seen.len().max(SHORTEST));
        }
    }

    #[test]
    fn frames_that_cannot_be_sent_are_named() {
        let good = vec![0; 60];
        for (name, frames, words) in [
            ("long", vec![good.clone(), vec![0; 1515]], &["frame 2", "1515 octets", "14 to 1514"][..]),
            ("short", vec![vec![0; 13]], &["frame 1", "13 octets"]),
            ("empty", vec![], &["no frame", "at least one"]),
        ] {
            let error = read(name, &frames).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && error.contains(name), "{error}");
        }
        let mut tagged = vec![0; 1518];
        tagged[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        assert!(read("tagged", &[tagged]).is_ok());
    }
}
