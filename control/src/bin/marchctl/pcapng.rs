//! Capture files in pcapng (draft-ietf-opsawg-pcapng): an interface for each port, nanoseconds, a comment with each packet.
//!
//! Written here because three kinds of blocks are all it takes, and of the crates that write the format one is a release candidate and one
//! has not moved since its first version.

use std::io::{self, Write};
use std::time::Duration;

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
const ETHERNET: u16 = 1;

const OPT_COMMENT: u16 = 1;
const SHB_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Units of timestamps: 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Towards the node.
    In = 1,
    /// Out of it.
    Out = 2,
}

/// One packet.
pub struct Packet<'a> {
    /// Name of its interface.
    pub interface: &'a str,
    /// Since 1970.
    pub at: Duration,
    /// What was copied of it.
    pub octets: &'a [u8],
    /// How long it was.
    pub length: u32,
    /// Which way it went.
    pub way: Way,
    /// What happened to it.
    pub comment: &'a str,
}

/// A file being written.
pub struct Writer<W: Write> {
    out: W,
    snaplen: u32,
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(mut out: W, snaplen: u32) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]); // version 1.0
        body.extend(u64::MAX.to_le_bytes()); // length of the section: not known
        option(&mut body, SHB_APPLICATION, concat!("marchctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(&mut body);
        block(&mut out, SECTION, &body)?;
        Ok(Self { out, snaplen, interfaces: Vec::new() })
    }

    /// The number of the interface of this name; a new one is written down first.
    pub fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(known) = self.interfaces.iter().position(|interface| interface == name) {
            return Ok(known as u32);
        }
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend([0, 0]);
        body.extend(self.snaplen.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(&mut body);
        block(&mut self.out, INTERFACE, &body)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }

    /// Writes a packet and lets it be seen.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface)?;
        let at = packet.at.as_nanos() as u64;
        let mut body = Vec::with_capacity(packet.octets.len() + packet.comment.len() + 64);
        for word in [interface, (at >> 32) as u32, at as u32, packet.octets.len() as u32, packet.length] {
            body.extend(word.to_le_bytes());
        }
        body.extend(packet.octets);
        pad(&mut body);
        option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
        option(&mut body, EPB_FLAGS, &(packet.way as u32).to_le_bytes());
        end_of_options(&mut body);
        block(&mut self.out, PACKET, &body)?;
        self.out.flush()
    }

    /// Lets everything be seen.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_parser::traits::PcapNGPacketBlock as _;
    use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapNGReader, traits::PcapReaderIterator as _};

    #[test]
    fn a_reader_finds_what_was_written() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 96).unwrap();
        writer.interface("lan").unwrap();
        for (interface, length, comment) in
            [("wan", 5, "sent on port wan"), ("lan", 60, "dropped: no_route"), ("wan", 1, "")]
        {
            let at = Duration::new(1_700_000_000, 123_456_789);
            let octets = &[0xab; 60][..length];
            writer.packet(&Packet { interface, at, octets, length: 1500, way: Way::Out, comment }).unwrap();
        }
        let (mut names, mut found) = (Vec::new(), Vec::new());
        let mut reader = PcapNGReader::new(65536, &file[..]).unwrap();
        while let Ok((used, block)) = reader.next() {
            match block {
                PcapBlockOwned::NG(Block::SectionHeader(header)) => assert!(!header.big_endian()),
                PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                    assert_eq!((interface.if_tsresol, interface.snaplen, interface.linktype.0), (9, 96, 1));
                    let name = interface.options.iter().find(|o| o.code == OptionCode(IF_NAME)).unwrap();
                    names.push(String::from_utf8(name.value[..usize::from(name.len)].to_vec()).unwrap());
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                    let at = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                    assert_eq!((at, packet.origlen), (1_700_000_000_123_456_789, 1500));
                    let comment = packet.options.iter().find(|o| o.code == OptionCode::Comment).unwrap();
                    let comment = String::from_utf8(comment.value[..usize::from(comment.len)].to_vec()).unwrap();
                    assert!(packet.packet_data()[..packet.caplen as usize].iter().all(|&octet| octet == 0xab));
                    found.push((packet.if_id, packet.caplen, comment));
                }
                _ => panic!("another block"),
            }
            reader.consume(used);
        }
        assert_eq!(names, ["lan", "wan"]);
        let wanted = [(1, 5, "sent on port wan"), (0, 60, "dropped: no_route"), (1, 1, "")];
        assert_eq!(found, wanted.map(|(id, len, comment)| (id, len, comment.to_owned())));
    }
}
