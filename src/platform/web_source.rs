//! A source in a browser: whatever the package reads for us (`www/src/reader.ts`): ranges over the network, the cache
//! of downloads, a `Blob`, an `ArrayBuffer`, a `ReadableStream`.

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;

use crate::error::{Error, Result};
use crate::source::{LocalBoxFuture, RandomBytes, SequentialBytes, Source};

#[wasm_bindgen]
extern "C" {
    /// `Reader` in `www/src/reader.ts`.
    pub type Reader;
    #[wasm_bindgen(method, getter)]
    fn name(this: &Reader) -> String;
    /// Bytes in all, if that is known beforehand.
    #[wasm_bindgen(method, getter)]
    fn size(this: &Reader) -> Option<f64>;
    /// A `Uint8Array` of `length` bytes from `offset` on; shorter only where the bytes end.
    #[wasm_bindgen(method, catch)]
    async fn read(this: &Reader, offset: f64, length: f64) -> std::result::Result<JsValue, JsValue>;
}

/// The source that a reader stands for. One that does not know its size is read forwards only.
pub fn source(reader: Reader) -> Source {
    let name = reader.name();
    match reader.size() {
        Some(size) => Source::random(name, size as u64, Box::new(reader)),
        None => Source::sequential(name, None, Box::new(Forwards { reader, position: 0 })),
    }
}

impl Reader {
    async fn bytes(&self, offset: u64, length: usize) -> Result<Uint8Array> {
        let failed = |reason: String| Error::Read { what: self.name(), reason };
        let bytes = self.read(offset as f64, length as f64).await.map_err(|error| failed(message(&error)))?;
        bytes.dyn_into().map_err(|_| failed("it does not consist of bytes".into()))
    }
}

impl RandomBytes for Reader {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let bytes = self.bytes(offset, buf.len()).await?;
            if bytes.length() as usize != buf.len() {
                let reason = format!("it ends at byte {}", offset + u64::from(bytes.length()));
                return Err(Error::Read { what: self.name(), reason });
            }
            bytes.copy_to(buf);
            Ok(())
        })
    }
}

/// Bytes asked for at once where nobody knows how many there are.
const CHUNK_BYTES: usize = 1 << 20;

struct Forwards {
    reader: Reader,
    /// Offset of the next byte.
    position: u64,
}

impl SequentialBytes for Forwards {
    fn next(&mut self) -> LocalBoxFuture<'_, Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let bytes = self.reader.bytes(self.position, CHUNK_BYTES).await?.to_vec();
            self.position += bytes.len() as u64;
            Ok((!bytes.is_empty()).then_some(bytes))
        })
    }
}

fn message(error: &JsValue) -> String {
    error.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{error:?}"), |error| String::from(error.message()))
}
