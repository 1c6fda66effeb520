//! DPDK's environment: hugepages, devices, lcores. Once per process.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use marchproxy_cpu::{current_affinity, set_current_affinity};
use marchproxy_dpdk_sys as sys;

use crate::SocketId;
use crate::errno::Errno;
use crate::log::{self, Listener, LogLevel, Mark};
use crate::mempool::Orphan;

/// Set from the first call of rte_eal_init on. DPDK neither comes up twice in one process nor forgets the arguments of an
/// attempt that failed.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The running environment. Everything made through it keeps it alive; with the last of them DPDK is cleaned up.
#[derive(Debug)]
pub struct Eal {
    process: Arc<Process>,
    pci: bool,
}

/// How DPDK is to start. Made by [`Eal::builder`].
#[derive(Clone, Debug)]
pub struct EalBuilder {
    file_prefix: String,
    huge_pages: bool,
    in_memory: bool,
    pci: bool,
    memory_mb: Option<u32>,
    socket_memory_mb: Vec<u32>,
    cores: Option<Vec<usize>>,
    log_level: LogLevel,
    listener: Listener,
    more: Vec<String>,
}

/// Why DPDK did not start. `said` quotes its log.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// This process has, had, or tried to have an EAL.
    #[error("DPDK was started in this process before, or failed to; it takes one attempt per process")]
    AlreadyStarted,
    /// An argument is unknown or does not fit the host.
    #[error("DPDK refused its arguments `{arguments}`: {said}")]
    Arguments {
        /// All arguments, as one line.
        arguments: String,
        /// DPDK's log.
        said: String,
    },
    /// Too little memory, mostly too few hugepages.
    #[error(
        "DPDK got no memory (asked for {asked}; the host has {found}): {said}. Reserve hugepages with \
         scripts/hugepages/reserve, or start without them (slower)"
    )]
    Memory {
        /// What was asked for.
        asked: String,
        /// Hugepages that the host has.
        found: String,
        /// DPDK's log.
        said: String,
    },
    /// The process lacks a right.
    #[error("DPDK lacks rights: {said}. Run as root or give the user /dev/hugepages, /dev/vfio and CAP_IPC_LOCK")]
    Permission {
        /// DPDK's log.
        said: String,
    },
    /// Another process runs with the same file prefix.
    #[error("another DPDK process uses the file prefix {prefix:?}: stop it or choose another prefix ({said})")]
    PrefixInUse {
        /// The prefix.
        prefix: String,
        /// DPDK's log.
        said: String,
    },
    /// The calling thread's cores can't be read or set, or the log not be caught.
    #[error("preparing DPDK's start: {step}: {source}")]
    Prepare {
        /// What failed.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Any other reason.
    #[error("DPDK did not start: {errno}: {said}")]
    Other {
        /// DPDK's error number.
        errno: Errno,
        /// DPDK's log.
        said: String,
    },
    /// The thread has a number: it was registered before, or it started DPDK.
    #[error("DPDK knows this thread already, as lcore {lcore}")]
    ThreadKnown {
        /// The number it has.
        lcore: u32,
    },
    /// All lcore numbers are taken.
    #[error("no lcore number left for this thread: DPDK was built for {limit} ({errno})")]
    NoLcore {
        /// Lcores DPDK was built for.
        limit: u32,
        /// DPDK's error number.
        errno: Errno,
    },
}

impl Eal {
    /// Hugepages, no files left behind, no PCI device touched until it is probed, log at warning to stderr.
    pub fn builder() -> EalBuilder {
        EalBuilder {
            file_prefix: "marchproxy".into(),
            huge_pages: true,
            in_memory: true,
            pci: true,
            memory_mb: None,
            socket_memory_mb: Vec::new(),
            cores: None,
            log_level: LogLevel::Warning,
            listener: log::to_stderr,
            more: Vec::new(),
        }
    }

