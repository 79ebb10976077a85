//! Conversations: what goes into the stream, and the command `sinkstream chat`.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/gguf_writer.rs"]
#[allow(dead_code, reason = "the writer serves other tests too")]
mod gguf_writer;

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gguf_writer::GgufWriter;
use pollster::block_on;
use serde_json::Value as Json;
use sinkstream::chat::Wishes;
use sinkstream::engine::{Device, Engine, Settings};
use sinkstream::gguf::{ArrayValue, Value};
use sinkstream::tokenizer::Special;
use sinkstream::{Chat, Message, Sampling, Session, Source};

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const IM_START: u32 = 259;
const IM_END: u32 = 260;

/// A random llama of one layer over bytes, with the two tokens of `ChatML`. About every fifth token is `<|im_end|>`.
fn tiny_model(template: &str) -> Vec<u8> {
    const DIM: usize = 32;
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=0xFF_u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(String::from));
    let vocab = tokens.len();
    let kinds = [vec![2, 3, 3], vec![6; 256], vec![3, 3]].concat();
    let mut seed = 1_u32;
    let mut random = |count: usize, size: f32| -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(seed) / f64::from(u32::MAX) - 0.5) as f32 * 2.0 * size
        };
        (0..count).map(|_| next()).collect()
    };
    let mut embedding = random(vocab * DIM, 1.0);
    embedding.chunks_mut(DIM).for_each(|row| row[0] = 2.0); // a part of every token: what `<|im_end|>` rests on
    let mut output = random(vocab * DIM, 0.7);
    output[IM_END as usize * DIM..][..DIM].fill(0.0);
    output[IM_END as usize * DIM] = 2.2;
    let text = |text: &str| Value::String(text.into());
    let mut writer = GgufWriter::new()
        .set("general.architecture", text("llama"))
        .set("llama.block_count", Value::U32(1))
        .set("llama.context_length", Value::U32(512))
        .set("llama.embedding_length", Value::U32(DIM as u32))
        .set("llama.feed_forward_length", Value::U32(DIM as u32))
        .set("llama.attention.head_count", Value::U32(2))
        .set("tokenizer.ggml.model", text("llama"))
        .set("tokenizer.ggml.scores", Value::Array(ArrayValue::F32(vec![0.0; vocab])))
        .set("tokenizer.ggml.tokens", Value::Array(ArrayValue::String(tokens)))
        .set("tokenizer.ggml.token_type", Value::Array(ArrayValue::I32(kinds)))
        .set("tokenizer.ggml.eos_token_id", Value::U32(IM_END))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .set("tokenizer.ggml.add_space_prefix", Value::Bool(false))
        .set("tokenizer.chat_template", text(template));
    let mut add = |name: &str, rows: usize, data: Vec<f32>| {
        let shape: &[u64] = if rows == 1 { &[DIM as u64] } else { &[DIM as u64, rows as u64] };
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer = std::mem::replace(&mut writer, GgufWriter::new()).tensor(name, 0, shape, &bytes);
    };
    add("token_embd.weight", vocab, embedding);
    add("output.weight", vocab, output);
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        add(&format!("{name}.weight"), 1, vec![1.0; DIM]);
    }
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        add(&format!("blk.0.{name}.weight"), DIM, random(DIM * DIM, 0.2));
    }
    writer.finish()
}

fn load(template: &str, window: u32) -> Engine {
    let settings = Settings { device: Device::Cpu, sinks: Some(2), window: Some(window), ..Settings::default() };
    block_on(Engine::load(Source::memory("tiny", tiny_model(template)), &settings, &mut |_| {})).unwrap()
}

