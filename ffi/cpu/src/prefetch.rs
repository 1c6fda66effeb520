//! Cache prefetch hints.

// A prefetch that is called instead of inlined costs more than the few cycles it may hide, in unoptimised builds too.
#![allow(clippy::inline_always)]

/// Starts loading the cache line that holds the first byte of `value` into all cache levels. A hint: never faults.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Starts loading the cache line of `slice[index]`; does nothing when `index` is out of bounds.
#[inline(always)]
pub fn prefetch_slice<T>(slice: &[T], index: usize) {
    if let Some(value) = slice.get(index) {
        line(std::ptr::from_ref(value).cast());
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(address: *const i8) {
    // SAFETY: PREFETCHT0 is a hint that never faults, whatever the address; SSE is part of the x86_64 baseline.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn line(address: *const i8) {
    // SAFETY: PRFM is a hint that never faults, whatever the address; it changes neither memory nor flags.
    unsafe { std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly)) }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn line(_address: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_bounds_is_ignored() {
        let lines = [0u64; 4];
        prefetch_slice(&lines, 3);
        prefetch_slice(&lines, usize::MAX);
        prefetch(&lines);
        prefetch::<[u8]>(&[]);
    }
}
