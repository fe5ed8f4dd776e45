//! SPDY/3.1 frames to and from bytes.

use bytes::{Buf, Bytes, BytesMut};

use super::headers::{Deflate, Headers, Inflate};

/// Larger frames end the connection.
const LARGEST: usize = 1024 * 1024;
const FIN: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Open {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Reply {
        id: u32,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping(u32),
    GoAway,
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Settings, windows, late headers: nothing that we act on.
    Other(u16),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not SPDY version 3")]
    Version,
    #[error("a frame of {0} bytes")]
    TooLarge(usize),
    #[error("a truncated control frame")]
    Truncated,
    #[error("a broken header block")]
    Headers,
    #[error("a header block that is too large")]
    HeadersTooLarge,
}

#[derive(Default)]
pub struct Decoder {
    inflate: Inflate,
}

impl Decoder {
    /// Takes the first complete frame off the front.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = buffer.first_chunk::<8>().copied() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > LARGEST {
            return Err(FrameError::TooLarge(length));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let mut body = buffer.split_to(length).freeze();
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let fin = head[4] & FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data {
                id: first,
                fin,
                bytes: body,
            }));
        }
        if (first >> 16) & 0x7fff != 3 {
            return Err(FrameError::Version);
        }
        let kind = first as u16;
        let needed = match kind {
            1 => 10,
            3 => 8,
            2 | 6 => 4,
            _ => 0,
        };
        if body.len() < needed {
            return Err(FrameError::Truncated);
        }
        let mut number = || body.get_u32() & 0x7fff_ffff;
        Ok(Some(match kind {
            1 => {
                let id = number();
                body.advance(6);
                Frame::Open {
                    id,
                    fin,
                    headers: self.inflate.decode(&body)?,
                }
            }
            2 => {
                let id = number();
                // The block must go through the decompressor, whose state it changes.
                self.inflate.decode(&body)?;
                Frame::Reply { id }
            }
            3 => Frame::Reset {
                id: number(),
                status: number(),
            },
            6 => Frame::Ping(body.get_u32()),
            7 => Frame::GoAway,
            8 if body.len() >= 4 => {
                body.advance(4);
                self.inflate.decode(&body)?;
                Frame::Other(kind)
            }
            _ => Frame::Other(kind),
        }))
    }
}

#[derive(Default)]
pub struct Encoder {
    deflate: Deflate,
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame) -> Result<Vec<u8>, FrameError> {
        Ok(match frame {
            Frame::Data { id, fin, bytes } => {
                let mut out = Vec::with_capacity(8 + bytes.len());
                out.extend_from_slice(&(id & 0x7fff_ffff).to_be_bytes());
                out.extend_from_slice(&(u32::from(*fin) << 24 | bytes.len() as u32).to_be_bytes());
                out.extend_from_slice(bytes);
                out
            }
            Frame::Open { id, fin, headers } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend_from_slice(&[0; 6]);
                body.extend(self.deflate.encode(headers)?);
                control(1, u8::from(*fin), &body)
            }
            Frame::Reply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(self.deflate.encode(&Headers::new())?);
                control(2, 0, &body)
            }
            Frame::Reset { id, status } => {
                control(3, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat())
            }
            Frame::Ping(id) => control(6, 0, &id.to_be_bytes()),
            Frame::GoAway => control(7, 0, &[0; 8]),
            Frame::Other(kind) => control(*kind, 0, &[]),
        })
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend_from_slice(&[0x80, 3]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let frames = [
            Frame::Open {
                id: 1,
                fin: false,
                headers: [("streamtype".to_owned(), "data".to_owned())].into(),
            },
            Frame::Reply { id: 1 },
            Frame::Data {
                id: 1,
                fin: true,
                bytes: Bytes::from_static(b"hello"),
            },
            Frame::Reset { id: 3, status: 5 },
            Frame::Ping(7),
            Frame::GoAway,
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            wire.extend_from_slice(&encoder.encode(frame).unwrap());
        }
        let last = wire.split_off(wire.len() - 3);
        let mut got = Vec::new();
        while let Some(frame) = decoder.take(&mut wire).unwrap() {
            got.push(frame);
        }
        wire.unsplit(last);
        got.extend(decoder.take(&mut wire).unwrap());
        assert_eq!(got, frames);
        assert_eq!(
            decoder.take(&mut BytesMut::from(&b"\x80\x02\0\x01\0\0\0\0"[..])),
            Err(FrameError::Version)
        );
        assert_eq!(
            decoder.take(&mut BytesMut::from(&b"\0\0\0\x01\0\xff\0\0"[..])),
            Err(FrameError::TooLarge(0xff_0000))
        );
    }
}
