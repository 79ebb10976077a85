//! A session as bytes: everything that it takes to go on elsewhere as if nothing had been.
//!
//! All numbers little-endian: `sinksnap`, version; SHA-256 of the model's metadata and tensor directory; what is kept;
//! where the stream stands; its first and its recent tokens; its turns; the caller's note; then, for every cache buffer (keys and values,
//! layer by layer) and key head, the cached tokens in the order of the stream, as they lie in the cache; SHA-256 of all that.
//! With a compressive memory: in front of these whether it is in use, and behind them the memory, layer by layer.
//! Slots do not occur, and neither does the executor: what the CPU saved, a GPU restores, with the same bits.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::Session;
use crate::config::Attention;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernels::sample::MAX_AHEAD;
use crate::plan::{BufferId, Purpose};

const MAGIC: [u8; 8] = *b"sinksnap";
/// Raised with every change of the format.
const VERSION: u32 = 2;
/// Bytes of a SHA-256.
const HASH: usize = 32;

impl Session {
    /// The session as bytes, with a note of the caller's own for whoever restores it. It goes on unchanged.
    ///
    /// The bytes hold the recent token ids and the keys and values of all cached tokens, as long as these are few; a
    /// stream in recompute mode has no keys. Sampling settings are the caller's.
    ///
    /// # Errors
    /// Those of the executor.
    pub async fn save(&self, engine: &mut Engine, note: &[u8]) -> Result<Vec<u8>> {
        match self.to_bytes(engine, note).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                engine.recover_from(error).await?;
                self.to_bytes(engine, note).await
            }
        }
    }

    async fn to_bytes(&self, engine: &mut Engine, note: &[u8]) -> Result<Vec<u8>> {
        let lane = self.enter(engine).await?;
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(identity(engine.gguf()));
        let kept = [self.keep.attention as u32, self.keep.sinks + self.keep.window, engine.cache_type() as u32];
        out.extend([kept[0], kept[1], kept[2], self.keep.sinks].iter().flat_map(|number| number.to_le_bytes()));
        out.extend([self.start, self.delivered].iter().flat_map(|number| number.to_le_bytes()));
        let first: Vec<u8> = self.first.iter().flat_map(|id| id.to_le_bytes()).collect();
        let recent: Vec<u8> = self.recent.iter().flat_map(|id| id.to_le_bytes()).collect();
        let turns: Vec<u8> = self.ring.turns().flat_map(|turn| turn.to_le_bytes()).collect();
        for bytes in [&first[..], &recent, &turns, note] {
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        }
        if let Some(is_remembered) = self.ring.is_remembered() {
            out.extend(u32::from(is_remembered).to_le_bytes());
        }
        if self.keep.attention != Attention::Recompute {
            let (slots, rows) = (self.ring.held(MAX_AHEAD), Rows::new(engine, self.ring.slots()));
            for buffer in &rows.buffers {
                let mut cache = vec![0; rows.lane_bytes()];
                engine.executor.read(*buffer, rows.lane_bytes() as u64 * u64::from(lane), &mut cache).await?;
                for place in rows.places(&slots) {
                    out.extend(&cache[place..place + rows.bytes]);
                }
            }
        }
        for (buffer, bytes) in memories(engine) {
            let mut memory = vec![0; bytes];
            engine.executor.read(buffer, bytes as u64 * u64::from(lane), &mut memory).await?;
            out.extend(memory);
        }
        let hash = Sha256::digest(&out);
        out.extend(hash);
        Ok(out)
    }

    /// A session from bytes of [`Self::save`], and the note that was saved with it. The engine must have loaded the same model with the same attention mode, cache size and cache
    /// type; device and chunk size do not matter. On the same executor the stream goes on with the same bits.
    ///
    /// # Errors
    /// [`Error::Snapshot`] for bytes that are damaged or of another engine; those of the executor.
    pub async fn restore(engine: &mut Engine, bytes: &[u8]) -> Result<(Self, Vec<u8>)> {
        let refuse = |what: &str| Error::Snapshot(what.into());
        let mut reader = Reader(bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(refuse("it is no saved session"));
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(Error::Snapshot(format!("its version is {version}, this program reads version {VERSION}")));
        }
        let (body, hash) = bytes.split_last_chunk::<HASH>().ok_or_else(|| refuse("it is cut short"))?;
        if Sha256::digest(body)[..] != hash[..] {
            return Err(refuse("it is damaged"));
        }
        reader.0 = body.get(MAGIC.len() + 4..).ok_or_else(|| refuse("it is cut short"))?;
        if reader.array::<HASH>()? != identity(engine.gguf()) {
            return Err(refuse("it is of another model"));
        }
        let mut session = engine.session();
        let keep = &mut session.keep;
        let total = keep.sinks + keep.window;
        let wanted = [keep.attention as u32, total, engine.cache_type() as u32];
        for (name, wanted) in ["attention mode", "cache size", "cache type"].into_iter().zip(wanted) {
            if reader.u32()? != wanted {
                return Err(Error::Snapshot(format!("it has another {name}")));
            }
        }
        let sinks = reader.u32()?;
        (keep.sinks, keep.window) = (sinks, total.checked_sub(sinks).ok_or_else(|| refuse("too many sinks"))?);
        (session.start, session.delivered) = (reader.u64()?, reader.u64()?);
        let first: Vec<u32> = reader.numbers()?.map(u32::from_le_bytes).collect();
        let recent: Vec<u32> = reader.numbers()?.map(u32::from_le_bytes).collect();
        let turns: Vec<u64> = reader.numbers()?.map(u64::from_le_bytes).collect();
        let note_bytes = reader.u64()?;
        let note = reader.take(note_bytes)?.to_vec();
        let vocab_size = engine.config().vocab_size;
        let pinned = u64::from(sinks.max(1)).min(session.delivered);
        let is_far = session.start.checked_add(session.delivered).is_none_or(|end| end > 1 << 62);
        let is_known = first.len() as u64 == pinned
            && recent.len() as u64 <= session.delivered
            && recent.is_empty() == (session.delivered == 0);
        let mut ids = first.iter().chain(&recent);
        if is_far || !is_known || ids.any(|&id| id >= vocab_size) || !turns.is_sorted() {
            return Err(refuse("it contradicts itself"));
        }
        session.pending = recent.last().copied();
        let excess = recent.len().saturating_sub(session.recent_limit); // another chunk size remembers more
        session.recent = recent.into();
        session.recent.drain(..excess);
        session.first = first;

        if session.keep.attention != Attention::Recompute {
            session.ring.pin(sinks);
            session.ring.resume(session.start, session.delivered.saturating_sub(1), turns);
            if session.ring.is_remembered().is_some() {
                match (reader.u32()?, sinks) {
                    (0, 0) => session.ring.forget(),
                    (1, 0) => {}
                    _ => return Err(refuse("it contradicts itself")),
                }
            }
            if let Err(error) = session.restore_cache(engine, reader.0).await {
                engine.recover_from(error).await?;
                session.restore_cache(engine, reader.0).await?;
            }
        }
        Ok((session, note))
    }

    /// Puts saved keys and values where they belong. A ring with less slack takes fewer of them, one with more has empty
    /// slots that nobody looks at.
    async fn restore_cache(&self, engine: &mut Engine, saved: &[u8]) -> Result<()> {
        let rows = Rows::new(engine, self.ring.slots());
        let slots = self.ring.held(MAX_AHEAD);
        let parts = rows.buffers.len() * rows.heads;
        let sinks = slots.len().min(self.keep.sinks as usize);
        let (saved, mut memory) = match saved.len().checked_sub(memories(engine).iter().map(|(_, bytes)| bytes).sum()) {
            Some(of_cache) => saved.split_at(of_cache),
            None => return Err(Error::Snapshot("it is cut short".into())),
        };
        let count = saved.len() / (parts * rows.bytes).max(1);
        // A segment that is full, but not folded, is needed whole.
        let full = self.ring.filled(0, 0).map(|last| last.cached + 1);
        let seen = full.unwrap_or_else(|| self.ring.cached(self.ring.written())) as usize;
        if saved.len() != count * parts * rows.bytes || count < seen {
            return Err(Error::Snapshot("it contradicts itself".into()));
        }
        let lane = engine.lane(&self.id).await?;
        // The sinks, and as many of the latest tokens as both have.
        let both = count.min(slots.len());
        let here: Vec<u32> = slots[..sinks].iter().chain(&slots[slots.len() - (both - sinks)..]).copied().collect();
        let there: Vec<usize> = (0..sinks).chain(count - (both - sinks)..count).collect();
        for (n, buffer) in rows.buffers.iter().enumerate() {
            let mut cache = vec![0; rows.lane_bytes()];
            let first = n * rows.heads * count;
            for (at, place) in rows.places(&here).enumerate() {
                let row = first + at / both * count + there[at % both];
                cache[place..place + rows.bytes].copy_from_slice(&saved[row * rows.bytes..][..rows.bytes]);
            }
            engine.executor.write(*buffer, rows.lane_bytes() as u64 * u64::from(lane), &cache)?;
        }
        for (buffer, bytes) in memories(engine) {
            let part;
            (part, memory) = memory.split_at(bytes);
            engine.executor.write(buffer, bytes as u64 * u64::from(lane), part)?;
        }
        Ok(())
    }
}

