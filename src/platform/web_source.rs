//! Sources that only a browser has: an address, a `Blob`, an `ArrayBuffer`, a `ReadableStream`.

use std::collections::VecDeque;

use gloo_net::http::{Request, Response};
use gloo_timers::future::TimeoutFuture;
use js_sys::{ArrayBuffer, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Blob, ReadableStream, ReadableStreamDefaultReader};

use crate::error::{Error, Result};
use crate::source::{LocalBoxFuture, RandomBytes, SequentialBytes, Source};

/// The source that a JavaScript value stands for.
///
/// # Errors
/// [`Error::Read`] if an address cannot be fetched, [`Error::Settings`] for a value of another kind.
pub async fn source(model: &JsValue) -> Result<Source> {
    if let Some(url) = model.as_string() {
        return fetch(url).await;
    }
    if let Some(blob) = model.dyn_ref::<Blob>() {
        return Ok(Source::random("the file", blob.size() as u64, Box::new(FileBytes(blob.clone()))));
    }
    if let Some(buffer) = model.dyn_ref::<ArrayBuffer>() {
        let bytes = Uint8Array::new(buffer);
        return Ok(Source::random("the buffer", u64::from(bytes.length()), Box::new(ArrayBytes(bytes))));
    }
    if let Some(stream) = model.dyn_ref::<ReadableStream>() {
        return Ok(Source::sequential("the stream", None, Box::new(Chunks::new("the stream", stream)?)));
    }
    Err(Error::Settings("model: not an address, a Blob, an ArrayBuffer or a ReadableStream".into()))
}

/// Bytes in JavaScript's memory: only what is asked for comes into ours.
struct ArrayBytes(Uint8Array);

impl RandomBytes for ArrayBytes {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        let begin = offset as u32; // fits: the range lies within the array
        self.0.subarray(begin, begin + buf.len() as u32).copy_to(buf);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A file of the user's.
struct FileBytes(Blob);

impl RandomBytes for FileBytes {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let failed = |error| read_error("the file", &error);
            let end = offset + buf.len() as u64;
            let part = self.0.slice_with_f64_and_f64(offset as f64, end as f64).map_err(failed)?;
            let bytes = Uint8Array::new(&JsFuture::from(part.array_buffer()).await.map_err(failed)?);
            bytes.copy_to(buf);
            Ok(())
        })
    }
}

/// A stream, chunk by chunk. Dropping it cancels it.
struct Chunks {
    name: String,
    reader: ReadableStreamDefaultReader,
}

impl Chunks {
    fn new(name: &str, stream: &ReadableStream) -> Result<Self> {
        let reader = stream.get_reader().dyn_into().map_err(|reader| read_error(name, &reader))?;
        Ok(Self { name: name.into(), reader })
    }

    async fn chunk(&self) -> Result<Option<Uint8Array>> {
        let failed = |error| read_error(&self.name, &error);
        let result = JsFuture::from(self.reader.read()).await.map_err(failed)?;
        if Reflect::get(&result, &"done".into()).map_err(failed)?.is_truthy() {
            return Ok(None);
        }
        let value = Reflect::get(&result, &"value".into()).map_err(failed)?;
        let bytes = value
            .dyn_into()
            .map_err(|_| Error::Read { what: self.name.clone(), reason: "it does not consist of bytes".into() })?;
        Ok(Some(bytes))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let cancelled = JsFuture::from(self.reader.cancel());
        // A stream that had already failed fails here again: nobody needs to know.
        spawn_local(async move { drop(cancelled.await) });
    }
}

impl SequentialBytes for Chunks {
    fn next(&mut self) -> LocalBoxFuture<'_, Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok(self.chunk().await?.map(|bytes| bytes.to_vec())) })
    }
}

/// What lies so little ahead in a response is read and thrown away rather than asked for anew.
const SKIP_BYTES: u64 = 1 << 20;
/// So many attempts in a row that bring no byte make a download fail …
const ATTEMPTS: u32 = 4;
/// … with pauses between them of twice this, doubled each time.
const PAUSE_MS: u32 = 250;

/// So many bytes that have been read are kept: the header is read ahead, and the tensors begin before that ends.
const KEPT_BYTES: u64 = 4 << 20;

/// Bytes of an address that answers range requests. One response is read on for as long as the offsets go forwards:
/// loading a whole model is one request. A broken response is taken up where it broke.
struct Ranges {
    url: String,
    etag: Option<String>,
    response: Option<Chunks>,
    /// The last chunks that came, each with its offset in the file; they follow on each other.
    recent: VecDeque<(u64, Uint8Array)>,
    /// Offset of the next byte that comes.
    end: u64,
}

