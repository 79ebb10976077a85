//! Where the bytes of a model come from: memory, a file, ranges over the network, or a stream that is read once.
//!
//! First stage of loading: [`crate::gguf`] reads the header from a [`Source`], the weights follow tensor by tensor, so
//! that the whole file is never in memory. Reading is asynchronous because the browser knows no other way. Futures need
//! not be `Send`: a source stays on the thread that made it. What only a browser has (fetch, `ReadableStream`, `Blob`)
//! comes in through [`RandomBytes`] and [`SequentialBytes`].

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::Pin;

use crate::error::{Error, Result};

/// A boxed future that need not be `Send`.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Bytes that can be read at any offset: a URL that answers range requests, a `Blob`.
pub trait RandomBytes {
    /// Fills `buf` with the bytes from `offset` on. The range lies within the length given to [`Source::random`].
    ///
    /// # Errors
    /// [`Error::Read`] if not all of them can be had.
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>>;
}

/// Bytes that come once, in order: a response without ranges, a `ReadableStream`.
pub trait SequentialBytes {
    /// The next bytes, as many as there happen to be; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Read`] if the stream breaks.
    fn next(&mut self) -> LocalBoxFuture<'_, Result<Option<Vec<u8>>>>;
}

/// A named run of bytes.
pub struct Source {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    Memory(Cow<'static, [u8]>),
    File { file: File, len: u64 },
    Random { reader: Box<dyn RandomBytes>, len: u64 },
    Sequential(Stream),
}

struct Stream {
    reader: Box<dyn SequentialBytes>,
    /// Bytes in all: as announced, or as found at the end.
    len: Option<u64>,
    /// Offset of the next byte that nobody has read.
    position: u64,
    /// What has arrived last; its bytes from `used` on stand at `position`.
    chunk: Vec<u8>,
    used: usize,
}

impl Source {
    /// Bytes in memory. `name` is for error messages.
    pub fn memory(name: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { name: name.into(), bytes: Bytes::Memory(bytes.into()) }
    }

    /// A file, read piece by piece where it is needed.
    ///
    /// # Errors
    /// [`Error::Read`] if it cannot be opened or is not a regular file (a pipe would block, a folder has no bytes).
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |reason: String| Error::Read { what: name.clone(), reason };
        let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_file() {
            return Err(failed("it is not a regular file".into()));
        }
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        Ok(Self { name, bytes: Bytes::File { file, len: metadata.len() } })
    }

    /// `len` bytes that `reader` gives at any offset.
    pub fn random(name: impl Into<String>, len: u64, reader: Box<dyn RandomBytes>) -> Self {
        Self { name: name.into(), bytes: Bytes::Random { reader, len } }
    }

    /// A stream of `len` bytes, if that is known beforehand. It can be read forwards only.
    pub fn sequential(name: impl Into<String>, len: Option<u64>, reader: Box<dyn SequentialBytes>) -> Self {
        let stream = Stream { reader, len, position: 0, chunk: Vec::new(), used: 0 };
        Self { name: name.into(), bytes: Bytes::Sequential(stream) }
    }

    /// File name or URL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in all. `None` for a stream of unannounced length until its end has been seen.
    pub fn len(&self) -> Option<u64> {
        match &self.bytes {
            Bytes::Memory(bytes) => Some(bytes.len() as u64),
            Bytes::File { len, .. } | Bytes::Random { len, .. } => Some(*len),
            Bytes::Sequential(stream) => stream.len,
        }
    }

    /// Whether it holds no byte at all, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Whether bytes come once and in order only.
    pub fn is_sequential(&self) -> bool {
        matches!(self.bytes, Bytes::Sequential(_))
    }

    /// Fills `buf` with the bytes from `offset` on. A stream skips what lies between its position and `offset`.
    ///
    /// # Errors
    /// [`Error::Read`], with the name and the offset, if the source ends before, cannot be read, or is a stream that is
    /// already past `offset`.
    pub async fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let result = match self.len() {
            Some(len) if end > len => Err(ends_early(len, buf.len())),
            _ => match &mut self.bytes {
                Bytes::Memory(bytes) => {
                    let start = offset as usize; // fits: end ≤ length of a slice
                    buf.copy_from_slice(&bytes[start..start + buf.len()]);
                    Ok(())
                }
                Bytes::File { file, .. } => file
                    .seek(SeekFrom::Start(offset))
                    .and_then(|_| file.read_exact(buf))
                    .map_err(|error| error.to_string()),
                Bytes::Random { reader, .. } => return reader.read(offset, buf).await,
                Bytes::Sequential(stream) => stream.read(offset, buf).await?,
            },
        };
        result.map_err(|reason| Error::Read { what: format!("{} at byte {offset}", self.name), reason })
    }
}