    /// Gives the calling thread an lcore number, and with it a cache in every mempool: without one each packet allocated or
    /// freed goes through the pool's shared ring. Pin the thread first: DPDK notes its socket now.
    pub fn register_thread(&self) -> Result<RegisteredThread, EalError> {
        // SAFETY: reads a thread-local integer of libdpdk.
        let lcore = unsafe { sys::mp_lcore_id() };
        if lcore != u32::MAX {
            return Err(EalError::ThreadKnown { lcore });
        }
        // SAFETY: EAL runs (self holds the process) and does not know this thread (above).
        let result = unsafe { sys::rte_thread_register() };
        if result != 0 {
            return Err(EalError::NoLcore { limit: sys::MP_MAX_LCORE as u32, errno: Errno::last() });
        }
        Ok(RegisteredThread { _process: self.process.clone(), _not_send: PhantomData })
    }

    /// The CPU sockets that DPDK found.
    pub fn sockets(&self) -> Vec<SocketId> {
        sockets(&self.process)
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(crate) fn has_pci(&self) -> bool {
        self.pci
    }
}

/// The version of the libdpdk that is loaded.
pub fn dpdk_version() -> String {
    // SAFETY: returns a zero-terminated string that lives as long as the program; needs no EAL.
    let version = unsafe { sys::rte_version() };
    // SAFETY: as above: not null, zero-terminated, never freed.
    unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
}

/// A thread that DPDK knows; on drop it forgets it. Stays on its thread.
#[derive(Debug)]
pub struct RegisteredThread {
    _process: Arc<Process>,
    /// Unregistering works on the calling thread, so the guard must not leave it.
    _not_send: PhantomData<*const ()>,
}

impl RegisteredThread {
    /// The number DPDK gave the thread.
    pub fn lcore(&self) -> u32 {
        // SAFETY: reads a thread-local integer of libdpdk.
        unsafe { sys::mp_lcore_id() }
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this thread was registered by the call that made self (self never leaves its thread), and EAL still runs:
        // self holds the process. Packets cached for the lcore stay in the pools and are counted there.
        unsafe { sys::rte_thread_unregister() };
    }
}

impl EalBuilder {
    /// What DPDK's files are called, `marchproxy` by default. Two processes need two unless both are
    /// [`in_memory`](Self::in_memory).
    #[must_use]
    pub fn file_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.file_prefix);
        self
    }

    /// Normal pages instead of hugepages: about half as fast, for tests and hosts without any.
    #[must_use]
    pub fn no_huge(mut self) -> Self {
        self.huge_pages = false;
        self
    }

    /// Whether to work without any file (default). Files are only needed for secondary processes.
    #[must_use]
    pub fn in_memory(mut self, yes: bool) -> Self {
        self.in_memory = yes;
        self
    }

    /// Don't look at the PCI bus at all; `pci:` devices can then not be probed.
    #[must_use]
    pub fn no_pci(mut self) -> Self {
        self.pci = false;
        self
    }

    /// Megabytes to take at once. Default: as pools are made.
    #[must_use]
    pub fn memory_mb(mut self, megabytes: u32) -> Self {
        self.memory_mb = Some(megabytes);
        self
    }

    /// Megabytes to take at once per socket, in the order of sockets; instead of [`memory_mb`](Self::memory_mb).
    #[must_use]
    pub fn socket_memory_mb(mut self, megabytes: &[u32]) -> Self {
        megabytes.clone_into(&mut self.socket_memory_mb);
        self
    }

    /// The cores on which DPDK's own threads (interrupts) may run: those without workers. Default: the calling thread's. The
    /// calling thread itself is left where it was.
    #[must_use]
    pub fn housekeeping_cores(mut self, cores: &[usize]) -> Self {
        self.cores = Some(cores.to_vec());
        self
    }

    /// Lines from this level up reach the listener. Errors quote the log whatever the level.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.log_level = level;
        self
    }

    /// Who gets the lines instead of stderr. It may be called on any thread, and must not block, panic or
    /// call DPDK.
    #[must_use]
    pub fn on_log(mut self, listener: fn(LogLevel, &str)) -> Self {
        self.listener = listener;
        self
    }

    /// One more EAL argument, as `dpdk-testpmd` takes it.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.more.push(argument.to_owned());
        self
    }

    /// Starts DPDK.
    ///
    /// # Errors
    /// [`EalError`]. Except after [`EalError::Prepare`], this process can't try again: exit, or go on without DPDK.
    pub fn start(self) -> Result<Eal, EalError> {
        let prepare = |step| move |source| EalError::Prepare { step, source };
        let before = current_affinity().map_err(prepare("reading the thread's cores"))?;
        let cores = self.cores.clone().unwrap_or_else(|| before.clone());
        let arguments = self.arguments(&cores);
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyStarted);
        }
        let prepared = log::capture(self.log_level, self.listener)
            .map_err(prepare("catching the log"))
            .and_then(|()| set_current_affinity(&cores).map_err(prepare("moving to the housekeeping cores")));
        if let Err(error) = prepared {
            // DPDK has not heard of it yet.
            STARTED.store(false, Ordering::Release);
            return Err(error);
        }
        let result = self.init(&arguments);
        let restored = set_current_affinity(&before);
        result?;
        let eal = Eal { process: Arc::new(Process::default()), pci: self.pci };
        restored.map_err(prepare("moving back to the thread's cores"))?;
        Ok(eal)
    }

    fn arguments(&self, cores: &[usize]) -> Vec<String> {
        // Lcores are for threads of DPDK's making; ours register. So there is one, and it floats. DPDK can't name cores from
        // its lcore limit on; with none below, core 0 satisfies it and the thread is moved back afterwards anyway.
        let limit = sys::MP_MAX_LCORE as usize;
        let mut known: Vec<String> = cores.iter().filter(|core| **core < limit).map(ToString::to_string).collect();
        if known.is_empty() {
            known.push("0".into());
        }
        let mut arguments = vec!["marchproxy".into(), format!("--lcores=0@({})", known.join(","))];
        // The node's own metrics and socket take the place of DPDK's telemetry thread.
        arguments.push("--no-telemetry".into());
        arguments.push(format!("--file-prefix={}", self.file_prefix));
        arguments.push(match self.log_level {
            LogLevel::Debug => "--log-level=*:debug".into(),
            // Never less than info: errors quote it.
            _ => "--log-level=info".into(),
        });
        if !self.huge_pages {
            arguments.push("--no-huge".into());
        }
        if self.in_memory {
            // With --no-huge DPDK refuses --in-memory ("legacy-mem"); what is left of it then is this.
            arguments.push(if self.huge_pages { "--in-memory" } else { "--no-shconf" }.into());
        }
        if self.pci {
            // An allow-list with the host bridge in it, which no driver takes: the bus is scanned and nothing grabbed.
            arguments.push("--allow=0000:00:00.0".into());
        } else {
            arguments.push("--no-pci".into());
        }
        if !self.socket_memory_mb.is_empty() {
            let list: Vec<String> = self.socket_memory_mb.iter().map(ToString::to_string).collect();
            arguments.push(format!("--socket-mem={}", list.join(",")));
        } else if let Some(megabytes) = self.memory_mb {
            arguments.push(format!("-m{megabytes}"));
        }
        arguments.extend(self.more.iter().cloned());
        arguments
    }

    fn init(&self, arguments: &[String]) -> Result<(), EalError> {
        let refused = |said| EalError::Arguments { arguments: arguments[1..].join(" "), said };
        let strings: Vec<CString> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|error| refused(format!("zero byte in an argument ({error})")))?;
        // DPDK keeps pointers into its arguments, so they are given away: some hundred bytes, once per process.
        let mut argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        let mark = Mark::now();
        // SAFETY: `argv` holds `len - 1` zero-terminated writable strings and a null, all alive for ever; STARTED makes this
        // the only thread that starts EAL.
        let result = unsafe { sys::rte_eal_init(argv.len() as c_int - 1, argv.as_mut_ptr()) };
        if result >= 0 { Ok(()) } else { Err(self.explain(Errno::last(), mark.since(), refused)) }
    }

    /// DPDK's reason is in its log: its error number is ENOEXEC, EINVAL or what the last system call left.
    fn explain(&self, errno: Errno, said: String, refused: impl FnOnce(String) -> EalError) -> EalError {
        let has = |text: &str| said.contains(text);
        if has("Invalid 'command line' arguments") {
            return refused(said);
        }
        if has("Is another primary process running") {
            return EalError::PrefixInUse { prefix: self.file_prefix.clone(), said };
        }
        if has("Not enough memory available") || has("Cannot get hugepage information") || has("Cannot init memory") {
            let asked = match (&self.socket_memory_mb[..], self.memory_mb) {
                ([], None) => "what pools will need".into(),
                ([], Some(megabytes)) => format!("{megabytes} MB"),
                (sockets, _) => format!("{sockets:?} MB per socket"),
            };
            return EalError::Memory { asked, found: huge_pages_found(), said };
        }
        if errno == Errno::Already {
            return EalError::AlreadyStarted;
        }
        if errno == Errno::Permission || has("Permission denied") || has("Operation not permitted") {
            return EalError::Permission { said };
        }
        EalError::Other { errno, said }
    }
}

