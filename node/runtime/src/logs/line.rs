//! One line of a CRI log. Upstream: `pkg/kubelet/kuberuntime/logs/logs.go` parseCRILog.

use jiff::Timestamp;

#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub timestamp: &'a str,
    pub stderr: bool,
    /// More of the same line follows.
    pub partial: bool,
    pub content: &'a [u8],
}

/// `line` without its newline. None for what is not a log line (a write cut by a full disk).
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (timestamp, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    let (tags, content) = split(rest).unwrap_or((rest, b""));
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line {
        timestamp: std::str::from_utf8(timestamp).ok()?,
        stderr,
        partial,
        content,
    })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

impl Line<'_> {
    /// An unreadable time counts as new: better shown than lost.
    pub fn is_before(&self, since: Timestamp) -> bool {
        self.timestamp
            .parse::<Timestamp>()
            .is_ok_and(|time| time < since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        let line = parse(b"2026-01-02T03:04:05.6Z stderr P:x a b").unwrap();
        assert_eq!(
            line,
            Line {
                timestamp: "2026-01-02T03:04:05.6Z",
                stderr: true,
                partial: true,
                content: b"a b"
            }
        );
        assert!(line.is_before("2026-01-02T03:04:06Z".parse().unwrap()));
        assert!(!line.is_before("2026-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(parse(b"T stdout F ").unwrap().content, b"");
        for bad in [&b""[..], b"x", b"T other F a", b"T stdout X a"] {
            assert_eq!(parse(bad), None);
        }
    }
}
