//! Which cores the calling thread may run on.

use std::io;
use std::mem::{size_of, zeroed};

/// Binds the calling thread to one core. Fails when the core is offline or outside this process's cpuset.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    set_current_affinity(&[core])
}

/// Lets the calling thread run on `cores` and nowhere else. The kernel ignores cores that do not exist, unless none is left.
pub fn set_current_affinity(cores: &[usize]) -> io::Result<()> {
    // SAFETY: cpu_set_t is an array of integers, for which all zeroes is a valid value (the empty set).
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    for &core in cores {
        if core >= libc::CPU_SETSIZE as usize {
            let limit = libc::CPU_SETSIZE;
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("core {core}: the limit is {limit}")));
        }
        // SAFETY: `core` is below CPU_SETSIZE (checked above), so the bit lies inside `set`.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: thread 0 is the caller; `set` is a valid cpu_set_t of exactly the size passed, only read.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cores the calling thread may run on, ascending.
pub fn current_affinity() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is an array of integers, for which all zeroes is a valid value (the empty set).
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: thread 0 is the caller; `set` is a valid cpu_set_t of exactly the size passed, exclusively borrowed for writing.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let in_set = |core: &usize| {
        // SAFETY: `core` comes from the range below CPU_SETSIZE, so the bit lies inside `set`.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(in_set).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_is_on_its_core_and_can_be_let_go() {
        std::thread::spawn(|| {
            let before = current_affinity().unwrap();
            let last = *before.last().unwrap();
            pin_current_thread(last).unwrap();
            assert_eq!(current_affinity().unwrap(), [last]);
            set_current_affinity(&before).unwrap();
            assert_eq!(current_affinity().unwrap(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cores_that_do_not_exist_are_refused() {
        assert_eq!(pin_current_thread(1_000_000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(set_current_affinity(&[]).is_err());
    }
}