/// An answer of at most 12 tokens, up to an end token.
fn answer(engine: &mut Engine, session: &mut Session, seed: u32) -> Vec<u32> {
    let tokenizer = engine.tokenizer().unwrap();
    let mut ids = vec![];
    let deliver = |id| {
        ids.push(id);
        if tokenizer.is_end(id) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    block_on(session.generate(engine, &sampling, 12, deliver)).unwrap();
    ids
}

#[test]
fn every_token_of_a_conversation_is_in_the_stream_once() {
    let mut engine = load(CHATML, 500);
    let tokenizer = engine.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, Special::Parse).unwrap();
    assert_eq!(encode("<|im_start|>a<|im_end|>"), [IM_START, 3 + u32::from(b'a'), IM_END]);
    let wishes = Wishes { initial: vec![Message::new("system", "Be brief.")], ..Wishes::default() };
    let mut chat = Chat::new(engine.chat_template().unwrap(), wishes);
    let mut session = engine.session();
    let mut stream = encode("<|im_start|>system\nBe brief.<|im_end|>\n");
    // They are there before the first question, and a saved conversation knows that.
    block_on(chat.open(&mut engine, &mut session)).unwrap();
    assert_eq!(session.position(), stream.len() as u64);
    let state = chat.state();
    chat.reset();
    chat.resume(&state);
    let (mut ended, mut cut) = (0, 0);
    for (n, question) in ["Hello", "<|im_start|>", "ä\n", "4", "5", "6"].into_iter().enumerate() {
        block_on(chat.ask(&mut engine, &mut session, question)).unwrap();
        stream.extend(encode(&format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")));
        assert_eq!(session.position(), stream.len() as u64, "question {n}");
        let ids = answer(&mut engine, &mut session, n as u32);
        stream.extend(&ids);
        match stream.last() {
            Some(&IM_END) => ended += 1,
            // What the model did not say is written for it, and an end token of another kind gives way to it.
            _ => {
                cut += 1;
                block_on(session.append(&mut engine, &[2])).unwrap();
                stream.push(IM_END);
            }
        }
        stream.extend(encode("\n"));
    }
    assert!(ended > 0 && cut > 0, "{ended} answers ended, {cut} were cut");
    block_on(chat.ask(&mut engine, &mut session, "Last")).unwrap();
    stream.extend(encode("<|im_start|>user\nLast<|im_end|>\n<|im_start|>assistant\n"));
    assert_eq!(session.position(), stream.len() as u64);
    let wanted = answer(&mut engine, &mut session, 99);
    let logits = block_on(engine.read_floats("logits")).unwrap();
    let mut fresh = engine.session();
    block_on(fresh.append(&mut engine, &stream)).unwrap();
    assert_eq!(answer(&mut engine, &mut fresh, 99), wanted);
    let of_fresh = block_on(engine.read_floats("logits")).unwrap();
    let largest = logits.iter().zip(&of_fresh).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-2, "logits differ by {largest}");
}

#[test]
fn examples_are_pinned_with_the_system_prompt_and_what_is_told_wants_no_answer() {
    let mut engine = load(CHATML, 300);
    let tokenizer = engine.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, Special::Parse).unwrap();
    let initial = vec![Message::new("system", "S"), Message::new("user", "2 + 2?"), Message::new("assistant", "4")];
    let wishes = Wishes { initial, pin_initial: true, ..Wishes::default() };
    let mut chat = Chat::new(engine.chat_template().unwrap(), wishes);
    let mut session = engine.session();
    let said = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let opening = said("system", "S") + &said("user", "2 + 2?") + &said("assistant", "4");
    let mut stream = opening.clone();
    for (n, (text, wants_answer)) in
        [("a", false), ("b", false), ("c", true), ("d", false), ("e", true)].into_iter().enumerate()
    {
        if n == 3 {
            // The answer to c, and its end.
            block_on(session.append(&mut engine, &encode("x<|im_end|>"))).unwrap();
            stream += "x<|im_end|>\n";
        }
        match wants_answer {
            true => block_on(chat.ask(&mut engine, &mut session, text)).unwrap(),
            false => block_on(chat.tell(&mut engine, &mut session, text)).unwrap(),
        }
        stream += &said("user", text);
        stream += if wants_answer { "<|im_start|>assistant\n" } else { "" };
        assert_eq!(session.position(), encode(&stream).len() as u64, "{text}");
        assert_eq!(session.sinks() as usize, encode(&opening).len());
        if n == 1 {
            // A saved conversation knows that it waits for no answer.
            let state = chat.state();
            chat.reset();
            chat.resume(&state);
        }
    }
    let wanted = answer(&mut engine, &mut session, 7);
    let mut fresh = engine.session();
    fresh.pin(encode(&opening).len() as u32).unwrap();
    block_on(fresh.append(&mut engine, &encode(&stream))).unwrap();
    assert_eq!(answer(&mut engine, &mut fresh, 7), wanted);
}

#[test]
fn what_was_said_before_is_there_at_once_and_no_question_changes_it() {
    let mut engine = load(CHATML, 300);
    let tokenizer = engine.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode(text, Special::Parse).unwrap();
    let initial = vec![Message::new("system", "S")];
    let history = vec![Message::new("user", "2 + 2?"), Message::new("assistant", "4")];
    let wishes = Wishes { initial, pin_initial: true, history, ..Wishes::default() };
    let said = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let past = said("system", "S") + &said("user", "2 + 2?") + &said("assistant", "4");
    for (question, is_open) in [("A", true), ("B", true), ("\n", true), ("Another", true), ("A", false)] {
        let mut chat = Chat::new(engine.chat_template().unwrap(), wishes.clone());
        let mut session = engine.session();
        if is_open {
            block_on(chat.open(&mut engine, &mut session)).unwrap();
            assert_eq!(session.position() as usize, encode(&(past.clone() + "<|im_start|>user\n")).len());
        }
        assert_eq!(session.sinks() as usize, if is_open { encode(&said("system", "S")).len() } else { 2 });
        block_on(chat.ask(&mut engine, &mut session, question)).unwrap();
        let stream = encode(&(past.clone() + &said("user", question) + "<|im_start|>assistant\n"));
        assert_eq!(session.position() as usize, stream.len(), "{question:?}");
        assert_eq!(session.sinks() as usize, encode(&said("system", "S")).len());
        let wanted = answer(&mut engine, &mut session, 7);
        let mut fresh = engine.session();
        fresh.pin(session.sinks()).unwrap();
        block_on(fresh.append(&mut engine, &stream)).unwrap();
        assert_eq!(answer(&mut engine, &mut fresh, 7), wanted, "{question:?}");
    }
}

