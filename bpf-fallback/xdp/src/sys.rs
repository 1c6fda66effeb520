//! The few calls that libbpf-rs has no options for, each with its own small wrapper.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use libbpf_rs::libbpf_sys;

/// Attaches a program to an interface; it is detached when the last descriptor of the link is closed.
pub fn link_xdp(program: BorrowedFd, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        flags,
        ..Default::default()
    };
    // SAFETY: the descriptor is open while borrowed; the options say their size and live through the call.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex as i32, libbpf_sys::BPF_XDP, &raw mut options)
    };
    owned(fd)
}

/// Puts another program in the place of a link's, in one step.
pub fn update_link(link: BorrowedFd, program: BorrowedFd) -> io::Result<()> {
    // SAFETY: both descriptors are open while borrowed; no options are allowed.
    let result = unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    done(result)
}

/// Keeps a link in a BPF file system.
pub fn pin(link: BorrowedFd, at: &Path) -> io::Result<()> {
    let path = c_path(at)?;
    // SAFETY: the descriptor is open while borrowed, the path ends with a zero and lives through the call.
    done(unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) })
}

/// Opens what is kept in a BPF file system.
pub fn open_pinned(at: &Path) -> io::Result<OwnedFd> {
    let path = c_path(at)?;
    // SAFETY: the path ends with a zero and lives through the call.
    owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) })
}

/// Takes a link's program off its interface now; a pin that was removed lets go of it only later.
pub fn detach(link: BorrowedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open while borrowed.
    done(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) })
}

/// Whether an interface has this number in this network namespace.
pub fn has_interface(ifindex: u32) -> bool {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the call wants it.
    !unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null()
}

/// The interface that a link is attached to; 0 when that is gone.
pub fn link_ifindex(link: BorrowedFd) -> io::Result<u32> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: the descriptor is open while borrowed; info is as long as said and may hold any bytes.
    let result = unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len) };
    done(result)?;
    if info.type_ != libbpf_sys::BPF_LINK_TYPE_XDP {
        return Err(io::Error::other("not a link of XDP"));
    }
    // SAFETY: the kernel fills this member for links of the type just asked.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}

/// Name of a loaded program.
pub fn program_name(id: u32) -> io::Result<String> {
    // SAFETY: takes a number.
    let fd = owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: the descriptor is open; info is as long as said, and its zeroed lengths ask for no arrays.
    done(unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut len) })?;
    Ok(info.name.iter().map(|&c| c as u8).take_while(|&c| c != 0).map(char::from).collect())
}

/// What a test run of a program came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// `XDP_DROP` (1), `XDP_PASS` (2), `XDP_TX` (3), `XDP_REDIRECT` (4); 0 is a bug.
    pub verdict: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Mean time of one run in nanoseconds.
    pub nanoseconds: u32,
}

/// Room before and behind a frame that a test run changes.
const TEST_ROOM: usize = 256;

/// Runs a program on a frame, so many times (BPF_PROG_TEST_RUN).
pub fn test_run(program: BorrowedFd, frame: &[u8], repeat: u32) -> io::Result<Tested> {
    let mut out = vec![0u8; frame.len() + TEST_ROOM];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast::<c_void>(),
        data_size_in: frame.len() as u32,
        data_out: out.as_mut_ptr().cast::<c_void>(),
        data_size_out: out.len() as u32,
        repeat: repeat as i32,
        ..Default::default()
    };
    // SAFETY: the descriptor is open while borrowed; both buffers are as long as said and live through the call.
    done(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    out.truncate(options.data_size_out as usize);
    Ok(Tested { verdict: options.retval, frame: out, nanoseconds: options.duration })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// libbpf answers with minus errno.
fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    done(fd)?;
    // SAFETY: the kernel has just given this descriptor to us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
