//! Whatever comes in: no panic, and every packet has one fate.

use proptest::prelude::*;

use super::*;

/// Random bytes behind a header that gets them past the first checks.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = prop::sample::select(vec![[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06]]);
    let first = prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x00]);
    let bytes = prop::collection::vec(any::<u8>(), 0..120);
    (ethertype, first, bytes, any::<bool>()).prop_map(|(ethertype, first, bytes, tagged)| {
        let mut frame = Vec::new();
        frame.extend(if tagged { LAN } else { WAN });
        frame.extend(SERVER);
        if tagged {
            frame.extend([0x81, 0x00, 0, 20]);
        }
        frame.extend(ethertype);
        frame.push(first);
        frame.extend(bytes);
        frame
    })
}

/// Sound packets, and what flipping a few octets or cutting makes of them. The IPv4 checksum is put right again half of the time.
fn mutants() -> impl Strategy<Value = Vec<u8>> {
    let sound = prop::sample::select(vec![
        server("10.0.20.5", "203.0.113.10").tcp(1, 80).payload([7; 30]),
        server("fd00:20::5", "2001:db8:10::10").hop_by_hop().udp(1, 53).payload([7; 30]),
        server("fd00:20::5", "2001:db8:8::8").fragment(0, true, 3).destination_options().udp(1, 53).payload([7; 30]),
        server("10.0.20.5", "10.0.20.1").options(&[148, 4, 0, 0, 1]).echo(1, 1),
        server("fd00:20::5", "ff02::1:ff00:1").neighbour_solicitation(v6("fd00:20::1")).source_link_layer(SERVER),
        from_server().arp_request(v4("10.0.20.5"), v4("10.0.20.1")),
    ]);
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (sound, flips, any::<bool>(), prop::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(
        |(packet, flips, repair, cut)| {
            let mut frame = packet.build();
            for (at, value) in flips {
                let at = at.index(frame.len() - 18) + 18;
                frame[at] ^= value;
            }
            let header = 18 + usize::from(frame[18] & 15) * 4;
            if repair && frame[16..18] == [8, 0] && header >= 38 && header <= frame.len() {
                frame[28..30].copy_from_slice(&[0, 0]);
                let sum = crate::packet::checksum(&[&frame[18..header]]);
                frame[28..30].copy_from_slice(&sum.to_be_bytes());
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        },
    )
}

proptest! {
    #[test]
    fn every_packet_has_one_fate(
        steps in prop::collection::vec((prop_oneof![frames(), mutants()], 0usize..3, 0u64..3 * SECOND, any::<bool>()), 1..40)
    ) {
        let mut lab = Lab::new();
        lab.sound = false;
        for (frame, port, pause, tick) in steps {
            lab.now += pause;
            lab.receive(port, &frame);
            if tick {
                lab.wait(0);
            }
        }
        lab.wait(3 * SECOND);
        lab.push(RuleTables::default());
        prop_assert_eq!(lab.node.held(), 0);
    }
}
