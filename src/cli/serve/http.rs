//! One request of a browser: GET and HEAD of files, whole or in part (RFC 9110), and the connection ends.
//!
//! Browsers keep what they got and ask each time whether it is still the same. Pages elsewhere on this machine may read everything;
//! nobody who comes by another name of this machine gets anything.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use httparse::{EMPTY_HEADER, Request, Status};

/// So long a connection may say nothing: browsers open some ahead.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of a request without its body, and most header lines; browsers need a tenth of it.
const MOST_BYTES: usize = 16 << 10;
const MOST_HEADERS: usize = 100;

/// A status and what goes with it.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Box<dyn Read>,
    bytes: u64,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self { status, headers: vec![], body: Box::new(io::empty()), bytes: 0 }
    }

    /// With some words.
    fn text(status: &'static str, text: &'static str) -> Self {
        let headers = vec![("Content-Type", "text/plain; charset=utf-8".into())];
        Self { headers, body: Box::new(text.as_bytes()), bytes: text.len() as u64, ..Self::new(status) }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// `is_head`: without the body.
    fn write(mut self, stream: &TcpStream, is_head: bool) -> io::Result<()> {
        let mut out = BufWriter::new(stream);
        write!(out, "HTTP/1.1 {}\r\nConnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if self.status != NOT_MODIFIED {
            write!(out, "Content-Length: {}\r\n", self.bytes)?;
        }
        out.write_all(b"\r\n")?;
        if !is_head {
            io::copy(&mut self.body, &mut out)?;
        }
        out.flush()
    }
}

const NOT_MODIFIED: &str = "304 Not Modified";

/// Reads a request and answers it; `file` finds what is at an address. Errors are those of a client that went away.
pub(super) fn answer(mut stream: TcpStream, file: impl Fn(&str) -> Option<PathBuf>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(None)?; // a download may be paused
    let (mut bytes, mut piece) = (Vec::new(), [0; 2048]);
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(()); // opened ahead, and not needed
        }
        bytes.extend(&piece[..count]);
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut request = Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(Status::Partial) if bytes.len() < MOST_BYTES => {}
            Ok(Status::Complete(_)) => break to(&request, file).write(&stream, request.method == Some("HEAD"))?,
            _ => break Answer::text("400 Bad Request", "not a request\n").write(&stream, false)?,
        }
    }
    // With something unread the system would end the connection at once, and the client might not see the answer.
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream.take(MOST_BYTES as u64), &mut io::sink()).map(|_| ())
}

fn header<'a>(request: &Request<'_, 'a>, name: &str) -> Option<&'a str> {
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// The answer to a request.
fn to(request: &Request<'_, '_>, file: impl Fn(&str) -> Option<PathBuf>) -> Answer {
    // A page elsewhere whose name is made to lead here would be let in by the browser.
    if !header(request, "Host").is_none_or(is_name_of_here) {
        return Answer::text("403 Forbidden", "served as 127.0.0.1 and localhost alone\n");
    }
    if !matches!(request.method, Some("GET" | "HEAD")) {
        return Answer::text("405 Method Not Allowed", "GET and HEAD alone\n").with("Allow", "GET, HEAD");
    }
    let found = request.path.and_then(file).and_then(|path| Some((File::open(&path).ok()?, path)));
    let answer = found.and_then(|(file, path)| of_file(request, file, &path).ok());
    let answer = answer.unwrap_or_else(|| Answer::text("404 Not Found", "not found\n")).with("Vary", "Origin");
    match header(request, "Origin").filter(|origin| is_origin_here(origin)) {
        Some(origin) => answer.with("Access-Control-Allow-Origin", origin),
        None => answer,
    }
}

/// A file, the part of it that is wanted, or that it is still the same.
fn of_file(request: &Request<'_, '_>, mut file: File, path: &Path) -> io::Result<Answer> {
    let metadata = file.metadata()?;
    let (size, tag) = (metadata.len(), tag(&metadata));
    let new = |status| {
        let answer = Answer::new(status).with("Content-Type", content_type(path)).with("ETag", tag.clone());
        answer.with("Cache-Control", "no-cache").with("Accept-Ranges", "bytes") // kept, but asked for every time
    };
    let is_known =
        |tags: &str| tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    if header(request, "If-None-Match").is_some_and(is_known) {
        return Ok(new(NOT_MODIFIED));
    }
    let is_same = header(request, "If-Range").is_none_or(|known| known == tag);
    let wanted = header(request, "Range").filter(|_| is_same).and_then(|range| wanted(range, size));
    let (answer, part) = match wanted {
        None => (new("200 OK"), 0..size),
        Some(part) if part.is_empty() => {
            return Ok(new("416 Range Not Satisfiable").with("Content-Range", format!("bytes */{size}")));
        }
        Some(part) => {
            let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            (new("206 Partial Content").with("Content-Range", range), part)
        }
    };
    file.seek(SeekFrom::Start(part.start))?;
    let bytes = part.end - part.start;
    Ok(Answer { body: Box::new(file.take(bytes)), bytes, ..answer })
}

/// Names a file's content, as far as its size and time do.
fn tag(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("\"{:x}-{:x}\"", metadata.len(), modified.unwrap_or_default().as_nanos())
}

/// The bytes of a file that a `Range` asks for: empty if there are none; `None` if it is to be overlooked: other units, several
/// parts, nonsense.
fn wanted(range: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => Some(size.saturating_sub(last.parse().ok()?)..size),
        (first, "") => Some(first.parse().ok()?..size),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| first..last.saturating_add(1).min(size))
        }
    }
}

/// By its ending.
fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream", // models
    }
}

/// Whether a host, with or without a port, is this machine by the names that only it has.
fn is_name_of_here(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost"].contains(&name)
}

fn is_origin_here(origin: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme).is_some_and(is_name_of_here))
}
