//! This process: its core, its heap, its interrupts.

use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Error;

/// How the C library is told to ask for transparent huge pages (glibc 2.35 and later; others ignore it).
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Starts this program again with huge pages for its heap: the C library reads that only at the start. Returns where it already has
/// them, or somebody has set tunables of their own, or the program cannot be found.
pub fn with_huge_heap() {
    let (name, value) = TUNABLES;
    if std::env::var_os(name).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        // Comes back only when it fails, and then the report shows that there are no huge pages.
        let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).env(name, value).exec();
    }
}

/// The first Ctrl-C, SIGTERM or SIGHUP asks for an end, so that what is under way is tidied up; the second one makes it.
pub fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // 128 + SIGINT, as shells say it.
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::System { what: "Ctrl-C".into(), source: std::io::Error::other(error) })?;
    Ok(stop)
}

/// The cores this process may use: those of the first thread that asked, before anything was bound to one.
fn allowed() -> Result<Vec<usize>, Error> {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    if let Some(cores) = ALLOWED.get() {
        return Ok(cores.clone());
    }
    let cores = marchproxy_cpu::current_affinity()
        .map_err(|source| Error::System { what: "which cores are allowed".into(), source })?;
    Ok(ALLOWED.get_or_init(|| cores).clone())
}

/// The cores this process may use, without `core` where others are left: for threads beside the measured one.
pub fn cores_but(core: Option<usize>) -> Result<Vec<usize>, Error> {
    let allowed = allowed()?;
    let taken = core.or(allowed.last().copied());
    let others: Vec<usize> = allowed.iter().copied().filter(|&core| Some(core) != taken).collect();
    Ok(if others.is_empty() { allowed } else { others })
}

/// The cores of `workers` workers: those asked for, or the last ones allowed. More workers than cores are refused: two on one core would
/// take turns, and what they cost would be the scheduler's.
pub fn cores(asked: &[usize], workers: usize) -> Result<Vec<usize>, Error> {
    let allowed = allowed()?;
    let refused = |option, found: String, allowed| Error::Option { option, found, allowed };
    if workers > allowed.len() {
        let allowed = format!("at most {}, one on each core allowed here ({allowed:?})", allowed.len());
        return Err(refused("workers", workers.to_string(), allowed));
    }
    if asked.is_empty() {
        return Ok(allowed[allowed.len() - workers..].to_vec());
    }
    let distinct: std::collections::BTreeSet<_> = asked.iter().collect();
    if asked.len() != workers || distinct.len() != workers {
        let allowed = format!("as many different cores as --workers ({workers})");
        return Err(refused("core", format!("{asked:?}"), allowed));
    }
    if let Some(core) = asked.iter().find(|core| !allowed.contains(core)) {
        return Err(refused("core", core.to_string(), format!("cores allowed here: {allowed:?}")));
    }
    Ok(asked.to_vec())
}

/// Binds the calling thread to a core, the last one allowed unless another is asked for; returns which.
pub fn pin(core: Option<usize>) -> Result<usize, Error> {
    let system = |what: String| move |source| Error::System { what, source };
    let allowed = allowed()?;
    let core = core.or(allowed.last().copied()).unwrap_or(0);
    marchproxy_cpu::pin_current_thread(core).map_err(system(format!("--core {core} (allowed here: {allowed:?})")))?;
    Ok(core)
}

/// Keeps the calling thread, and those it will start, off the core that a measured thread is going to have: the last one allowed
/// unless another is asked for. Returns which. Where there is only one, they share it.
pub fn leave_core(core: Option<usize>) -> Result<usize, Error> {
    let system = |what: String| move |source| Error::System { what, source };
    let allowed = marchproxy_cpu::current_affinity().map_err(system("which cores are allowed".into()))?;
    let core = core.or(allowed.last().copied()).unwrap_or(0);
    let others: Vec<usize> = allowed.iter().copied().filter(|&other| other != core).collect();
    if !others.is_empty() && others.len() < allowed.len() {
        marchproxy_cpu::set_current_affinity(&others).map_err(system(format!("leaving core {core}")))?;
    }
    Ok(core)
}
