//! DPDK's log, caught line by line. Its functions return little more than -1; the reason is in the log, so errors quote it.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int};
use std::io;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use marchproxy_dpdk_sys as sys;

/// How urgent a line is, in DPDK's (syslog's) order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Alert and emergency too.
    Critical,
    /// A function failed.
    Error,
    /// Something works worse than it could.
    Warning,
    /// Unusual but fine.
    Notice,
    /// What happens at start.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn from_raw(level: c_int) -> Self {
        match level {
            ..=3 => Self::Critical,
            4 => Self::Error,
            5 => Self::Warning,
            6 => Self::Notice,
            7 => Self::Info,
            8.. => Self::Debug,
        }
    }
}

/// Who is told of a line at or above the chosen urgency. Called on whatever thread logs, with no lock of ours held.
pub(crate) type Listener = fn(LogLevel, &str);

/// Lines kept for error messages: a failing start logs about 20.
const KEPT: usize = 64;

struct Log {
    /// Lines since the process started; the newest has the number `count - 1`.
    count: u64,
    lines: VecDeque<String>,
    /// A line whose end has not come yet.
    partial: String,
    threshold: LogLevel,
    listener: Listener,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    count: 0,
    lines: VecDeque::new(),
    partial: String::new(),
    threshold: LogLevel::Warning,
    listener: to_stderr,
});

/// From now on lines of DPDK come here; those at `threshold` or more urgent go on to `listener`.
pub(crate) fn capture(threshold: LogLevel, listener: Listener) -> io::Result<()> {
    {
        let mut log = lock();
        (log.threshold, log.listener) = (threshold, listener);
    }
    // SAFETY: `sink` lives as long as the program and may be called from any thread at any time; the call itself only opens a
    // stream and stores it, and needs no EAL. EalBuilder::start holds the process-wide start flag, so calls don't race.
    match unsafe { sys::mp_log_to(Some(sink)) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

pub(crate) fn to_stderr(_: LogLevel, line: &str) {
    eprintln!("{line}");
}

/// A line of our own that has no caller to return to.
pub(crate) fn tell(level: LogLevel, line: &str) {
    let listener = {
        let log = lock();
        (level <= log.threshold).then_some(log.listener)
    };
    if let Some(listener) = listener {
        listener(level, line);
    }
}

/// A point in the log; what came later is [`since`](Mark::since) it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) fn now() -> Self {
        Self(lock().count)
    }

    /// The lines since the mark, in one string fit for an error message.
    pub(crate) fn since(self) -> String {
        let log = lock();
        let new = usize::try_from(log.count - self.0).unwrap_or(KEPT).min(log.lines.len());
        let lines: Vec<&str> = log.lines.range(log.lines.len() - new..).map(String::as_str).collect();
        if lines.is_empty() { "nothing logged".into() } else { lines.join("; ") }
    }
}

/// # Safety
/// Called by DPDK's log alone: `text` points to `len` bytes that live for the call.
unsafe extern "C" fn sink(text: *const c_char, len: usize) {
    // SAFETY: the shim passes the buffer that stdio is writing: `len` readable bytes that do not change during the call.
    let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), len) };
    // SAFETY: reads a per-lcore (or, off lcores, per-process) integer of libdpdk; needs no EAL.
    let level = LogLevel::from_raw(unsafe { sys::rte_log_cur_msg_loglevel() });
    let text = String::from_utf8_lossy(bytes);
    for piece in text.split_inclusive('\n') {
        if let Some((line, listener)) = lock().take(piece, level)
            && let Some(listener) = listener
        {
            listener(level, &line);
        }
    }
}

impl Log {
    /// Appends a piece; a finished line comes back, with the listener if it wants it.
    fn take(&mut self, piece: &str, level: LogLevel) -> Option<(String, Option<Listener>)> {
        self.partial.push_str(piece);
        if !piece.ends_with('\n') {
            return None;
        }
        let line = std::mem::take(&mut self.partial).trim_end().to_owned();
        if line.is_empty() {
            return None;
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        self.count += 1;
        Some((line, (level <= self.threshold).then_some(self.listener)))
    }
}

/// A panic of a listener must not silence the log for good.
fn lock() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}
