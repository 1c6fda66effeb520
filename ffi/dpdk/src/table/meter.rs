//! rte_meter: single rate (RFC 2697) and two rate (RFC 2698) three colour markers, colour-blind.
//!
//! An object holds many meters, each beside its own rates, as one worker has them.

use std::ptr::NonNull;

use marchproxy_dpdk_sys as sys;

use super::{Home, TableError};
use crate::eal::Eal;

/// A packet's colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Colour {
    /// Within the committed burst.
    Green = 0,
    /// Within the excess or peak burst.
    Yellow = 1,
    /// Beyond both.
    Red = 2,
}

impl Colour {
    /// From the shim's number.
    #[inline]
    const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Green,
            1 => Self::Yellow,
            _ => Self::Red,
        }
    }
}

/// What a single rate marker allows. Octets of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrtcmRates {
    /// Committed rate in octets per second.
    pub cir: u64,
    /// Committed burst in octets.
    pub cbs: u64,
    /// Excess burst in octets; one of the bursts is above 0.
    pub ebs: u64,
}

/// What a two rate marker allows. Octets of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrtcmRates {
    /// Committed rate in octets per second.
    pub cir: u64,
    /// Committed burst in octets.
    pub cbs: u64,
    /// Peak rate in octets per second, at least `cir`.
    pub pir: u64,
    /// Peak burst in octets.
    pub pbs: u64,
}

/// How DPDK rounded a rate: so many octets after each so many cycles of the time stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Cycles.
    pub cycles: u64,
    /// Octets.
    pub octets: u64,
}

impl From<sys::mp_step> for Step {
    fn from(step: sys::mp_step) -> Self {
        Self { cycles: step.cycles, octets: step.bytes }
    }
}

/// One packet's meter must exist, or the shim would write beside the array.
#[inline]
fn burst_len(which: &[u32], lens: &[u16], colours: &[u8], meters: u32) -> usize {
    let n = which.len().min(lens.len()).min(colours.len());
    if which[..n].iter().all(|&meter| meter < meters) { n } else { 0 }
}

macro_rules! meters {
    ($(#[$doc:meta])* $name:ident, $rates:ident, $raw:ident, $label:literal,
     $create:ident, $free:ident, $burst:ident, |$r:ident| ($($argument:expr),*), $set:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            raw: NonNull<sys::$raw>,
            len: u32,
            /// The clock's latest reading: DPDK takes one that runs backwards for a leap forwards.
            now: u64,
            home: Home,
        }

        // SAFETY: the meters are plain memory of DPDK's heap, bound to no thread, and this handle their only owner.
        unsafe impl Send for $name {}

        impl $name {
            /// One meter for each entry, all buckets full at `now` cycles.
            pub fn create(eal: &Eal, rates: &[$rates], now: u64) -> Result<Self, TableError> {
                let home = Home::new($label, eal.process());
                home.within("meters", rates.len() as u64, 1, u32::MAX.into())?;
                let len = rates.len() as u32;
                // SAFETY: EAL runs (home holds it).
                let raw = unsafe { sys::$create(len) };
                let meters = Self { raw: home.made(raw)?, len, now, home };
                for (at, $r) in rates.iter().enumerate() {
                    // SAFETY: `at` is below the number of meters that were allocated.
                    let result = unsafe { sys::$set(meters.raw.as_ptr(), at as u32, $($argument,)* now) };
                    if result != 0 {
                        let allowed = "rates and bursts above 0, the peak not below the committed rate";
                        return Err(meters.home.field("rates", &format!("{:?} of meter {at}", $r), allowed));
                    }
                }
                Ok(meters)
            }

            /// Meters a burst of packets at `now` cycles: `which[n]` is the meter of packet `n`, `lens[n]` its octets, `colours[n]` the
            /// answer ([`Colour`] as a number, see [`colour`](Self::colour)). Returns how many it metered: as many as all three slices
            /// hold, none if a meter does not exist. A clock that runs backwards stands still.
            #[inline]
            pub fn burst(&mut self, now: u64, which: &[u32], lens: &[u16], colours: &mut [u8]) -> usize {
                let n = burst_len(which, lens, colours, self.len);
                self.now = self.now.max(now);
                // SAFETY: the meters are alive and exclusively borrowed; all slices hold `n` elements; the meters of the first `n`
                // packets exist (burst_len).
                unsafe {
                    sys::$burst(
                        self.raw.as_ptr(),
                        which.as_ptr(),
                        lens.as_ptr(),
                        colours.as_mut_ptr(),
                        n as u32,
                        self.now,
                    );
                }
                n
            }

            /// What a number in `colours` means.
            #[inline]
            pub const fn colour(raw: u8) -> Colour {
                Colour::from_raw(raw)
            }

            /// Refuses meters that do not exist.
            fn existing(&self, at: u32) -> Result<u32, TableError> {
                self.home.within("meter", at.into(), 0, u64::from(self.len) - 1).map(|()| at)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: self owns the meters, which are not used again; EAL still runs (home holds it).
                unsafe { sys::$free(self.raw.as_ptr()) };
            }
        }
    };
}

meters!(
    /// Single rate three colour markers.
    Srtcm, SrtcmRates, mp_srtcm, "rte_meter srTCM",
    mp_srtcm_create, mp_srtcm_free, mp_srtcm_burst, |r| (r.cir, r.cbs, r.ebs), mp_srtcm_set
);
meters!(
    /// Two rate three colour markers.
    Trtcm, TrtcmRates, mp_trtcm, "rte_meter trTCM",
    mp_trtcm_create, mp_trtcm_free, mp_trtcm_burst, |r| (r.cir, r.cbs, r.pir, r.pbs), mp_trtcm_set
);

impl Srtcm {
    /// The committed rate of a meter as DPDK rounded it.
    pub fn step(&self, meter: u32) -> Result<Step, TableError> {
        let at = self.existing(meter)?;
        // SAFETY: the meters are alive and `at` is one of them.
        Ok(unsafe { sys::mp_srtcm_step(self.raw.as_ptr(), at) }.into())
    }
}

impl Trtcm {
    /// Committed and peak rate of a meter as DPDK rounded them.
    pub fn steps(&self, meter: u32) -> Result<[Step; 2], TableError> {
        let at = self.existing(meter)?;
        // SAFETY: the meters are alive and `at` is one of them.
        let committed = unsafe { sys::mp_trtcm_committed(self.raw.as_ptr(), at) };
        // SAFETY: as above.
        let peak = unsafe { sys::mp_trtcm_peak(self.raw.as_ptr(), at) };
        Ok([committed.into(), peak.into()])
    }
}
