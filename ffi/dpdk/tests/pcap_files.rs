//! The conformance rig: packets of a file through net_pcap into another file, every byte the same.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use marchproxy_dpdk::{Eal, PacketBuf};
use marchproxy_engine::io::{RxQueue as _, TxQueue as _};

#[test]
fn files_in_and_out() {
    let eal = common::builder("pcap").start().unwrap();
    let directory = std::env::temp_dir().join(format!("marchproxy-pcap-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    every_packet_arrives_unchanged(&eal, &directory);
    frames_beyond_a_buffer_are_dropped_and_counted(&eal, &directory);
    an_empty_pool_costs_packets_and_is_counted(&eal, &directory);
    fs::remove_dir_all(&directory).unwrap();
}

fn every_packet_arrives_unchanged(eal: &Eal, directory: &Path) {
    let frames: Vec<_> = (0..10_000).map(|number| common::frame(number, 14 + number as usize * 7 % 1501)).collect();
    let (input, output) = (directory.join("in.pcap"), directory.join("out.pcap"));
    write_pcap(&input, &frames);
    let pool = common::pool(eal, "files", 511);
    let spec = format!("vdev:net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let (_device, port) = common::probe(eal, &spec);
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();
    let mut packets = common::burst();
    let mut received = 0;
    loop {
        let got = queues.rx[0].rx_burst(&mut packets, 32);
        if got == 0 {
            break;
        }
        received += got;
        assert_eq!(queues.tx[0].tx_burst(&mut packets), got);
    }
    assert_eq!(received, frames.len());
    drop(queues);
    drop(port.stop().unwrap());
    assert_eq!(pool.available(), pool.size());
    assert!(read_pcap(&output) == frames, "the files differ");
}

/// net_pcap hands a long frame over in several buffers, and one buffer can't hold it.
fn frames_beyond_a_buffer_are_dropped_and_counted(eal: &Eal, directory: &Path) {
    let input = directory.join("jumbo.pcap");
    let frames = [common::frame(0, 60), common::frame(1, 3000), common::frame(2, 2048)];
    write_pcap(&input, &frames);
    let pool = common::pool(eal, "jumbo", 63);
    let (_device, port) = common::probe(eal, &format!("vdev:net_pcap1,rx_pcap={}", input.display()));
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();
    let mut packets = common::burst();
    while queues.rx[0].rx_burst(&mut packets, 32) > 0 {}
    let got: Vec<_> = packets.iter().map(PacketBuf::data).collect();
    assert_eq!(got, [&frames[0], &frames[2]]);
    let repairs = queues.rx[0].repairs();
    assert_eq!((repairs.chained_dropped, repairs.dropped(), repairs.linearised), (1, 1, 0));
    drop(packets);
    assert_eq!(pool.available(), pool.size());
}

fn an_empty_pool_costs_packets_and_is_counted(eal: &Eal, directory: &Path) {
    let input = directory.join("many.pcap");
    write_pcap(&input, &(0..40).map(|number| common::frame(number, 60)).collect::<Vec<_>>());
    let pool = common::pool(eal, "tiny", 7);
    let (_device, port) = common::probe(eal, &format!("vdev:net_pcap2,rx_pcap={}", input.display()));
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();
    let mut packets = common::burst();
    while queues.rx[0].rx_burst(&mut packets, 32) > 0 {}
    assert_eq!((packets.len(), pool.available()), (7, 0));
    assert_ne!(port.stats().unwrap().rx_no_mbuf, 0);
    assert!(pool.alloc().is_none());
    packets.clear();
    assert_eq!(pool.available(), 7);
}

/// Classic pcap, little endian, Ethernet.
fn write_pcap(path: &PathBuf, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

fn read_pcap(path: &PathBuf) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let mut frames = Vec::new();
    let mut rest = &file[24..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}
