//! A handler of SIGBUS for pages of our mappings that cannot be read: feature `sigbus-guard`.
//!
//! A page of a mapped file that the system cannot provide (a bad sector, a file that somebody cut short) kills the
//! process that touches it. With this handler such a page becomes a page of zeros instead, the mapping is marked
//! poisoned, and whoever reads from it asks for that mark afterwards. Faults elsewhere go to whoever handled the signal
//! before.
//!
//! # Invariants
//!
//! 1. The handler takes no lock, allocates nothing, never unwinds and never jumps: it reads atomics and calls `mmap`,
//!    `sigaction` and `raise`.
//! 2. A range is registered from before its first access until after its last one, and is unregistered before it is
//!    unmapped: what the registry holds is never somebody else's memory.
//! 3. A fault is told (`faults`) before its page is replaced: whoever reads a replaced byte and asks afterwards knows.
//! 4. The handler is installed once in a process and stays.

mod registry;

use std::io;
use std::ptr::{self, NonNull};

use super::faults::Faults;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicPtr, Ordering};

use self::registry::Place;

/// So many pages are replaced one by one; then all of the mapping is. Each is a mapping of its own to the kernel, which
/// has a limit for their number, and a file that lost so many pages is lost.
const SINGLE_PAGES: u32 = 64;

/// How many pages were replaced in this process.
static FAULTS: Faults = Faults::new();

/// Who handled the signal before; null for the system's default.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// All that it has ever pointed to: a handler may be reading either, for ever, and what looks for leaks finds them here.
static KEPT: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// How many pages were replaced in this process: as long as that is the same nothing new is poisoned.
#[inline]
pub(crate) fn faults() -> u64 {
    FAULTS.count()
}

/// A mapping that the handler knows; forgotten when this is dropped.
#[derive(Debug)]
pub(crate) struct Watched(&'static Place);

impl Watched {
    /// Registers a mapping, and installs the handler if this is the first one.
    ///
    /// # Safety
    /// - `start .. start + len` is a mapping of whole pages that is only read from, and stays one until this is dropped;
    /// - whoever reads from it asks [`is_poisoned`](Self::is_poisoned) before believing what it read.
    pub(crate) unsafe fn new(start: NonNull<u8>, len: usize) -> io::Result<Self> {
        install()?;
        // SAFETY: by the contract above, and forgotten when this is dropped.
        Ok(Self(unsafe { Place::register(start.as_ptr().addr(), len) }))
    }

    /// Whether a page of the mapping was replaced by zeros.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.0.is_poisoned()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// Puts zeros in place of the page at `address`, if it is in a registered mapping; whether that was possible.
fn replace(address: usize) -> bool {
    let Some((place, (start, len))) = Place::find(address) else { return false };
    // Before the page is replaced (invariant 3).
    let replaced = place.poison(&FAULTS);
    let page = super::page_size();
    let first = address & !page.wrapping_sub(1);
    // SAFETY: this page lies in a registered mapping of whole pages, which is only read from.
    let single = replaced < SINGLE_PAGES && unsafe { map_zeros(first, page) };
    // SAFETY: as above; all of the mapping is registered.
    single || unsafe { map_zeros(start, len) }
}

/// Maps zeros over `start .. start + len`.
///
/// # Safety
/// - The range is a mapping whose owner allows that.
unsafe fn map_zeros(start: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: by the contract above nothing is lost with what was mapped there.
    unsafe { libc::mmap(start, len, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED }
}

/// Installs the handler, once (invariant 4).
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    let failure = *INSTALLED.get_or_init(|| {
        // Asks the system once, so that the handler need not.
        super::page_size();
        let mut before = no_action();
        // Known before ours can run: a fault elsewhere may come at once.
        // SAFETY: a null action only asks; the answer goes to a local.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) } != 0 {
            return io::Error::last_os_error().raw_os_error();
        }
        remember(before, &KEPT[0]);
        if !set_handler(&mut before) {
            return io::Error::last_os_error().raw_os_error();
        }
        // Somebody may have come in between.
        remember(before, &KEPT[1]);
        None
    });
    failure.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
}

/// Makes `handle` the handler, and tells which there was. What the one `before` has asked to be blocked while it runs is
/// blocked while ours does, as that calls it.
fn set_handler(before: &mut libc::sigaction) -> bool {
    let mut ours = no_action();
    ours.sa_sigaction = handle as *const () as usize;
    ours.sa_mask = before.sa_mask;
    // On the alternative stack where a thread has one, so that a small stack is no further trouble.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | before.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART);
    // SAFETY: `handle` has the signature of SA_SIGINFO and keeps to invariant 1.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut *before) == 0 }
}

/// An action that is the default, with an empty mask.
fn no_action() -> libc::sigaction {
    // SAFETY: a structure of plain numbers and an optional function, for which zeros are SIG_DFL, no flags, no mask.
    unsafe { std::mem::zeroed() }
}

/// Keeps who handled the signal before, for good.
fn remember(before: libc::sigaction, kept: &AtomicPtr<libc::sigaction>) {
    let before = Box::into_raw(Box::new(before));
    // Relaxed: nobody reads it.
    kept.store(before, Ordering::Relaxed);
    // A static that nobody reads need not be there.
    std::hint::black_box(kept);
    // Release pairs with the Acquire in `chain`.
    BEFORE.store(before, Ordering::Release);
}

/// The handler itself (invariant 1).
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of this thread's errno, always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    // SAFETY: the kernel hands a valid structure to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if !is_access(code) || !replace_page(info) {
        chain(signal, info, context, code);
    }
    // SAFETY: as above; the code that was interrupted must not see what our calls left there.
    unsafe { *errno = kept };
}

