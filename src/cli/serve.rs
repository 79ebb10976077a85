//! `sinkstream serve`: the demo page on 127.0.0.1, and a model for it.
//!
//! The headers are those of Vite's preview server, with which `make demo` shows the page; here, what is not there is not found.

mod http;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use sinkstream::gguf::Gguf;
use sinkstream::{Error, Result, Source};

use super::args::{ModelArgs, RUN, RunArgs, unlisted};
use super::{Outcome, interrupted, print_json, print_line};

/// The first one that is tried, and how many more are.
const PORT: u16 = 8080;
const MORE_PORTS: u16 = 20;

/// Where the page finds the model of `--model`.
const MODEL: &str = "model.gguf";

/// How soon Ctrl-C is heard.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Args)]
#[command(mut_args(unlisted(RUN)), mut_args(unlisted(&["quant"])))]
#[command(mut_arg("model", |flag| flag.value_name("FILE").help("GGUF file for the page; the page's own if not given")))]
#[command(mut_arg("quiet", |flag| flag.hide(false)))]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Port; 0: any free one [default: 8080, or the next free one]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let site = Site { folder: find_site()?, model: model(&args.model)? };
    let listener = listen(args.port)?;
    let port = listener.local_addr()?.port();
    let query = if site.model.is_some() { format!("?model={MODEL}") } else { String::new() };
    let address = format!("http://127.0.0.1:{port}/{query}");
    match args.run.json {
        true => print_json(&json!({ "address": address, "port": port, "site": site.folder, "model": site.model }))?,
        false => print_line(&address)?,
    }
    if !args.run.quiet {
        eprintln!("sinkstream: serving {}; Ctrl-C ends it", site.folder.display());
    }
    let site = Arc::new(site);
    // It waits for connections until the program ends; this thread waits for Ctrl-C.
    std::thread::spawn(move || accept(&site, &listener));
    while !interrupted() {
        std::thread::sleep(PATIENCE);
    }
    Ok(())
}

/// Gives every connection a thread of its own: one who reads slowly keeps nobody waiting.
fn accept(site: &Arc<Site>, listener: &TcpListener) {
    for connection in listener.incoming() {
        let site = Arc::clone(site);
        let started = connection.and_then(|connection| {
            std::thread::Builder::new().spawn(move || http::answer(connection, |address| site.file(address)))
        });
        if started.is_err() {
            std::thread::sleep(PATIENCE); // too many at once: there will be fewer
        }
    }
}

/// The folder `www/site` with the page in it: here, beside the program, or in a folder above either.
fn find_site() -> Result<PathBuf> {
    let (here, program) = (std::env::current_dir(), std::env::current_exe().and_then(|path| path.canonicalize()));
    let starts = [here.ok(), program.ok()];
    let folders = starts.iter().flatten().flat_map(|start| start.ancestors()).map(|folder| folder.join("www/site"));
    let site = folders.filter(|site| site.join("index.html").is_file()).find_map(|site| site.canonicalize().ok());
    site.ok_or_else(|| {
        Error::Settings(
            "the demo page is not built: run `make demo`, or `npm ci && npm run build` in the project's folder www"
                .into(),
        )
    })
}

/// The file of `--model`, if it is a GGUF file.
fn model(args: &ModelArgs) -> Result<Option<PathBuf>> {
    let Some(path) = &args.model else { return Ok(None) };
    if path.is_dir() {
        let what = path.display();
        return Err(Error::Settings(format!(
            "{what} is a folder, the page wants a file: run `sinkstream convert {what} FILE.gguf`"
        )));
    }
    pollster::block_on(Gguf::read(&mut Source::open(path)?))?;
    Ok(Some(path.clone()))
}

/// The port wanted, or the first free one. On 127.0.0.1: nobody else gets at it.
fn listen(port: Option<u16>) -> Result<TcpListener> {
    let (first, last) = port.map_or((PORT, PORT + MORE_PORTS), |port| (port, port));
    let mut tries = (first..=last).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let found = tries.find(|found| !matches!(found, Err(error) if error.kind() == io::ErrorKind::AddrInUse));
    let taken = || Err(io::Error::from(io::ErrorKind::AddrInUse));
    found.unwrap_or_else(taken).map_err(|error| {
        Error::Settings(format!("cannot listen on 127.0.0.1, port {first}: {error}; --port 0 takes any free one"))
    })
}

/// What there is to have.
struct Site {
    /// The page, without links on the way.
    folder: PathBuf,
    model: Option<PathBuf>,
}

impl Site {
    /// The file at an address, if it is in the folder.
    fn file(&self, address: &str) -> Option<PathBuf> {
        let path = address.split(['?', '#']).next()?.strip_prefix('/')?;
        if path == MODEL {
            return self.model.clone();
        }
        let path = if path.is_empty() { "index.html" } else { path };
        let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        let file = self.folder.join(path).canonicalize().ok().filter(|_| is_plain)?;
        (file.starts_with(&self.folder) && file.is_file()).then_some(file)
    }
}
