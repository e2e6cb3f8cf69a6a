//! The C library's allocation functions, replaced for a test program, so that allocations made by C
//! code count as well. Rust's own allocator ends in the same functions.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static OF_ALL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OF_THIS_THREAD: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    OF_ALL.fetch_add(1, Ordering::Relaxed);
    // A thread that ends may have lost its count.
    let _ = OF_THIS_THREAD.try_with(|count| count.set(count.get() + 1));
}

/// Allocations this thread makes during `work`.
pub fn allocations(work: impl FnOnce()) -> u64 {
    let before = OF_THIS_THREAD.get();
    work();
    OF_THIS_THREAD.get() - before
}

/// Allocations of the whole process so far.
pub fn allocations_of_all() -> u64 {
    OF_ALL.load(Ordering::Relaxed)
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own allocator under its other name; same contract.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(items: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(items, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above; `old` came from the same allocator.
    unsafe { __libc_realloc(old, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    count();
    // SAFETY: as above; `out` is valid for one pointer by the function's contract.
    unsafe {
        let block = __libc_memalign(alignment, size);
        if block.is_null() {
            return libc::ENOMEM;
        }
        out.write(block);
    }
    0
}
