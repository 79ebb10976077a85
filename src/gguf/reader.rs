//! The numbers and strings of a GGUF header, each checked against the bytes that can still follow.

use std::fmt::Arguments;
use std::io::{Cursor, Read};

use super::broken;
use crate::error::Result;
use crate::source::Source;

/// Longest header that we read, in bytes. Falcon's 65,024 tokens with their merges take 2.3 MB, so there is room for
/// any vocabulary; this bounds what a stream of unknown length or a huge hostile file can make us keep.
pub(super) const MAX_HEADER_BYTES: u64 = 256 << 20;
/// First and largest read-ahead, in bytes. It doubles in between: few requests for a long header over the network,
/// little waste for a short one.
const READ_AHEAD: [u64; 2] = [64 << 10, 4 << 20];
/// Bytes of an array that are read at a time.
const CHUNK: usize = 1024;
/// Room that a growing array starts with, in bytes of memory.
const FIRST_BYTES: usize = 4096;

/// A place in the header.
pub(super) struct Reader<'a> {
    source: &'a mut Source,
    /// Offset of the next byte.
    position: u64,
    /// The header ends here at the latest: the end of the file, or [`MAX_HEADER_BYTES`].
    end: u64,
    /// Bytes read ahead; its own position stands at `position`. Stays empty for a stream, which could not give them
    /// back.
    window: Cursor<Vec<u8>>,
    read_ahead: u64,
}

/// A number of fixed size, little-endian in the file.
pub(super) trait Number: Copy {
    const BYTES: usize;
    /// From exactly `BYTES` bytes.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const BYTES: usize = size_of::<Self>();
            fn from_le(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap_or_default())
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a mut Source) -> Self {
        let end = source.len().unwrap_or(u64::MAX).min(MAX_HEADER_BYTES);
        Self { source, position: 0, end, window: Cursor::new(Vec::new()), read_ahead: READ_AHEAD[0] }
    }

    /// Offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Checks that `count` elements of at least `min_bytes` can follow. The count itself stands `back` bytes before.
    pub(super) fn check_count(&self, count: u64, min_bytes: u64, back: u64, field: Arguments<'_>) -> Result<()> {
        let rest = self.end.saturating_sub(self.position);
        match count.checked_mul(min_bytes) {
            Some(bytes) if bytes <= rest => Ok(()),
            _ => {
                let reason = format!("{count} of at least {min_bytes} bytes each, but {}", self.where_it_ends());
                Err(broken(field, self.position.saturating_sub(back), reason))
            }
        }
    }

    /// Fills `buf` with the next bytes.
    pub(super) async fn exact(&mut self, buf: &mut [u8], field: Arguments<'_>) -> Result<()> {
        let start = self.position;
        let after = start.saturating_add(buf.len() as u64);
        if after > self.end {
            return Err(broken(field, start, format!("{} bytes wanted, but {}", buf.len(), self.where_it_ends())));
        }
        let mut filled = 0;
        loop {
            let rest = buf.get_mut(filled..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            if self.source.is_sequential() {
                if let Err(error) = self.source.read(start, rest).await {
                    let ended = self.source.len().filter(|len| *len < after);
                    let reason = |len| format!("{} bytes wanted, but the file ends at byte {len}", rest.len());
                    return Err(ended.map_or(error, |len| broken(field, start, reason(len))));
                }
                self.position = after;
                return Ok(());
            }
            let copied = self.window.read(rest).unwrap_or(0); // reading from memory never fails
            filled = filled.saturating_add(copied);
            self.position = self.position.saturating_add(copied as u64);
            if copied == 0 {
                self.fill_window().await?;
            }
        }
    }

    /// Reads ahead, at least one byte: called only where more bytes are known to follow.
    async fn fill_window(&mut self) -> Result<()> {
        let bytes = self.read_ahead.min(self.end.saturating_sub(self.position));
        self.read_ahead = self.read_ahead.saturating_mul(2).min(READ_AHEAD[1]);
        let mut window = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.source.read(self.position, &mut window).await?;
        self.window = Cursor::new(window);
        Ok(())
    }

    /// The next number.
    pub(super) async fn number<T: Number>(&mut self, field: Arguments<'_>) -> Result<T> {
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..T::BYTES).unwrap_or_default();
        self.exact(bytes, field).await?;
        Ok(T::from_le(bytes))
    }

    /// The next `count` numbers, whose count stands before them.
    pub(super) async fn numbers<T: Number>(&mut self, count: u64, field: Arguments<'_>) -> Result<Vec<T>> {
        self.check_count(count, T::BYTES as u64, 8, field)?;
        let mut values = Vec::new();
        let mut chunk = [0; CHUNK];
        loop {
            let rest = count.saturating_sub(values.len() as u64);
            if rest == 0 {
                break;
            }
            let wanted = usize::try_from(rest).unwrap_or(CHUNK).saturating_mul(T::BYTES).min(CHUNK);
            let bytes = chunk.get_mut(..wanted).unwrap_or_default();
            self.exact(bytes, field).await?;
            grow(&mut values, rest);
            values.extend(bytes.chunks_exact(T::BYTES).map(T::from_le)); // every size divides CHUNK
        }
        Ok(values)
    }

    /// The next string: its length in bytes, then UTF-8.
    pub(super) async fn string(&mut self, field: Arguments<'_>) -> Result<String> {
        let start = self.position;
        let len = self.number::<u64>(field).await?;
        let bytes = self.numbers::<u8>(len, field).await?;
        String::from_utf8(bytes).map_err(|error| {
            let at = start.saturating_add(8).saturating_add(error.utf8_error().valid_up_to() as u64);
            broken(field, at, "not UTF-8")
        })
    }

    /// The next string, which must have 1 to `max_bytes` bytes.
    pub(super) async fn name(&mut self, max_bytes: u64, field: Arguments<'_>) -> Result<String> {
        let start = self.position;
        let name = self.string(field).await?;
        match name.len() as u64 {
            0 => Err(broken(field, start, "it is empty")),
            len if len > max_bytes => Err(broken(field, start, format!("{len} bytes long, more than {max_bytes}"))),
            _ => Ok(name),
        }
    }

    fn where_it_ends(&self) -> String {
        if self.source.len() == Some(self.end) {
            format!("the file ends at byte {}", self.end)
        } else {
            format!("headers beyond byte {} are not read", self.end)
        }
    }
}

/// Makes room, when there is none left, for more of the `rest` elements to come: at most as many as there are already,
/// so that memory follows what was read and not what was announced.
pub(super) fn grow<T>(values: &mut Vec<T>, rest: u64) {
    if values.len() == values.capacity() {
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let first = FIRST_BYTES.div_ceil(size_of::<T>().max(1));
        values.reserve_exact(rest.min(values.len().max(first)));
    }
}
