//! Gives back the memory that only the start has needed: pages of the program and its libraries, which the kernel reads
//! again from the page cache where they are used once more. There is a shim per container, for as long as it lives.
//!
//! Never touches a page that this process may have written.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;

use nix::libc;

pub(super) fn release() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for range in clean(&maps) {
        // SAFETY: the range is mapped from a file, cannot be written and holds no page of our own, as the kernel has
        // just told; this process has one thread, so that nothing has changed since. Dropped pages are read again
        // from the file.
        unsafe {
            libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

/// The mappings whose every page is as in its file. Where relocations were written the mapping is read-only as well:
/// only the count of anonymous pages tells them apart. Pure.
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Anonymous:") {
            if let (Some(range), "0 kB") = (candidate.take(), kib.trim()) {
                found.push(range);
            }
        } else if line.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase()) {
            candidate = mapping(line);
        }
    }
    found
}

/// `start-end perms offset device inode path` of a file that is mapped without the right to write.
fn mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let inode = words.nth(2)?;
    if !rights.starts_with("r-") || !rights.ends_with('p') || inode == "0" {
        return None;
    }
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55000000-55001000 r-xp 00001000 fe:00 42 /usr/local/bin/caravel
Size:                  4 kB
Anonymous:             0 kB
55001000-55003000 r--p 00002000 fe:00 42 /usr/local/bin/caravel
Rss:                   8 kB
Anonymous:             8 kB
55003000-55004000 rw-p 00004000 fe:00 42 /usr/local/bin/caravel
Anonymous:             0 kB
7f000000-7f001000 r--p 00000000 fe:00 7 /lib/x86_64-linux-gnu/libc.so.6
Anonymous:             0 kB
7f002000-7f003000 r--s 00000000 fe:00 9 /shared
Anonymous:             0 kB
7fff0000-7fff1000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_nobody_can_have_written() {
        assert_eq!(
            clean(SMAPS),
            [0x5500_0000..0x5500_1000, 0x7f00_0000..0x7f00_1000]
        );
    }
}
