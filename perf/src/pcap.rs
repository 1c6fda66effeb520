//! Capture files in the classic format (draft-ietf-opsawg-pcap): whole Ethernet frames, written with nanoseconds, read with either
//! resolution and either byte order. Twenty-four octets of header and sixteen per frame, which is less than a library would need of us.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::Error;

/// Magic number of files with microseconds and with nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The only version there is, as major and minor.
const VERSION: [u16; 2] = [2, 4];
/// LINKTYPE_ETHERNET; the upper bits of the field may tell the length of an FCS.
const ETHERNET: u32 = 1;
const LINK_TYPE: u32 = 0x03ff_ffff;
/// Where the field tells an FCS: its presence, and its length in 16-bit units.
const FCS_PRESENT: u32 = 1 << 26;
/// The most octets a frame may have: what libpcap writes and reads at most.
const SNAP: u32 = 262_144;

/// A frame of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was seen, in nanoseconds since 1970.
    pub at: u64,
    /// From the destination address on, without FCS.
    pub data: Vec<u8>,
}

/// Writes a file frame by frame.
pub struct Writer<W: Write> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&NANOSECONDS.to_le_bytes())?;
        for word in VERSION {
            to.write_all(&word.to_le_bytes())?;
        }
        // Two reserved words, the largest frame, the link type.
        for word in [0, 0, SNAP, ETHERNET] {
            to.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { to })
    }

    /// Adds a frame seen `at` nanoseconds since 1970.
    pub fn write(&mut self, at: u64, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).ok().filter(|&length| length <= SNAP);
        let length = length.ok_or_else(|| invalid(format!("a frame of {} octets, allowed {SNAP}", frame.len())))?;
        let seconds = u32::try_from(at / 1_000_000_000).map_err(|_| invalid("a time after 2106".into()))?;
        for word in [seconds, (at % 1_000_000_000) as u32, length, length] {
            self.to.write_all(&word.to_le_bytes())?;
        }
        self.to.write_all(frame)
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads a file frame by frame. It ends after the first error.
pub struct Reader<R: BufRead> {
    from: R,
    big_endian: bool,
    /// Nanoseconds of the fraction's unit.
    unit: u64,
    /// Octets of the FCS behind every frame.
    fcs: usize,
    number: usize,
    failed: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub fn new(mut from: R) -> io::Result<Self> {
        let header: [u8; 24] = exactly(&mut from, "the header")?;
        let magic = word(&header, 0, false);
        let (big_endian, unit) = match (magic, magic.swap_bytes()) {
            (MICROSECONDS, _) => (false, 1000),
            (NANOSECONDS, _) => (false, 1),
            (_, MICROSECONDS) => (true, 1000),
            (_, NANOSECONDS) => (true, 1),
            _ => {
                let allowed = "classic pcap (a1b2c3d4 or a1b23c4d); convert pcapng with `editcap -F pcap`";
                return Err(invalid(format!("found magic number {magic:08x}, allowed {allowed}")));
            }
        };
        let link = word(&header, 20, big_endian);
        if link & LINK_TYPE != ETHERNET {
            return Err(invalid(format!("link type: found {}, allowed {ETHERNET} (Ethernet)", link & LINK_TYPE)));
        }
        let fcs = if link & FCS_PRESENT == 0 { 0 } else { (link >> 28) as usize * 2 };
        Ok(Self { from, big_endian, unit, fcs, number: 0, failed: false })
    }

    fn frame(&mut self) -> io::Result<Option<Frame>> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let refused = |number, what: String| invalid(format!("frame {number}: {what}"));
        let header: [u8; 16] = exactly(&mut self.from, &format!("the header of frame {}", self.number))?;
        let [seconds, fraction, held, length] = [0, 4, 8, 12].map(|at| word(&header, at, self.big_endian));
        if held > SNAP {
            return Err(refused(self.number, format!("found {held} octets, allowed {SNAP}")));
        }
        if held != length {
            let what = format!("{held} of its {length} octets were captured, allowed whole frames (capture with -s 0)");
            return Err(refused(self.number, what));
        }
        let mut data = vec![0; held as usize];
        self.from.read_exact(&mut data).map_err(|error| cut(error, &format!("frame {}", self.number)))?;
        data.truncate(data.len().saturating_sub(self.fcs));
        Ok(Some(Frame { at: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit, data }))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Frame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let frame = self.frame().transpose();
        self.failed = matches!(frame, Some(Err(_)));
        frame
    }
}

/// Writes all frames, a microsecond apart.
pub fn write_all<W: Write, F: AsRef<[u8]>>(to: W, frames: impl IntoIterator<Item = F>) -> io::Result<W> {
    let mut writer = Writer::new(to)?;
    for (number, frame) in frames.into_iter().enumerate() {
        writer.write(number as u64 * 1000, frame.as_ref())?;
    }
    writer.finish()
}

