//! Announcements: what the links hear about addresses that appear.

use super::*;

fn announcing(tables: RuleTables) -> Lab {
    let mut lab = Lab::bare(tables);
    lab.node = lab.node.announcing();
    lab
}

const OWN4: &str = "wan: WAN > ALL arp who-has 192.0.2.1 tell 192.0.2.1 at WAN";
const OWN6: &str =
    "wan: WAN > 33:33:00:00:00:01 2001:db8::1 > ff02::1 icmp6 2001:db8::1 is-at flags 0xa0 target WAN ttl 255 data 24";

#[test]
fn own_addresses_are_announced_three_times() {
    let mut tables = tables();
    tables.interfaces.drain(..2);
    (tables.routes, tables.services) = (vec![], vec![]);
    let mut lab = announcing(tables);
    assert_eq!(lab.wait(0), [OWN4, OWN6]);
    assert!(lab.wait(SECOND - 1).is_empty());
    assert_eq!(lab.wait(1), [OWN4, OWN6]);
    assert_eq!(lab.wait(3 * SECOND), [OWN4, OWN6], "a late turn sends once");
    assert!(lab.wait(9 * SECOND).is_empty());
}

#[test]
fn so_are_service_addresses_on_the_link_when_a_push_adds_them() {
    let mut tables = tables();
    let mut lab = announcing(tables.clone());
    assert_eq!(lab.wait(0).len(), 5);
    let web = tables.services.iter().position(|service| service.name == "web").unwrap();
    tables.services[web].addresses = vec![ip("192.0.2.200"), ip("203.0.113.10"), ip("2001:db8::200")];
    lab.push(tables.clone());
    let told = lab.wait(0);
    assert_eq!(told[0], "wan: WAN > ALL arp who-has 192.0.2.200 tell 192.0.2.200 at WAN");
    assert!(told.len() == 2 && told[1].contains("2001:db8::200 is-at flags 0xa0 target WAN"), "{told:?}");
    // Gone before its second time; an address that stays is not announced anew.
    tables.services[web].addresses = vec![ip("203.0.113.10"), ip("2001:db8::200")];
    lab.push(tables);
    assert!(lab.wait(0).is_empty());
    let told = lab.wait(SECOND);
    assert!(told.len() == 6 && !told.iter().any(|line| line.contains("192.0.2.200")), "{told:?}");
}

#[test]
fn many_addresses_take_their_time() {
    let mut tables = tables();
    tables.services.truncate(1);
    tables.services[0].addresses = (0..100u8).map(|n| IpAddr::from([192, 0, 2, 100 + n])).collect();
    let mut lab = announcing(tables);
    let counts: Vec<usize> = (0..6).map(|_| lab.wait(1_000_000).len()).collect();
    assert_eq!(counts, [32, 32, 32, 9, 0, 0]);
}
