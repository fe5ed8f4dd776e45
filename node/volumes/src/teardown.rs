//! Takes a Pod's volumes away. Never deletes through a mount: everything is unmounted first, and while
//! anything is still mounted nothing is deleted.

use std::io;
use std::path::Path;

use crate::mounter::Mounter;

/// Unmounts everything below the Pod's directory, then deletes it. A directory that is not there is no error.
///
/// # Errors
/// When something cannot be unmounted or deleted; trying again later is right.
pub fn teardown(pod_dir: &Path, mounter: &mut dyn Mounter) -> io::Result<()> {
    for mounted in mounter.below(pod_dir)? {
        mounter.unmount(&mounted)?;
    }
    if let Some(left) = mounter.below(pod_dir)?.first() {
        return Err(io::Error::other(format!(
            "{} is still mounted",
            left.display()
        )));
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
