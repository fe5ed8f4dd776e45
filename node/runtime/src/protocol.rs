//! What a shim and the daemon say to each other over the shim's socket. Version 1, for ever readable:
//! an old shim lives on under a new daemon. A frame is version (1 byte), kind (1), length (4, big
//! endian), payload.

use crate::runtime::Size;

pub const VERSION: u8 = 1;
pub const HEADER: usize = 6;
/// Larger frames end the connection.
pub const LARGEST: usize = 64 * 1024;

/// Client to shim.
pub const ATTACH: u8 = 1;
pub const STDIN: u8 = 2;
pub const CLOSE_STDIN: u8 = 3;
pub const RESIZE: u8 = 4;
pub const STATE: u8 = 5;
pub const SIGNAL: u8 = 6;
/// Shim to client.
pub const STDOUT: u8 = 16;
pub const STDERR: u8 = 17;
pub const EXIT: u8 = 18;
pub const ANSWER: u8 = 19;
pub const ERROR: u8 = 20;

#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    Version(u8),
    TooLarge(usize),
}

pub fn encode(kind: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&[VERSION, kind]);
    into.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    into.extend_from_slice(payload);
}

pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    encode(kind, payload, &mut bytes);
    bytes
}

/// Takes the first complete frame off the front of `buffer`.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, FrameError> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    if buffer[0] != VERSION {
        return Err(FrameError::Version(buffer[0]));
    }
    let length = u32::from_be_bytes([buffer[2], buffer[3], buffer[4], buffer[5]]) as usize;
    if length > LARGEST {
        return Err(FrameError::TooLarge(length));
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let kind = buffer[1];
    let payload = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, payload)))
}

pub fn size(payload: &[u8]) -> Option<Size> {
    let [a, b, c, d] = *payload else { return None };
    Some(Size {
        width: u16::from_be_bytes([a, b]),
        height: u16::from_be_bytes([c, d]),
    })
}

pub fn size_payload(size: Size) -> [u8; 4] {
    let ([a, b], [c, d]) = (size.width.to_be_bytes(), size.height.to_be_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let mut buffer = frame(STDIN, b"abc");
        // Pinned: an old shim must understand it.
        assert_eq!(buffer, [1, 2, 0, 0, 0, 3, b'a', b'b', b'c']);
        encode(
            RESIZE,
            &size_payload(Size {
                width: 80,
                height: 300,
            }),
            &mut buffer,
        );
        let half = buffer.split_off(10);
        assert_eq!(take(&mut buffer), Ok(Some((STDIN, b"abc".to_vec()))));
        assert_eq!(take(&mut buffer), Ok(None));
        buffer.extend(half);
        let (kind, payload) = take(&mut buffer).unwrap().unwrap();
        assert_eq!(
            (kind, size(&payload)),
            (
                RESIZE,
                Some(Size {
                    width: 80,
                    height: 300
                })
            )
        );
        assert_eq!(
            take(&mut vec![9, 0, 0, 0, 0, 0]),
            Err(FrameError::Version(9))
        );
        assert_eq!(
            take(&mut vec![1, 0, 255, 0, 0, 0]),
            Err(FrameError::TooLarge(0xff00_0000))
        );
    }
}