#[test]
fn a_pinned_system_prompt_outlives_its_window() {
    for (pin_system, evict_turns) in [(true, false), (true, true), (false, true)] {
        let mut engine = load(CHATML, 98);
        let initial = vec![Message::new("system", "Pinned-up-prompt")];
        let wishes = Wishes { initial, pin_initial: pin_system, evict_turns, ..Wishes::default() };
        let mut chat = Chat::new(engine.chat_template().unwrap(), wishes);
        let mut session = engine.session();
        let mut jumps = 0;
        for n in 0..20 {
            let before = session.evicted();
            block_on(chat.ask(&mut engine, &mut session, "question")).unwrap();
            answer(&mut engine, &mut session, n);
            jumps += u32::from(session.cached() < 101 && session.evicted() > before);
        }
        // A token for each byte: `<|im_start|>system\n` + 16 letters + `<|im_end|>\n`
        let head = 1 + 7 + 16 + 2;
        assert_eq!(session.sinks(), if pin_system { head } else { 2 });
        assert_eq!(session.sinks() + session.window(), 100, "the cache keeps its size");
        assert!(session.evicted() > 100);
        assert_eq!(chat.initial_in_place(&session), Some(pin_system));
        assert_eq!(jumps > 5, evict_turns, "{jumps} turns left");
    }
    let mut engine = load(CHATML, 20);
    let initial = vec![Message::new("system", "Longer-than-the-cache.")];
    let wishes = Wishes { initial, pin_initial: true, ..Wishes::default() };
    let mut chat = Chat::new(engine.chat_template().unwrap(), wishes);
    let mut session = engine.session();
    let asked = block_on(chat.ask(&mut engine, &mut session, "x")).unwrap_err().to_string();
    assert_eq!(asked, "32 tokens are to be pinned in a cache of 22: they must leave room for a window");
    let opened = block_on(chat.open(&mut engine, &mut session)).unwrap_err().to_string();
    assert_eq!(opened, asked);
}

