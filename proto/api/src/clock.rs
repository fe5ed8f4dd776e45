//! The wall clock: what this program takes for the time of day. Whoever decides by it reads it here.
//!
//! Only as good as the machine's: it may jump, and differ between machines. Nothing about consensus, leases or deadlines may
//! rest on it. Tests move it by a file that `CARAVEL_TEST_CLOCK` names, with seconds to add; the machine's is never set.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// The time of day.
pub fn now() -> Timestamp {
    Timestamp::try_from(system()).unwrap_or(Timestamp::MAX)
}

/// The same for those that reckon in the system's type.
pub fn system() -> SystemTime {
    moved(SystemTime::now(), offset())
}

fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    moved.unwrap_or(time)
}

/// Seconds, as the test's file says now.
fn offset() -> i64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("CARAVEL_TEST_CLOCK").map(PathBuf::from));
    let text = file
        .as_ref()
        .and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_moved_either_way() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(43_200);
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        assert_eq!(seconds(moved(noon, 3600)), 46_800);
        assert_eq!(seconds(moved(noon, -3600)), 39_600);
        assert_eq!(moved(noon, 0), noon);
        assert!(now() > "2024-01-01T00:00:00Z".parse().unwrap());
    }
}