/// Asks for everything at first; what the server answers decides what kind of source it is.
async fn fetch(url: String) -> Result<Source> {
    let response = request(&url, 0).await?;
    let body = body(&url, &response)?;
    if response.status() != 206 {
        let length = announced(&response).filter(|_| is_plain(&response));
        return Ok(Source::sequential(url, length, Box::new(body)));
    }
    let total = response.headers().get("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
    let Some(total) = total.or_else(|| announced(&response)) else {
        return Ok(Source::sequential(url, None, Box::new(body)));
    };
    let etag = response.headers().get("etag");
    let ranges = Ranges { url: url.clone(), etag, response: Some(body), recent: VecDeque::new(), end: 0 };
    Ok(Source::random(url, total, Box::new(ranges)))
}

/// Everything from `offset` on.
async fn request(url: &str, offset: u64) -> Result<Response> {
    let response = Request::get(url).header("range", &format!("bytes={offset}-")).send().await;
    let response = response.map_err(|error| Error::Read { what: url.into(), reason: error.to_string() })?;
    match response.ok() {
        true => Ok(response),
        false => Err(Error::Read {
            what: url.into(),
            reason: format!("HTTP {} {}", response.status(), response.status_text()),
        }),
    }
}

fn body(url: &str, response: &Response) -> Result<Chunks> {
    let stream =
        response.body().ok_or_else(|| Error::Read { what: url.into(), reason: "the answer is empty".into() })?;
    Chunks::new(url, &stream)
}

/// `Content-Length`.
fn announced(response: &Response) -> Option<u64> {
    response.headers().get("content-length")?.parse().ok()
}

/// Whether the length announced is that of the bytes that we get: not if they were compressed on the way, and a server
/// elsewhere may hide that.
fn is_plain(response: &Response) -> bool {
    response.type_() == web_sys::ResponseType::Basic && response.headers().get("content-encoding").is_none()
}

impl RandomBytes for Ranges {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (mut filled, mut failures) = (0, 0);
            loop {
                let before = filled;
                let Err(error) = self.fill(offset, buf, &mut filled).await else { return Ok(()) };
                self.response = None;
                failures = if filled > before { 1 } else { failures + 1 };
                if failures == ATTEMPTS {
                    return Err(error);
                }
                TimeoutFuture::new(PAUSE_MS << failures).await;
            }
        })
    }
}

impl Ranges {
    /// Fills `buf` from `filled` on, which counts what has come also when the rest does not.
    async fn fill(&mut self, offset: u64, buf: &mut [u8], filled: &mut usize) -> Result<()> {
        while *filled < buf.len() {
            let wanted = offset + *filled as u64;
            let holds =
                |(start, chunk): &&(u64, Uint8Array)| (*start..start + u64::from(chunk.length())).contains(&wanted);
            if let Some((start, chunk)) = self.recent.iter().find(holds) {
                let from = (wanted - start) as u32;
                let rest = u32::try_from(buf.len() - *filled).unwrap_or(u32::MAX);
                let taken = rest.min(chunk.length() - from);
                chunk.subarray(from, from + taken).copy_to(&mut buf[*filled..][..taken as usize]);
                *filled += taken as usize;
                continue;
            }
            let is_near = self.end <= wanted && wanted - self.end <= SKIP_BYTES;
            let response = match self.response.take() {
                Some(response) if is_near => response,
                _ => self.reopen(wanted).await?,
            };
            let ended =
                || Error::Read { what: self.url.clone(), reason: format!("the answer ends at byte {}", self.end) };
            let chunk = response.chunk().await?.ok_or_else(ended)?;
            self.response = Some(response);
            self.keep(chunk);
        }
        Ok(())
    }

    /// Keeps a chunk that has come, and drops what is too far behind.
    fn keep(&mut self, chunk: Uint8Array) {
        let start = self.end;
        self.end += u64::from(chunk.length());
        self.recent.push_back((start, chunk));
        while self.recent.get(1).is_some_and(|(second, _)| self.end - second > KEPT_BYTES) {
            self.recent.pop_front();
        }
    }

    /// A new response that begins at `offset`.
    async fn reopen(&mut self, offset: u64) -> Result<Chunks> {
        let failed = |reason: &str| Error::Read { what: self.url.clone(), reason: reason.into() };
        let response = request(&self.url, offset).await?;
        if response.status() != 206 {
            return Err(failed("the server answers ranges no more"));
        }
        if response.headers().get("etag") != self.etag {
            return Err(failed("the file changed while it was read"));
        }
        self.recent.clear();
        self.end = offset;
        body(&self.url, &response)
    }
}

fn read_error(what: &str, error: &JsValue) -> Error {
    let reason =
        error.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{error:?}"), |error| String::from(error.message()));
    Error::Read { what: what.into(), reason }
}
