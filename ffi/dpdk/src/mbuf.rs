//! One packet. The only place where Rust touches an mbuf's fields: at the offsets that the installed headers give and the
//! shim asserts, so that reading a frame is two loads and no call.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::{ChecksumState, PacketBuf};

/// A packet in one contiguous buffer, exclusively owned; dropping it gives the buffer back to its pool.
///
/// Pointer-sized, and `Option<Mbuf>` too: bursts are arrays of pointers on both sides of the border.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());

// SAFETY: an mbuf belongs to no thread: pools and drivers take it back from any.
unsafe impl Send for Mbuf {}
// SAFETY: through `&Mbuf` fields and frame are only read.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    /// `raw` is a valid mbuf of one segment (`data_off + data_len <= buf_len`, `pkt_len == data_len`, buffer initialised and
    /// writable), its reference count is 1, and nobody else uses it from now on. Its pool outlives it.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// The address of a field.
    #[inline]
    fn field<T>(&self, offset: usize) -> *mut T {
        self.0.as_ptr().wrapping_byte_add(offset).cast()
    }

    #[inline]
    fn data_off(&self) -> u16 {
        // SAFETY: a valid mbuf that we own has a u16 at this offset (width and offset asserted in shim.c).
        unsafe { self.field::<u16>(sys::MP_MBUF_DATA_OFF as usize).read() }
    }

    #[inline]
    fn data_len(&self) -> u16 {
        // SAFETY: as for data_off.
        unsafe { self.field::<u16>(sys::MP_MBUF_DATA_LEN as usize).read() }
    }

    #[inline]
    fn buf_len(&self) -> u16 {
        // SAFETY: as for data_off.
        unsafe { self.field::<u16>(sys::MP_MBUF_BUF_LEN as usize).read() }
    }

    #[inline]
    fn flags(&self) -> u64 {
        // SAFETY: as for data_off, a u64.
        unsafe { self.field::<u64>(sys::MP_MBUF_OL_FLAGS as usize).read() }
    }

    /// The first byte of the frame.
    #[inline]
    fn frame(&self) -> *mut u8 {
        // SAFETY: as for data_off, a pointer.
        let buffer = unsafe { self.field::<*mut u8>(sys::MP_MBUF_BUF_ADDR as usize).read() };
        buffer.wrapping_add(self.data_off() as usize)
    }

    #[inline]
    fn set_data_off(&mut self, offset: u16) {
        // SAFETY: as for data_off; exclusively borrowed.
        unsafe { self.field::<u16>(sys::MP_MBUF_DATA_OFF as usize).write(offset) };
    }

    /// Sets both lengths: of the segment and of the packet, which is the segment.
    #[inline]
    fn set_len(&mut self, len: u16) {
        // SAFETY: as for data_off; exclusively borrowed.
        unsafe { self.field::<u16>(sys::MP_MBUF_DATA_LEN as usize).write(len) };
        // SAFETY: as for data_off, a u32; exclusively borrowed.
        unsafe { self.field::<u32>(sys::MP_MBUF_PKT_LEN as usize).write(u32::from(len)) };
    }
}

impl PacketBuf for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: the frame lies in the buffer (offset and length are only changed within it, below), the buffer belongs to the
        // mbuf, which we own, and was initialised when the kernel mapped it; writing needs `&mut self`.
        unsafe { slice::from_raw_parts(self.frame(), self.data_len() as usize) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in data; self is exclusively borrowed and the reference count is 1.
        unsafe { slice::from_raw_parts_mut(self.frame(), self.data_len() as usize) }
    }

    #[inline]
    fn octets(&self) -> usize {
        self.data_len() as usize
    }

    #[inline]
    fn headroom(&self) -> usize {
        self.data_off() as usize
    }

    #[inline]
    fn tailroom(&self) -> usize {
        self.buf_len() as usize - self.data_off() as usize - self.data_len() as usize
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> bool {
        if n > self.headroom() {
            return false;
        }
        self.set_data_off(self.data_off() - n as u16);
        self.set_len(self.data_len() + n as u16);
        true
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        let n = n.min(self.data_len() as usize) as u16;
        self.set_data_off(self.data_off() + n);
        self.set_len(self.data_len() - n);
    }

    #[inline]
    fn resize(&mut self, len: usize) -> bool {
        if len > self.buf_len() as usize - self.data_off() as usize {
            return false;
        }
        self.set_len(len as u16);
        true
    }

    #[inline]
    fn checksum(&self) -> ChecksumState {
        match self.flags() & sys::MP_RX_L4_MASK {
            sys::MP_RX_L4_GOOD => ChecksumState::Verified,
            // "The checksum is not in the data, but the data is intact": a virtual peer left it to us.
            sys::MP_RX_L4_NONE => ChecksumState::Partial,
            // Not looked at, or found bad: whoever needs to know looks again.
            _ => ChecksumState::Unknown,
        }
    }

    #[inline]
    fn prefetch(&self) {
        // Not through data(): an empty frame has a line too, and its length need not be loaded for this.
        // SAFETY: the frame's first byte or, for an empty frame at the buffer's end, one past it: only its address is used.
        marchproxy_cpu::prefetch(unsafe { &*self.frame().cast::<[u8; 0]>() });
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the mbuf and it is not used again; its pool is alive: pools wait for their packets.
        unsafe { sys::mp_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.data_len())
            .field("headroom", &self.data_off())
            .finish_non_exhaustive()
    }
}
