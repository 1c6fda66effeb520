//! rte_acl: the first matching rule over the classic five fields, by tries that are compiled from the whole list at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

use marchproxy_dpdk_sys as sys;

use super::{Home, TableError, unique_name};
use crate::eal::Eal;

/// The family of a list's addresses; a list has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One rule. Ranges include both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// Source prefix; `None` for any.
    pub src: Option<(IpAddr, u8)>,
    /// Destination prefix; `None` for any.
    pub dst: Option<(IpAddr, u8)>,
    /// Protocol; `None` for any.
    pub protocol: Option<u8>,
    /// Source ports.
    pub sport: (u16, u16),
    /// Destination ports.
    pub dport: (u16, u16),
}

/// What a packet shows.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct AclKey(sys::mp_acl_key);

impl AclKey {
    /// Of an IPv4 packet.
    pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, sport: u16, dport: u16) -> Self {
        Self::new(&src.octets(), &dst.octets(), protocol, sport, dport)
    }

    /// Of an IPv6 packet.
    pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, sport: u16, dport: u16) -> Self {
        Self::new(&src.octets(), &dst.octets(), protocol, sport, dport)
    }

    fn new(src: &[u8], dst: &[u8], protocol: u8, sport: u16, dport: u16) -> Self {
        let mut key = sys::mp_acl_key { bytes: [0; 40] };
        key.bytes[0] = protocol;
        let fields = src.iter().chain(dst).copied().chain(sport.to_be_bytes()).chain(dport.to_be_bytes());
        // The protocol has a word of its own.
        for (byte, value) in key.bytes[4..].iter_mut().zip(fields) {
            *byte = value;
        }
        Self(key)
    }
}

/// A compiled list.
#[derive(Debug)]
pub struct Acl {
    raw: NonNull<sys::rte_acl_ctx>,
    family: Family,
    home: Home,
}

// SAFETY: the tries are plain memory of DPDK's heap, bound to no thread, and this handle their only owner.
unsafe impl Send for Acl {}

impl Acl {
    /// Compiles a list: the first rule that matches wins. `limit` bounds the tries' octets; 0 for no limit. With 100,000 rules
    /// this takes minutes and gigabytes, and nothing can end it early.
    pub fn build(eal: &Eal, family: Family, rules: &[AclRule], limit: usize) -> Result<Self, TableError> {
        let home = Home::new("rte_acl", eal.process());
        // One priority each.
        home.within("rules", rules.len() as u64, 1, sys::MP_ACL_PRIORITY_MAX as u64)?;
        let v6 = i32::from(family == Family::V6);
        let name = unique_name("acl");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; the number is in range (checked above).
        let raw = unsafe { sys::mp_acl_create(name.as_ptr(), v6, rules.len() as u32) };
        // From here on it is freed on every way out.
        let acl = Self { raw: home.made(raw)?, family, home };
        for (index, rule) in rules.iter().enumerate() {
            let rule = acl.lower(rule, index, rules.len())?;
            // SAFETY: the context is alive (acl owns it) and was made for this family; the rule is copied.
            let result = unsafe { sys::mp_acl_add(acl.raw.as_ptr(), v6, &raw const rule) };
            acl.home.check("rule", result)?;
        }
        // SAFETY: as above; the rules in it were laid out for this family.
        let result = unsafe { sys::mp_acl_build(acl.raw.as_ptr(), v6, limit) };
        acl.home.check("compiling the rules", result)?;
        Ok(acl)
    }

    /// The rule as the shim takes it. DPDK prefers the higher priority; 0 stands for "no rule".
    fn lower(&self, rule: &AclRule, index: usize, count: usize) -> Result<sys::mp_acl_rule, TableError> {
        let (src, src_len) = self.prefix("src", rule.src)?;
        let (dst, dst_len) = self.prefix("dst", rule.dst)?;
        for (field, (first, last)) in [("sport", rule.sport), ("dport", rule.dport)] {
            if first > last {
                return Err(self.home.field(field, &format!("{first}-{last}"), "first port not above last"));
            }
        }
        Ok(sys::mp_acl_rule {
            src,
            dst,
            sport: [rule.sport.0, rule.sport.1],
            dport: [rule.dport.0, rule.dport.1],
            src_len,
            dst_len,
            protocol: rule.protocol.unwrap_or(0),
            protocol_mask: if rule.protocol.is_some() { u8::MAX } else { 0 },
            priority: (count - index) as i32,
            answer: index as u32 + 1,
        })
    }

    fn prefix(&self, field: &'static str, prefix: Option<(IpAddr, u8)>) -> Result<([u32; 4], u8), TableError> {
        let Some((address, len)) = prefix else { return Ok(([0; 4], 0)) };
        let (words, most) = match (address, self.family) {
            (IpAddr::V4(address), Family::V4) => ([address.to_bits(), 0, 0, 0], 32),
            (IpAddr::V6(address), Family::V6) => {
                let bits = address.to_bits();
                ([(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32], 128)
            }
            _ => return Err(self.home.field(field, &address, format!("addresses of family {:?}", self.family))),
        };
        self.home.within(field, len.into(), 0, most)?;
        Ok((words, len))
    }

    /// For each key the index of its first matching rule plus one, 0 without a match; as many as both slices hold. Keys of the other
    /// family get some answer.
    #[inline]
    pub fn classify(&self, keys: &[AclKey], answers: &mut [u32]) {
        let n = keys.len().min(answers.len()) as u32;
        // SAFETY: the context is alive and built; both slices hold `n` elements; an AclKey is a mp_acl_key (repr(transparent)), which
        // is as long as the longest input DPDK reads. It fails for null pointers only.
        let _ = unsafe { sys::mp_acl_classify(self.raw.as_ptr(), keys.as_ptr().cast(), answers.as_mut_ptr(), n) };
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: self owns the context, which is not used again; EAL still runs (home holds it).
        unsafe { sys::rte_acl_free(self.raw.as_ptr()) };
    }
}