impl Stream {
    /// Fills `buf`. The outer error is the reader's, the inner one ours, still without name and offset.
    async fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<std::result::Result<(), String>> {
        if offset < self.position {
            return Ok(Err(format!("a stream can only be read forwards, and it stands at byte {}", self.position)));
        }
        let mut filled = 0;
        while self.position < offset || filled < buf.len() {
            let ready = &self.chunk[self.used..];
            if ready.is_empty() {
                let Some(chunk) = self.reader.next().await? else {
                    self.len = Some(self.position);
                    return Ok(Err(ends_early(self.position, buf.len())));
                };
                (self.chunk, self.used) = (chunk, 0);
                continue;
            }
            let skip = offset - self.position.min(offset);
            let taken = if skip > 0 {
                ready.len().min(usize::try_from(skip).unwrap_or(usize::MAX))
            } else {
                let taken = ready.len().min(buf.len() - filled);
                buf[filled..filled + taken].copy_from_slice(&ready[..taken]);
                filled += taken;
                taken
            };
            self.used += taken;
            self.position += taken as u64;
        }
        Ok(Ok(()))
    }
}

fn ends_early(len: u64, wanted: usize) -> String {
    format!("{wanted} bytes wanted, but it ends at byte {len}")
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, {:?} bytes)", self.name, self.len())
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use pollster::block_on;

    use super::*;

    /// Hands out its chunks one by one.
    struct Chunks(std::vec::IntoIter<Vec<u8>>);

    impl SequentialBytes for Chunks {
        fn next(&mut self) -> LocalBoxFuture<'_, Result<Option<Vec<u8>>>> {
            Box::pin(std::future::ready(Ok(self.0.next())))
        }
    }

    fn stream(len: Option<u64>) -> Source {
        let chunks = vec![vec![0, 1, 2], vec![], vec![3], vec![4, 5, 6, 7, 8, 9]];
        Source::sequential("stream", len, Box::new(Chunks(chunks.into_iter())))
    }

    fn bytes<const N: usize>(source: &mut Source, offset: u64) -> Result<[u8; N]> {
        let mut buf = [0; N];
        block_on(source.read(offset, &mut buf)).map(|()| buf)
    }

    #[test]
    fn reads_memory_at_any_offset() {
        let mut source = Source::memory("m", vec![0, 1, 2, 3]);
        assert_eq!(bytes(&mut source, 2).unwrap(), [2, 3]);
        assert_eq!(bytes(&mut source, 0).unwrap(), [0]);
        assert_eq!(bytes(&mut source, 4).unwrap(), [0_u8; 0]);
    }

    #[test]
    fn names_source_and_offset_when_bytes_are_missing() {
        let mut source = Source::memory("m.gguf", vec![0; 4]);
        let error = bytes::<3>(&mut source, 2).unwrap_err().to_string();
        assert_eq!(error, "cannot read m.gguf at byte 2: 3 bytes wanted, but it ends at byte 4");
        assert!(bytes::<1>(&mut source, u64::MAX).is_err());
    }

    #[test]
    fn reads_a_file_at_any_offset() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source.rs");
        let mut source = Source::open(&path).unwrap();
        assert_eq!(source.len(), Some(std::fs::metadata(&path).unwrap().len()));
        assert_eq!(&bytes::<9>(&mut source, 4).unwrap(), b"Where the");
        assert_eq!(&bytes::<3>(&mut source, 0).unwrap(), b"//!");
        let len = source.len().unwrap();
        assert!(bytes::<2>(&mut source, len - 1).is_err());
    }

    #[test]
    fn says_why_a_file_cannot_be_opened() {
        let folder = Source::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err().to_string();
        assert!(folder.ends_with("it is not a regular file"), "{folder}");
        let missing = Source::open(Path::new("no such file")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read no such file: "), "{missing}");
    }

    #[test]
    fn reads_a_stream_forwards_across_chunks() {
        let mut source = stream(None);
        assert_eq!(source.len(), None);
        assert_eq!(bytes(&mut source, 1).unwrap(), [1, 2, 3, 4]);
        assert_eq!(bytes(&mut source, 7).unwrap(), [7]);
        let error = bytes::<1>(&mut source, 7).unwrap_err().to_string();
        assert_eq!(error, "cannot read stream at byte 7: a stream can only be read forwards, and it stands at byte 8");
    }

    #[test]
    fn learns_a_streams_length_at_its_end() {
        let mut source = stream(None);
        let error = bytes::<3>(&mut source, 8).unwrap_err().to_string();
        assert_eq!(error, "cannot read stream at byte 8: 3 bytes wanted, but it ends at byte 10");
        assert_eq!(source.len(), Some(10));
        let mut cut = stream(Some(12)); // announced longer than it is
        assert!(bytes::<12>(&mut cut, 0).is_err());
        assert_eq!(cut.len(), Some(10));
    }
}