/// A folder of this test's own that goes away with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sinkstream-chat-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn spawn(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sinkstream"));
    command.args(["chat", "--device", "cpu", "--seed", "3"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A conversation from these lines.
fn talk(args: &[&str], lines: &str) -> Output {
    let mut child = spawn(args);
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes()); // it may have ended already
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Reads standard error up to a line with this text.
fn line_with(lines: &mut impl Iterator<Item = std::io::Result<String>>, text: &str) -> String {
    lines.map(Result::unwrap).find(|line| line.contains(text)).unwrap_or_else(|| panic!("no line with {text}"))
}

/// Resident memory in KiB, where the system tells.
fn resident(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
}

#[test]
fn two_hundred_turns_leave_memory_flat_and_the_system_prompt_in_place() {
    let folder = Folder::new("long");
    let model = folder.file("chatml.gguf", &tiny_model(CHATML));
    let system = ["--system", "You are a kind old sailor.", "--pin-system", "--window", "511", "--sinks", "1"];
    // The bundled model is slow without optimisation: shorter answers.
    for (model, extra) in [(None, ["--evict", "token", "-n", "2"]), (Some(&model), ["--evict", "turn", "-n", "8"])] {
        let mut args = [&system[..], &extra].concat();
        args.extend(model.iter().flat_map(|model| ["--model", model]));
        let mut child = spawn(&args);
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![];
            output.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut ask = |input: &mut ChildStdin, upto: u32| {
            for n in 0..50 {
                writeln!(input, "And day {n}?").unwrap();
            }
            writeln!(input, "/stats").unwrap();
            line_with(&mut lines, &format!("turns {upto},"))
        };
        let number = |line: &str, name: &str| -> u64 {
            let at = line.find(name).unwrap() + name.len();
            line[at..].trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let mut seen = vec![];
        for turns in [50, 100, 150, 200] {
            let line = ask(&mut input, turns);
            assert!(line.contains("system prompt in place"), "{line}");
            let pinned = number(&line, "sinks pinned");
            assert!(pinned > 1 && pinned + number(&line, "window") == 512, "{line}");
            assert!(number(&line, "cached") <= 513, "{line}");
            seen.push((number(&line, "memory"), resident(&child), number(&line, "evicted")));
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        assert!(reader.join().unwrap().lines().count() >= 200, "an answer to every question");
        assert!(seen[3].2 > 1000, "the stream went far beyond the window: {seen:?}");
        assert_eq!(seen[0].0, seen[3].0, "the executor's memory");
        if let (Some(early), Some(late)) = (seen[1].1, seen[3].1) {
            assert!(late < early + 1024, "resident memory grew from {early} to {late} KiB");
        }
    }
}

#[test]
fn without_a_template_lines_are_plain_and_it_says_so() {
    let output = talk(&["-n", "8"], "Hello\n\n  \n/quit\nnever read\n");
    assert!(output.status.success());
    assert!(stderr(&output).contains("no chat template"), "{}", stderr(&output));
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.ends_with('\n') && answer.trim().len() > 3, "{answer:?}");
}

#[test]
fn a_conversation_goes_on_from_a_file() {
    let folder = Folder::new("save");
    let model = folder.file("chatml.gguf", &tiny_model(CHATML));
    let file = folder.path("kept");
    let args = ["--model", &model, "--json", "--system", "Be brief.", "--pin-system", "--quiet", "-n", "9"];
    let json = |lines: &str| -> Json {
        let output = talk(&args, lines);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = json(&format!("Hello\nMore\n/save {file}\nAnd now?\nGood\n/stats"));
    let rest = json(&format!("Something else\n/load {file}\nAnd now?\nGood\n"));
    assert_eq!(whole["turns"].as_array().unwrap()[2..], rest["turns"].as_array().unwrap()[1..]);
    for key in ["turns", "position", "evicted", "cached", "sinks", "window", "memory_bytes", "system_prompt_in_place"] {
        assert_eq!(whole["stats"][key], rest["stats"][key], "{key}");
    }
    assert_eq!(whole["stats"]["turns"], 4);
    assert_eq!((&whole["executor"], &whole["seed"]), (&Json::from("cpu"), &Json::from(3)));
    assert!(whole["turns"][0]["ids"].is_array() && whole["turns"][0]["stop_reason"].is_string());
    let left = std::fs::read_dir(&folder.0).unwrap().count();
    assert_eq!(left, 2, "no half-written file is left");

    let mut damaged = std::fs::read(&file).unwrap();
    damaged[100] ^= 1;
    let damaged = folder.file("damaged", &damaged);
    let begun =
        json(&format!("Hello\nMore\n/load {damaged}\n/load {}\n/save\n/dance\nAnd now?\n", folder.path("none")));
    assert_eq!(begun["turns"][2], whole["turns"][2], "what cannot be done leaves the conversation as it was");
    let output = talk(&args, &format!("Hello\n/load {damaged}\n/save /nonexistent/x\n/dance\n"));
    let lines = stderr(&output);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    for words in ["damaged", "cannot write /nonexistent/x", "/dance"] {
        assert!(lines.contains(words), "{lines}");
    }
    let anew = json("Hello\n/reset\nHello\n");
    assert_eq!(anew["turns"][0], anew["turns"][1], "a conversation begun anew");
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let folder = Folder::new("refused");
    let model = folder.file("model.gguf", &tiny_model("{{ messages | frobnicate }}"));
    let broken = folder.file("broken.gguf", &tiny_model("{% for %}"));
    for (args, code, word) in [
        (&["--model", &model, "--quiet"][..], 1, "unknown filter"),
        (&["--model", &broken, "--quiet"], 1, "syntax error"),
        (&["--pin-system"], 2, "--system"),
        (&["--pin-system", "--system", "x", "--attention", "window"], 2, "--pin-system"),
        (&["--evict", "turn", "--attention", "dense"], 2, "--evict turn"),
        (&["--temperature", "-1"], 2, "temperature"),
    ] {
        let output = talk(args, "Hello\n");
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
        assert!(line.contains(word) && !line.contains("panicked"), "{args:?}: {line}");
        assert!(code == 2 || line.lines().count() == 1, "{line}");
    }
}

#[test]
fn ctrl_c_stops_an_answer_first_and_then_the_program() {
    let mut child = spawn(&["--window", "40"]);
    let interrupt = |child: &Child| Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    line_with(&mut lines, "no chat template");
    writeln!(input, "Once upon a time").unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap(); // it answers
    interrupt(&child);
    writeln!(input, "/stats").unwrap();
    line_with(&mut lines, "turns 1,");
    assert_eq!(child.try_wait().unwrap(), None, "it goes on");
    interrupt(&child);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