/// Writes all frames to a file.
pub fn write_file<F: AsRef<[u8]>>(path: &Path, frames: impl IntoIterator<Item = F>) -> Result<(), Error> {
    let written = File::create(path).and_then(|file| write_all(BufWriter::new(file), frames));
    written.map(drop).map_err(named(path))
}

/// Reads all frames.
pub fn read_file(path: &Path) -> Result<Vec<Frame>, Error> {
    let read = || Reader::new(BufReader::new(File::open(path)?))?.collect::<io::Result<Vec<_>>>();
    read().map_err(named(path))
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what: format!("capture file {}", path.display()), source }
}

fn exactly<const N: usize>(from: &mut impl Read, what: &str) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(|error| cut(error, what))?;
    Ok(bytes)
}

/// The end of the file where there should be more.
fn cut(error: io::Error, what: &str) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { invalid(format!("the file ends inside {what}")) } else { error }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or_default());
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as a tool with this byte order and resolution writes it: one frame of `held` octets, said to have been `length`.
    fn foreign(big_endian: bool, magic: u32, link: u32, held: u32, length: u32) -> Vec<u8> {
        let word = |w: u32| if big_endian { w.to_be_bytes() } else { w.to_le_bytes() };
        let version = if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
        let mut file = [word(magic), version].concat();
        for w in [0, 0, 65_535, link, 7, 5, held, length] {
            file.extend(word(w));
        }
        file.extend((0..held.min(100)).map(|n| n as u8));
        file
    }

    fn read(file: &[u8]) -> Result<Vec<Frame>, String> {
        Reader::new(file).and_then(Iterator::collect).map_err(|error: io::Error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let frames: Vec<Frame> = [60, 0, 1514, 9000]
            .into_iter()
            .enumerate()
            .map(|(n, len)| Frame { at: n as u64 * 2_000_000_001, data: vec![n as u8; len] })
            .collect();
        let mut writer = Writer::new(Vec::new()).unwrap();
        for frame in &frames {
            writer.write(frame.at, &frame.data).unwrap();
        }
        let file = writer.finish().unwrap();
        assert_eq!(file.len(), 24 + 4 * 16 + 60 + 1514 + 9000);
        assert_eq!(read(&file), Ok(frames));
        assert!(Writer::new(Vec::new()).unwrap().write(0, &vec![0; 300_000]).is_err());
    }

    #[test]
    fn every_byte_order_and_resolution_is_read() {
        let data: Vec<u8> = (0..60).collect();
        for big_endian in [false, true] {
            for (magic, fraction) in [(MICROSECONDS, 5000), (NANOSECONDS, 5)] {
                let expected = Frame { at: 7_000_000_000 + fraction, data: data.clone() };
                assert_eq!(read(&foreign(big_endian, magic, 1, 60, 60)), Ok(vec![expected]));
            }
        }
        // Two 16-bit words of FCS.
        let with_fcs = read(&foreign(false, MICROSECONDS, 1 | FCS_PRESENT | 2 << 28, 60, 60)).unwrap();
        assert_eq!(with_fcs[0].data, data[..56]);
    }

    #[test]
    fn what_is_no_such_file_is_named() {
        let whole = foreign(false, MICROSECONDS, 1, 60, 60);
        for (file, words) in [
            (&b""[..], &["inside the header"][..]),
            (&[0x0a, 0x0d, 0x0d, 0x0a].repeat(6), &["magic number", "pcapng"]),
            (&foreign(true, MICROSECONDS, 113, 60, 60), &["link type", "found 113", "allowed 1"]),
            (&foreign(false, MICROSECONDS, 1, 60, 1500), &["frame 1", "60 of its 1500", "whole"]),
            (&foreign(false, MICROSECONDS, 1, 1 << 30, 1 << 30), &["frame 1", "1073741824", "262144"]),
            (&whole[..30], &["inside the header of frame 1"]),
            (&whole[..70], &["inside frame 1"]),
        ] {
            let error = read(file).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        // The frames before it are good, and there are none behind it.
        let mut reader = Reader::new(&[&whole[..], &[1, 2, 3]].concat()[..]).unwrap().collect::<Vec<_>>().into_iter();
        assert!(reader.next().unwrap().is_ok() && reader.next().unwrap().is_err() && reader.next().is_none());
    }

    #[test]
    fn files_are_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.pcap");
        write_file(&path, [[1u8; 60], [2; 60]]).unwrap();
        let frames = read_file(&path).unwrap();
        assert_eq!(frames, [Frame { at: 0, data: vec![1; 60] }, Frame { at: 1000, data: vec![2; 60] }]);
        let path = folder.path().join("none.pcap");
        assert!(read_file(&path).unwrap_err().to_string().contains(path.to_str().unwrap()));
    }
}
