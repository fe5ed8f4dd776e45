//! Header blocks: zlib with SPDY's own dictionary, one compressor per direction and connection.
//! The dictionary is that of the SPDY/3 draft, section 2.6.10.1.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::FrameError;

static DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Uncompressed; a larger block ends the connection.
const LARGEST: usize = 64 * 1024;

pub type Headers = BTreeMap<String, String>;

pub struct Inflate(Decompress);

impl Default for Inflate {
    fn default() -> Self {
        Inflate(Decompress::new(true))
    }
}

impl Inflate {
    pub fn decode(&mut self, mut block: &[u8]) -> Result<Headers, FrameError> {
        let mut out = Vec::with_capacity(4096);
        while !block.is_empty() {
            if out.len() == out.capacity() {
                if out.len() >= LARGEST {
                    return Err(FrameError::HeadersTooLarge);
                }
                out.reserve(out.capacity());
            }
            let (before_in, before_out) = (self.0.total_in(), out.len());
            match self
                .0
                .decompress_vec(block, &mut out, FlushDecompress::Sync)
            {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(DICTIONARY)
                        .map_err(|_| FrameError::Headers)?;
                }
                Err(_) => return Err(FrameError::Headers),
            }
            let used = (self.0.total_in() - before_in) as usize;
            if used == 0 && out.len() == before_out && out.len() < out.capacity() {
                return Err(FrameError::Headers);
            }
            block = &block[used..];
        }
        // What did not fit the last time is still inside.
        loop {
            if out.len() == out.capacity() {
                out.reserve(4096);
            }
            let before = out.len();
            let _ = self.0.decompress_vec(&[], &mut out, FlushDecompress::Sync);
            if out.len() == before {
                break;
            }
            if out.len() > LARGEST {
                return Err(FrameError::HeadersTooLarge);
            }
        }
        parse(&out)
    }
}

fn parse(mut bytes: &[u8]) -> Result<Headers, FrameError> {
    let mut headers = Headers::new();
    let count = number(&mut bytes)?;
    for _ in 0..count {
        let name = text(&mut bytes)?.to_ascii_lowercase();
        headers.insert(name, text(&mut bytes)?);
    }
    Ok(headers)
}

fn number(bytes: &mut &[u8]) -> Result<u32, FrameError> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(FrameError::Headers)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*head))
}

fn text(bytes: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(bytes)? as usize;
    if length > bytes.len() {
        return Err(FrameError::Headers);
    }
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::Headers)
}

pub struct Deflate(Compress);

impl Default for Deflate {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        // Fails only after the first byte has been compressed.
        let _ = compress.set_dictionary(DICTIONARY);
        Deflate(compress)
    }
}

impl Deflate {
    pub fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            for part in [name, value] {
                plain.extend_from_slice(&(part.len() as u32).to_be_bytes());
                plain.extend_from_slice(part.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| FrameError::Headers)?;
            rest = &rest[(self.0.total_in() - before) as usize..];
            // Room left over means that the flush is complete.
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_order() {
        let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
        for size in [0usize, 5, 20_000, 3] {
            let headers: Headers = [
                ("streamtype".to_owned(), "error".to_owned()),
                ("x".to_owned(), "y".repeat(size)),
            ]
            .into();
            let block = deflate.encode(&headers).unwrap();
            assert_eq!(inflate.decode(&block).unwrap(), headers);
        }
        assert!(inflate.decode(b"nonsense").is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
        let headers: Headers = [("x".to_owned(), "y".repeat(1_000_000))].into();
        assert_eq!(
            inflate.decode(&deflate.encode(&headers).unwrap()),
            Err(FrameError::HeadersTooLarge)
        );
    }
}
