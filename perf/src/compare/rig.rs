//! What all programs run on alike: a capture file that a device plays for ever, a device that takes everything, one core for the worker,
//! and the kind of memory.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Error;
use crate::machine::free_hugepages_mb;
use crate::pcap;

/// Packets of a file, unless there are more flows: the descriptors of eight rings of 1,024.
pub const PACKETS: usize = 8192;

/// Buffers beside those that the file's packets occupy: descriptor rings, caches and bursts in flight.
const SPARE_BUFFERS: usize = 16 * 1024;

/// Of the folder's name; the process id of its owner follows.
const PREFIX: &str = "marchproxy-compare-";

/// Free huge pages, in MB, from which on all programs use them: what the largest of them takes.
const HUGE_MB: u64 = 1024;

/// The rig of one comparison. Its folder is removed with it.
#[derive(Debug)]
pub struct Rig {
    folder: TempDir,
    /// What arrives on the port towards servers and on the one towards clients, with the number of packets.
    captures: [Option<(PathBuf, usize)>; 2],
    core: usize,
    other: usize,
    huge: bool,
}

impl Rig {
    /// Writes the frames of each port into a capture file. Workers run on the first core, everything else of a program on the other one.
    pub fn new<F: AsRef<[u8]>>([core, other]: [usize; 2], frames: [Vec<F>; 2]) -> Result<Self, Error> {
        let place = std::env::temp_dir();
        sweep(&place);
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(place);
        let what = "a folder for capture files and sockets".to_owned();
        let folder = folder.map_err(|source| Error::System { what, source })?;
        let mut captures = [None, None];
        for ((capture, frames), name) in captures.iter_mut().zip(frames).zip(["servers", "clients"]) {
            if !frames.is_empty() {
                let path = folder.path().join(format!("{name}.pcap"));
                pcap::write_file(&path, &frames)?;
                *capture = Some((path, frames.len()));
            }
        }
        let huge = free_hugepages_mb() >= HUGE_MB;
        Ok(Self { folder, captures, core, other, huge })
    }

    /// Where a program may leave what it likes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The core of the worker.
    pub fn core(&self) -> usize {
        self.core
    }

    /// The core of everything else.
    pub fn other(&self) -> usize {
        self.other
    }

    /// The capture file of the port towards clients, where all programs that forward one way receive.
    pub fn capture(&self) -> Option<&Path> {
        self.captures[1].as_ref().map(|(path, _)| path.as_path())
    }

    /// Packets in all files.
    pub fn packets(&self) -> usize {
        self.captures.iter().flatten().map(|(_, packets)| packets).sum()
    }

    /// Whether programs take reserved huge pages.
    pub fn huge(&self) -> bool {
        self.huge
    }

    /// Buffers that a program's pool needs: the device that plays a file keeps each of its packets in one.
    pub fn buffers(&self) -> usize {
        (self.packets() + SPARE_BUFFERS).next_multiple_of(1024)
    }

    /// Megabytes that those buffers take: 2,176 octets each, a header of 128, and the pool's own.
    pub fn buffer_megabytes(&self) -> usize {
        self.buffers() * 5 / 2 / 1024 + 32
    }

    /// The two devices, as EAL names them: port 0 towards servers, port 1 towards clients. One without a file has nothing to receive, and
    /// each takes everything that is sent.
    pub fn devices(&self) -> [String; 2] {
        [0, 1].map(|port| match &self.captures[port] {
            Some((path, _)) => format!("net_pcap{port},rx_pcap={},infinite_rx=1", path.display()),
            None => format!("net_null{port},no-rx=1"),
        })
    }

    /// The memory's EAL options, for a program that needs this much.
    pub fn memory(&self, megabytes: usize) -> Vec<String> {
        let words = if self.huge {
            vec!["--in-memory".into()]
        } else {
            vec!["--no-huge".into(), "-m".into(), megabytes.to_string()]
        };
        words.into_iter().chain(["--no-pci".into()]).collect()
    }

    /// The rig in words, for the report.
    pub fn describe(&self) -> String {
        let devices = if self.captures.iter().all(Option::is_some) {
            "two net_pcap that take what the other one brings"
        } else {
            "net_pcap to net_null"
        };
        let pages = if self.huge { "reserved huge pages" } else { "normal pages (too few huge ones reserved)" };
        format!("{devices}, {} packets played for ever, worker on core {}, {pages}", self.packets(), self.core)
    }
}

/// Removes the folders of runs that were killed.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            // It may be somebody else's, or gone already.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_swept() {
        let place = tempfile::tempdir().unwrap();
        // Process ids end below 2^22.
        let (dead, alive) = (format!("{PREFIX}4200000-x"), format!("{PREFIX}{}-x", std::process::id()));
        for name in [&dead, &alive, "other"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        sweep(place.path());
        let left = [&dead, &alive, "other"].map(|name| place.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn files_are_written_and_removed() {
        let rig = Rig::new([0, 0], [Vec::new(), vec![[1u8; 60], [2; 60]]]).unwrap();
        let (folder, capture) = (rig.folder().to_owned(), rig.capture().unwrap().to_owned());
        // 24 octets of header, 16 for each frame.
        assert_eq!(fs::metadata(&capture).unwrap().len(), 24 + 2 * (16 + 60));
        let [servers, clients] = rig.devices();
        assert_eq!(servers, "net_null0,no-rx=1");
        assert!(clients.starts_with("net_pcap1,rx_pcap=") && clients.contains(capture.to_str().unwrap()), "{clients}");
        assert!(rig.buffers() > 16_384 && rig.packets() == 2);
        drop(rig);
        assert!(!folder.exists());
    }
}
