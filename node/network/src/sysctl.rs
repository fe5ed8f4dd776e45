//! Kernel settings of the current network namespace that pod networking needs.

use std::path::Path;

/// Writes `value` to `/proc/sys/<name>`, unless it is there already.
pub fn set(name: &str, value: &str) -> std::io::Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(path, value)
}