/// Whether the signal says that this thread has just touched a page that is not there.
fn is_access(code: libc::c_int) -> bool {
    matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR)
}

fn replace_page(info: *mut libc::siginfo_t) -> bool {
    // SAFETY: the kernel hands a valid structure to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: for these codes the kernel says which address was touched.
    let address = unsafe { info.si_addr() }.addr();
    replace(address)
}

/// Hands the signal to whoever had it before.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void, code: libc::c_int) {
    // Acquire pairs with the Release in `remember`.
    let before = BEFORE.load(Ordering::Acquire);
    // SAFETY: null, or kept for good by `remember` and never changed.
    let before = unsafe { before.as_ref() };
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    // Sent by somebody, or by a fault of the processor: the former may be ignored.
    let was_sent = code <= 0;
    match (handler, before) {
        (libc::SIG_IGN, _) if was_sent => {}
        (libc::SIG_DFL | libc::SIG_IGN, _) | (_, None) => give_up(signal, was_sent),
        (handler, Some(before)) => {
            if before.sa_flags & libc::SA_RESETHAND != 0 {
                // It wanted to be called once. Release pairs with the Acquire above.
                BEFORE.store(ptr::null_mut(), Ordering::Release);
            }
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: it was installed with SA_SIGINFO, so this is its signature.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: it was installed without SA_SIGINFO, so this is its signature.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
            if was_sent {
                stay_installed();
            }
        }
    }
}

/// A handler that was called and goes on may have put the default in place of itself, as that of Rust does: then ours
/// is gone as well. The next signal from elsewhere shall find the default, and a page of ours its handler.
fn stay_installed() {
    let mut now = no_action();
    // SAFETY: a null action only asks; the answer goes to a local.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut now) };
    if asked == 0 && now.sa_sigaction == libc::SIG_DFL {
        // Release pairs with the Acquire in `chain`.
        BEFORE.store(ptr::null_mut(), Ordering::Release);
        set_handler(&mut now);
    }
}

