//! The only source of randomness of this program, in place of the system's: a counter, mixed.
//!
//! Everything that asks the operating system for random bytes (openraft's election time-outs, the keys of hash maps,
//! the order in which tokio wakes those that wait for the same thing, keys and nonces) asks the C library's
//! `getrandom`, which the standard library and the `getrandom` crate leave open to be replaced. With one thread and one
//! seed a process, the same seed is the same run.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// From now on the bytes are those of `seed`.
pub fn begin(seed: u64) {
    STATE.store(mixed(seed.wrapping_add(1)), Ordering::SeqCst);
}

/// SplitMix64's finalizer.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// As getrandom(2), except that its bytes can be foretold.
#[allow(unsafe_code)]
// SAFETY: the only symbol of this name in the program; it has the C library's signature and takes its place.
#[unsafe(no_mangle)]
pub extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: by getrandom's contract the caller owns `length` writable bytes at `buffer`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        chunk.copy_from_slice(&mixed(state).to_le_bytes()[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
