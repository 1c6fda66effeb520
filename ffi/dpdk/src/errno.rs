//! DPDK's error numbers as an enum: the last place where they are integers.

use std::ffi::CStr;
use std::fmt;

use marchproxy_dpdk_sys as sys;

/// Why DPDK refused. The names are ours, the numbers Linux's (x86-64 and aarch64 agree on these).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// EPERM or EACCES.
    Permission,
    /// ENOENT.
    NotFound,
    /// EIO.
    Io,
    /// EAGAIN.
    TryAgain,
    /// ENOMEM.
    NoMemory,
    /// EBUSY.
    Busy,
    /// EEXIST.
    Exists,
    /// ENODEV.
    NoDevice,
    /// EINVAL.
    Invalid,
    /// ENOSPC.
    NoSpace,
    /// ERANGE.
    Range,
    /// ENAMETOOLONG.
    NameTooLong,
    /// ENOTSUP or ENOSYS.
    NotSupported,
    /// EALREADY.
    Already,
    /// Another number; 0 where DPDK failed without one.
    Other(i32),
}

const NUMBERS: [(i32, Errno); 16] = [
    (1, Errno::Permission),
    (13, Errno::Permission),
    (2, Errno::NotFound),
    (5, Errno::Io),
    (11, Errno::TryAgain),
    (12, Errno::NoMemory),
    (16, Errno::Busy),
    (17, Errno::Exists),
    (19, Errno::NoDevice),
    (22, Errno::Invalid),
    (28, Errno::NoSpace),
    (34, Errno::Range),
    (36, Errno::NameTooLong),
    (95, Errno::NotSupported),
    (38, Errno::NotSupported),
    (114, Errno::Already),
];

impl Errno {
    /// From an error number of either sign, as DPDK returns them.
    pub(crate) fn from_raw(number: i32) -> Self {
        let number = number.saturating_abs();
        NUMBERS.iter().find(|(known, _)| *known == number).map_or(Self::Other(number), |(_, errno)| *errno)
    }

    /// The calling thread's `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer of libdpdk; needs no EAL.
        Self::from_raw(unsafe { sys::mp_errno() })
    }

    /// A call that answers 0 or a negative error number.
    pub(crate) fn check(result: i32) -> Result<(), Self> {
        if result == 0 { Ok(()) } else { Err(Self::from_raw(result)) }
    }

    fn raw(self) -> i32 {
        match self {
            Self::Other(number) => number,
            known => NUMBERS.iter().find(|(_, errno)| *errno == known).map_or(0, |(number, _)| *number),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.raw() == 0 {
            return f.write_str("no reason given");
        }
        // SAFETY: rte_strerror takes any number and returns a zero-terminated string in the calling thread's own buffer,
        // which stays until this thread's next call.
        let text = unsafe { sys::rte_strerror(self.raw()) };
        // SAFETY: `text` is not null and zero-terminated (above), and no other call on this thread comes in between.
        let text = unsafe { CStr::from_ptr(text) };
        f.write_str(&text.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_either_sign_become_names_and_text() {
        for (raw, errno, text) in [
            (-12, Errno::NoMemory, "Cannot allocate memory"),
            (16, Errno::Busy, "Device or resource busy"),
            (0, Errno::Other(0), "no reason given"),
        ] {
            assert_eq!(Errno::from_raw(raw), errno);
            assert_eq!(errno.to_string(), text);
        }
        assert_eq!(Errno::check(0), Ok(()));
        assert_eq!(Errno::check(-95), Err(Errno::NotSupported));
    }
}