/// Lets the system's default happen, at the place of the fault: returning repeats the access.
fn give_up(signal: libc::c_int, was_sent: bool) {
    let default = no_action();
    // SAFETY: the default action, for a signal that exists.
    unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
    if was_sent {
        // Nothing would repeat it. It is blocked until this handler returns.
        // SAFETY: no memory is involved.
        unsafe { libc::raise(signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::{MmapOptions, MmapRaw};

    /// Three pages of ones, mapped.
    fn mapped() -> (std::fs::File, MmapRaw) {
        let file = tempfile::tempfile().unwrap();
        super::super::write_all_at(&file, 0, &[&[1; 12288]]).unwrap();
        let map = MmapOptions::new().len(12288).map_raw_read_only(&file).unwrap();
        (file, map)
    }

    fn watch(map: &MmapRaw) -> Watched {
        let start = NonNull::new(map.as_mut_ptr()).unwrap();
        // SAFETY: the mapping outlives the guard in each test, and `byte` asks.
        unsafe { Watched::new(start, map.len()) }.unwrap()
    }

    fn byte(map: &MmapRaw, at: usize) -> u8 {
        assert!(at < map.len());
        // SAFETY: within the mapping.
        let byte = unsafe { map.as_ptr().add(at) };
        // SAFETY: mapped; a page that is not there becomes zeros, or ends the process where that is the test.
        unsafe { byte.read_volatile() }
    }

    #[test]
    fn a_page_that_is_gone_reads_as_zeros_and_poisons_its_mapping_alone() {
        let ((file, map), (_other, healthy)) = (mapped(), mapped());
        let (watched, other) = (watch(&map), watch(&healthy));
        assert_eq!((byte(&map, 5000), watched.is_poisoned()), (1, false));
        file.set_len(4096).unwrap();
        let before = faults();
        assert_eq!((byte(&map, 0), watched.is_poisoned()), (1, false), "a page that is there");
        assert_eq!((byte(&map, 5000), watched.is_poisoned()), (0, true));
        assert_eq!(byte(&map, 0), 1, "its neighbour stays");
        assert!(faults() > before);
        assert_eq!((byte(&healthy, 5000), other.is_poisoned()), (1, false));
    }

    #[test]
    fn after_many_pages_all_of_the_mapping_is_replaced() {
        let pages = SINGLE_PAGES as usize + 9;
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages * 4096) as u64).unwrap();
        let map = MmapOptions::new().len(pages * 4096).map_raw_read_only(&file).unwrap();
        let watched = watch(&map);
        file.set_len(0).unwrap();
        for page in 0..pages {
            assert_eq!(byte(&map, page * 4096), 0);
        }
        assert!(watched.is_poisoned());
        assert_eq!(watched.0.replaced(), SINGLE_PAGES + 1);
    }

    /// What handled the signal before ours, in a process of its own.
    const BEFORE_US: &str = "SCRATCHSPACE_SIGBUS_BEFORE";
    const HANDLED: i32 = 42;

    extern "C" fn plain(_signal: libc::c_int) {
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(HANDLED) }
    }

    extern "C" fn with_info(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the handler that called this was given it by the kernel.
        let code = unsafe { (*info).si_code };
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(if signal == libc::SIGBUS && code == libc::BUS_ADRERR { HANDLED + 1 } else { 1 }) }
    }

    extern "C" fn with_mask(_signal: libc::c_int) {
        // SAFETY: a set of signals is plain numbers.
        let mut blocked: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: a null set only asks; the answer goes to a local.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut blocked) };
        // SAFETY: only read.
        let is_blocked = |signal| unsafe { libc::sigismember(&raw const blocked, signal) } == 1;
        let is_as_asked = is_blocked(libc::SIGUSR1) && !is_blocked(libc::SIGUSR2) && !is_blocked(libc::SIGBUS);
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(if is_as_asked { HANDLED + 2 } else { 1 }) }
    }

    /// In a process of its own: sets who handles the signal, then ours, then touches a missing page elsewhere.
    fn touch_a_page_of_somebody_else(before: &str) {
        let (handler, flags) = match before {
            "ignore" => (libc::SIG_IGN, 0),
            "default" => (libc::SIG_DFL, 0),
            "plain" => (plain as *const () as usize, 0),
            "info" => (with_info as *const () as usize, libc::SA_SIGINFO),
            "mask" => (with_mask as *const () as usize, libc::SA_NODEFER),
            _ => panic!("{before}"),
        };
        let mut action = no_action();
        (action.sa_sigaction, action.sa_flags) = (handler, flags);
        if before == "mask" {
            // SAFETY: the set is a local's.
            assert_eq!(unsafe { libc::sigaddset(&raw mut action.sa_mask, libc::SIGUSR1) }, 0);
        }
        // SAFETY: a handler with the signature of its flags.
        assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) }, 0);
        let ((file, map), (other_file, elsewhere)) = (mapped(), mapped());
        let watched = watch(&map);
        file.set_len(4096).unwrap();
        assert_eq!((byte(&map, 5000), watched.is_poisoned()), (0, true));
        other_file.set_len(4096).unwrap();
        byte(&elsewhere, 5000);
        unreachable!("a page that is not there was read");
    }

    #[test]
    fn a_fault_elsewhere_goes_to_whoever_handled_it_before() {
        use std::os::unix::process::ExitStatusExt;

        if let Some(before) = std::env::var_os(BEFORE_US) {
            return touch_a_page_of_somebody_else(before.to_str().unwrap());
        }
        let killed = (Some(libc::SIGBUS), None);
        let cases = [
            ("default", killed),
            ("ignore", killed),
            ("plain", (None, Some(HANDLED))),
            ("info", (None, Some(HANDLED + 1))),
            ("mask", (None, Some(HANDLED + 2))),
        ];
        for (before, ends) in cases {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "os::sigbus::tests::a_fault_elsewhere_goes_to_whoever_handled_it_before"])
                .env(BEFORE_US, before)
                .output()
                .unwrap();
            assert_eq!((output.status.signal(), output.status.code()), ends, "{before}: {output:?}");
        }
    }
}