/// The host's hugepages, for messages.
pub(crate) fn huge_pages_found() -> String {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut sizes: Vec<String> = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let (total, free) = (read(entry.path().join("nr_hugepages"))?, read(entry.path().join("free_hugepages"))?);
            let size = entry.file_name().to_string_lossy().replace("hugepages-", "");
            Some(format!("{free} of {total} hugepages of {size} free"))
        })
        .collect();
    sizes.sort();
    if sizes.is_empty() { "no hugepages".into() } else { sizes.join(", ") }
}

/// What lives as long as EAL: held by everything that was made through it.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Pools that were dropped while packets of theirs were out.
    orphans: Mutex<Vec<Orphan>>,
    /// Devices that have an owner. Locked while one comes or goes: DPDK's buses are not made for more at a time.
    pub(crate) attached: Mutex<BTreeSet<String>>,
}

impl Process {
    pub(crate) fn adopt(&self, orphan: Orphan) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(orphan);
    }
}

/// The sockets that the running EAL found.
pub(crate) fn sockets(_running: &Process) -> Vec<SocketId> {
    // SAFETY: EAL runs while a Process is reachable; reads its configuration.
    let count = unsafe { sys::rte_socket_count() };
    let socket = |index| {
        // SAFETY: as above; an index out of range is answered with -1.
        u32::try_from(unsafe { sys::rte_socket_id_by_idx(index) }).ok().map(SocketId)
    };
    (0..count).filter_map(socket).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        let orphans = self.orphans.get_mut().unwrap_or_else(PoisonError::into_inner);
        orphans.retain(|orphan| !orphan.free_if_complete());
        if let Some(orphan) = orphans.first() {
            // A packet that is dropped later must still find its pool: DPDK's memory stays until the process ends.
            log::tell(LogLevel::Warning, &format!("DPDK is not cleaned up: {orphan}"));
            return;
        }
        // SAFETY: EAL was started once and everything made through it is gone: ports, devices, pools (the last of them held
        // this Process), registered threads and, as no pool is short of a packet, packets.
        let result = unsafe { sys::rte_eal_cleanup() };
        if result != 0 {
            log::tell(LogLevel::Warning, &format!("DPDK's clean-up failed: {}", Errno::from_raw(result)));
        }
    }
}
