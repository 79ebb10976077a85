//! `sinkstream serve`, as a browser meets it: a page of the test's own, over real connections to 127.0.0.1.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use support::{Folder, command, golden, wait};

/// A folder with a built page in it.
fn page(name: &str) -> Folder {
    let folder = Folder::new(name);
    fs::create_dir_all(folder.0.join("www/site/assets/empty")).unwrap();
    folder.file("www/site/index.html", b"<!doctype html><title>a page</title>");
    folder.file("www/site/assets/engine.wasm", b"\0asm\x01\0\0\0");
    folder.file("www/site/assets/page.js", "numbers();".repeat(9_000).as_bytes());
    folder.file("www/site/assets/model.gguf", &(0..200_000_u32).map(|n| (n * n) as u8).collect::<Vec<u8>>());
    folder.file("www/secret.txt", b"secret");
    folder
}

/// The command, in a folder.
fn serve(folder: &Folder, args: &[&str]) -> Command {
    let mut command = command(&[&["serve"], args].concat());
    command.current_dir(&folder.0);
    command
}

/// A running server; ended with the test.
struct Server {
    child: Child,
    /// What it printed.
    line: String,
    port: u16,
}

impl Server {
    fn start(folder: &Folder, args: &[&str]) -> Self {
        let mut child = serve(folder, args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let port = line.split("127.0.0.1:").nth(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
        let port = port.and_then(|port: String| port.parse().ok()).unwrap_or_else(|| panic!("no address: {line:?}"));
        Self { child, line, port }
    }

    /// A connection whose reads end.
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request as it stands and reads to the end of the connection.
    fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::new(&bytes)
    }

    /// GET, with more header lines.
    fn get(&self, address: &str, headers: &str) -> Answer {
        self.ask(&format!(
            "GET {address} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n{headers}\r\n",
            self.port
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

#[test]
fn the_page_comes_with_the_types_that_browsers_want() {
    let folder = page("serve-page");
    let server = Server::start(&folder, &["--port", "0"]);
    assert_eq!(server.line, format!("http://127.0.0.1:{}/\n", server.port));
    let types = [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/?device=cpu&seed=3", "index.html", "text/html; charset=utf-8"),
        ("/assets/engine.wasm", "assets/engine.wasm", "application/wasm"),
        ("/assets/page.js", "assets/page.js", "text/javascript; charset=utf-8"),
        ("/assets/model.gguf", "assets/model.gguf", "application/octet-stream"),
    ];
    for (address, file, content_type) in types {
        let answer = server.get(address, "");
        let wanted = fs::read(folder.0.join("www/site").join(file)).unwrap();
        assert!(answer.status == 200 && answer.body == wanted, "{address}: {}", answer.head);
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(
            answer.header("content-length"),
            Some(&wanted.len().to_string()[..]),
            "the page shows how much comes"
        );
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let head = server
            .ask(&format!("HEAD {address} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n", server.port));
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["content-type", "content-length", "etag", "accept-ranges"] {
            assert_eq!(head.header(name), answer.header(name), "{name}");
        }
        let again = server.get(address, &format!("If-None-Match: \"other\", {}\r\n", answer.header("etag").unwrap()));
        assert_eq!((again.status, again.body.len()), (304, 0), "kept by the browser");
    }
}

#[test]
fn parts_of_a_file_are_those_that_were_asked_for() {
    let folder = page("serve-ranges");
    let server = Server::start(&folder, &["--port", "0"]);
    let (address, file) = ("/assets/model.gguf", fs::read(folder.0.join("www/site/assets/model.gguf")).unwrap());
    let size = file.len();
    let etag = server.get(address, "").header("etag").unwrap().to_owned();
    for (range, first, last) in [
        ("bytes=0-9", 0, 9),
        ("bytes=65536-131071", 65_536, 131_071),
        ("bytes=199990-", 199_990, size - 1),
        ("bytes=199990-900000", 199_990, size - 1),
        ("bytes=-7", size - 7, size - 1),
        ("bytes=-900000", 0, size - 1),
    ] {
        let answer = server.get(address, &format!("Range: {range}\r\nIf-Range: {etag}\r\n"));
        assert!(answer.status == 206 && answer.body == file[first..=last], "{range}: {}", answer.head);
        assert_eq!(answer.header("content-range"), Some(&format!("bytes {first}-{last}/{size}")[..]));
        assert_eq!(answer.header("content-length"), Some(&(last + 1 - first).to_string()[..]));
        assert_eq!(answer.header("etag"), Some(&etag[..]));
    }
    for range in ["bytes=200000-", "bytes=900000-900001", "bytes=-0"] {
        let answer = server.get(address, &format!("Range: {range}\r\n"));
        assert_eq!((answer.status, answer.body.len()), (416, 0), "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */200000"));
    }
    for headers in [
        "Range: bytes=9-3\r\n",
        "Range: bytes=0-3,9-12\r\n",
        "Range: lines=0-3\r\n",
        "Range: bytes=a-b\r\n",
        "Range: bytes=0-9\r\nIf-Range: \"another version\"\r\n",
    ] {
        let answer = server.get(address, headers);
        assert_eq!((answer.status, answer.body == file), (200, true), "{headers}");
    }
}

#[test]
fn nothing_else_comes_and_to_nobody_else() {
    let folder = page("serve-refusals");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.0.join("www/secret.txt"), folder.0.join("www/site/link.txt")).unwrap();
    let server = Server::start(&folder, &["--port", "0"]);
    for address in [
        "/nothing.js",
        "/model.gguf", // without --model
        "/assets",
        "/assets/empty/",
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/./index.html",
        "/link.txt",
        "http://127.0.0.1/",
        "*",
    ] {
        let answer = server.get(address, "");
        assert_eq!(answer.status, 404, "{address}");
        assert_eq!(answer.body, b"not found\n", "{address}");
    }
    for address in ["/..\\secret.txt", "/\0", "/ /"] {
        let answer = server.get(address, "");
        assert!([400, 404].contains(&answer.status) && answer.body.len() < 20, "{address}: {answer:?}");
    }
    for request in
        ["hello\r\n\r\n", "GET /\r\n\r\n", "\x16\x03\x01", &format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000))]
    {
        assert_eq!(server.ask(request).status, 400, "{request:.20}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
        let answer = server.ask(&request);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // A name that somebody has made to lead here; and what may read from another page.
    let of = |host: &str| server.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).status;
    assert_eq!(
        [of("localhost"), of("127.0.0.1:1"), of("evil.example"), of("localhost.evil.example:80")],
        [200, 200, 403, 403]
    );
    let origin = |origin: &str| {
        let answer = server.get("/", &format!("Origin: {origin}\r\n"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(origin("http://localhost:5173"), Some("http://localhost:5173".into()));
    assert_eq!(
        [origin("https://evil.example"), origin("http://localhost.evil.example"), origin("null")],
        [None, None, None]
    );
}

#[test]
fn a_model_of_ones_own_is_where_the_page_looks_for_it() {
    let folder = page("serve-model");
    let model = golden("q8.gguf");
    let server = Server::start(&folder, &["--port", "0", "--model", &model]);
    assert_eq!(server.line, format!("http://127.0.0.1:{}/?model=model.gguf\n", server.port));
    let file = fs::read(&model).unwrap();
    assert!(server.get("/model.gguf", "").body == file);
    let part = server.get("/model.gguf", "Range: bytes=100-199\r\n");
    assert!(part.status == 206 && part.body == file[100..200], "{}", part.head);

    let report = Server::start(&folder, &["--port", "0", "--json", "--model", &model]).line.clone();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["address"], format!("http://127.0.0.1:{}/?model=model.gguf", report["port"]));
    assert!(Path::new(report["site"].as_str().unwrap()).ends_with("www/site"), "{report}");

    for (wrong, word) in
        [("no/such.gguf", "no/such.gguf"), ("www/secret.txt", "not a readable model file"), ("www", "convert")]
    {
        assert!(refused(&mut serve(&folder, &["--port", "0", "--model", wrong])).contains(word), "{wrong}");
    }
}

/// The one line of a run that must fail.
fn refused(command: &mut Command) -> String {
    let mut child = command.spawn().unwrap();
    assert_eq!(wait(&mut child), Some(1));
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("sinkstream: ") && line.lines().count() == 1, "{line}");
    line
}

#[test]
fn one_who_does_not_read_keeps_nobody_waiting() {
    let folder = page("serve-slow");
    fs::write(folder.0.join("www/site/assets/large.gguf"), vec![7; 32 << 20]).unwrap(); // more than sockets hold
    let server = Server::start(&folder, &["--port", "0"]);
    let mut idle: Vec<TcpStream> = (0..12).map(|_| server.connect()).collect();
    for stream in &mut idle {
        stream.write_all(b"GET /assets/large.gguf HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    let mut first = [0; 12];
    for stream in &mut idle {
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    assert_eq!(server.get("/", "").status, 200);
    assert_eq!(server.get("/assets/large.gguf", "").body.len(), 32 << 20);
}

#[test]
fn ctrl_c_ends_it_with_130() {
    let folder = page("serve-end");
    let mut server = Server::start(&folder, &["--port", "0"]);
    let _waiting = server.connect();
    Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap();
    assert_eq!(wait(&mut server.child), Some(130));
    let mut stderr = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.starts_with("sinkstream: serving ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_port_that_is_taken_is_said_and_without_a_wish_another_one_is_found() {
    let folder = page("serve-ports");
    let one = Server::start(&folder, &["--port", "0"]);
    let port = one.port.to_string();
    assert!(refused(&mut serve(&folder, &["--port", &port])).contains(&format!("port {port}")));
    let [first, second] = [&[][..], &["--quiet"]].map(|args| Server::start(&folder, args));
    assert!((8080..=8100).contains(&first.port) && first.port != second.port, "{} {}", first.port, second.port);
    assert_eq!(second.get("/", "").status, 200);
}

#[test]
fn without_a_page_it_says_how_to_build_one() {
    let folder = Folder::new("serve-nothing");
    let program = folder.0.join("sinkstream"); // away from the checkout, which may have a page
    let built = command(&[]).get_program().to_owned();
    fs::hard_link(&built, &program).or_else(|_| fs::copy(&built, &program).map(|_| ())).unwrap();
    let mut away = Command::new(&program);
    away.arg("serve").current_dir(&folder.0).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    assert!(refused(&mut away).contains("make demo"));
    // Beside the program it is found from anywhere.
    fs::create_dir_all(folder.0.join("www/site")).unwrap();
    folder.file("www/site/index.html", b"beside");
    let mut child = away.args(["--port", "0"]).current_dir(std::env::temp_dir()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("http://127.0.0.1:"), "{line}");
}