/// The compressive memories, and the bytes of a lane in each.
fn memories(engine: &Engine) -> Vec<(BufferId, usize)> {
    let buffers = &engine.model.buffers;
    buffers.of(Purpose::Memory).into_iter().map(|id| (id, buffers.spec(id).lane_bytes as usize)).collect()
}

/// How a lane of a cache buffer is divided: `[kv_head][slot]` rows of one key or value.
struct Rows {
    buffers: Vec<BufferId>,
    heads: usize,
    slots: usize,
    /// Of one row.
    bytes: usize,
}

impl Rows {
    fn new(engine: &Engine, slots: u32) -> Self {
        let config = engine.config();
        Self {
            buffers: engine.model.buffers.of(Purpose::Cache),
            heads: config.n_kv_heads as usize,
            slots: slots as usize,
            bytes: 4 * engine.cache_type().words_per_pair() * (config.head_dim / 2) as usize,
        }
    }

    fn lane_bytes(&self) -> usize {
        self.heads * self.slots * self.bytes
    }

    /// Where the rows of these slots begin, head by head, in bytes.
    fn places(&self, slots: &[u32]) -> impl Iterator<Item = usize> {
        (0..self.heads)
            .flat_map(move |head| slots.iter().map(move |&slot| (head * self.slots + slot as usize) * self.bytes))
    }
}

/// What makes two model files the same to a session: SHA-256 of metadata and tensor directory.
fn identity(gguf: &Gguf) -> [u8; HASH] {
    struct Hashed(Sha256);
    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.update(text);
            Ok(())
        }
    }
    let mut hashed = Hashed(Sha256::new());
    // Cannot fail: neither can the hash.
    let _ = write!(hashed, "{:?} {:?}", gguf.metadata, gguf.tensors);
    hashed.0.finalize().into()
}

/// Reads numbers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(count).ok().and_then(|count| self.0.split_at_checked(count));
        let (taken, rest) = split.ok_or_else(|| Error::Snapshot("it is cut short".into()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A list of numbers of N bytes, behind its length in bytes.
    fn numbers<const N: usize>(&mut self) -> Result<impl Iterator<Item = [u8; N]> + use<'a, N>> {
        let bytes = self.u64()?;
        let (numbers, rest) = self.take(bytes)?.as_chunks::<N>();
        match rest {
            [] => Ok(numbers.iter().copied()),
            _ => Err(Error::Snapshot("it contradicts itself".into())),
        }
    }
}
