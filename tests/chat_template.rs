//! Chat templates against the text that transformers makes of them: `tests/golden/make_chat.py`.
#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::Value;
use sinkstream::chat::Clock;
use sinkstream::{ChatTemplate, Error, Message};

fn golden() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn compile(golden: &Value, name: &str) -> ChatTemplate {
    let template = &golden["templates"][name];
    let text = |key: &str| template[key].as_str().unwrap();
    let clock = Clock::At(golden["now"].as_i64().unwrap());
    ChatTemplate::with_clock(text("source"), text("bos"), text("eos"), clock).unwrap()
}

fn message(pair: &Value) -> Message {
    Message::new(pair[0].as_str().unwrap(), pair[1].as_str().unwrap())
}

fn said(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

#[test]
fn texts_are_those_of_transformers() {
    let golden = golden();
    let (mut texts, mut errors, mut wrong) = (0, 0, vec![]);
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let got = compile(&golden, name).render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case["error"].as_str() {
            Some(wanted) => {
                errors += 1;
                let got = got.unwrap_err().to_string();
                assert_eq!(got, format!("the model's chat template: {wanted}"), "{name}");
            }
            None => {
                texts += 1;
                let wanted = case["text"].as_str().unwrap();
                if !matches!(&got, Ok(got) if got == wanted) {
                    wrong.push(format!("{name}\nwanted {wanted:?}\ngot    {got:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {texts}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(texts > 100 && errors > 20, "{texts} texts, {errors} errors");
}

/// The templates of conversations, and a system prompt that each of them takes.
const FAMILIES: [&str; 9] =
    ["llama-3", "qwen-2.5", "qwen-3", "phi-3", "mistral", "mistral-v3", "smollm-2", "gemma", "gemma-2"];

#[test]
fn turns_put_together_are_the_whole_conversation() {
    let golden = golden();
    for name in FAMILIES {
        let template = compile(&golden, name);
        let questions = ["Hello?", "  What is\n2 + 2? ", "A", "sink"];
        let mut messages = vec![];
        let mut stream = String::new();
        for (n, question) in questions.into_iter().enumerate() {
            messages.push(said("user", question));
            stream += &match n {
                0 => template.opening(&[], &messages, true).unwrap().text,
                _ => template.turn(question, true).unwrap().text,
            };
            assert_eq!(stream, template.render(&messages, true).unwrap(), "{name}, question {n}");
            let answer = ["Four.", "Yes, so it is: A", "No"][n % 3];
            // What a model writes behind its header; Mistral's are asked to begin with a space.
            stream += &if name == "mistral-v3" { format!(" {answer}") } else { answer.to_owned() };
            messages.push(said("assistant", answer));
        }
    }
}

#[test]
fn what_was_said_stays_where_a_template_would_write_the_past_anew() {
    let golden = golden();
    let template = compile(&golden, "qwen-3");
    let turn = template.turn("And now?", true).unwrap();
    assert_eq!(turn.text, "<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(&turn.text[..turn.head], "<|im_end|>\n", "the head closes the answer");
    let template = compile(&golden, "mistral-v3");
    let opening = template.opening(&[said("system", "Be brief.")], &[said("user", "Hello")], true).unwrap();
    assert_eq!(opening.text, "<s>[INST] Be brief.\n\nHello[/INST]");
    assert_eq!(template.turn("More", true).unwrap().text, "</s>[INST] More[/INST]", "the system prompt comes once");
}

#[test]
fn the_head_of_an_opening_is_the_system_prompt() {
    let golden = golden();
    let asked = [said("system", "Be brief."), said("user", "Hello")];
    for (name, wanted) in [
        ("qwen-2.5", "<|im_start|>system\nBe brief.<|im_end|>\n"),
        ("qwen-3", "<|im_start|>system\nBe brief.<|im_end|>\n"),
        ("smollm-2", "<|im_start|>system\nBe brief.<|im_end|>\n"),
        ("phi-3", "<|system|>\nBe brief.<|end|>\n\n"),
        ("mistral-v3", "<s>[INST] Be brief.\n\n"),
        ("gemma", "<bos><start_of_turn>user\nBe brief.\n\n"),
        (
            "llama-3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\
             Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>",
        ),
    ] {
        let opening = compile(&golden, name).opening(&asked[..1], &asked[1..], true).unwrap();
        assert_eq!(&opening.text[..opening.head], wanted, "{name}");
        assert_eq!(
            compile(&golden, name).opening(&[], &asked[1..], true).unwrap().head,
            0,
            "{name} without system prompt"
        );
    }
    let refused = compile(&golden, "gemma-2").opening(&asked[..1], &asked[1..], true).unwrap_err().to_string();
    assert_eq!(refused, "the model's chat template: System role not supported");
}

#[test]
fn what_does_not_exist_here_is_named_in_one_line() {
    for (source, words) in [
        ("a\n{{ frobnicate('x') }}", &["unknown function", "frobnicate", "line 2"][..]),
        ("{{ 'x' | frobnicate }}", &["unknown filter", "frobnicate", "line 1"]),
        ("{{ 'x' is frobnicate }}", &["unknown test", "frobnicate"]),
        ("{{ 'x'.frobnicate() }}", &["unknown method", "frobnicate"]),
        ("{% frobnicate %}", &["syntax error", "frobnicate", "line 1"]),
        ("{% if %}", &["syntax error"]),
        ("{% include 'other' %}", &["other"]),
        ("{{ messages[0].nothing.more }}", &["undefined"]),
        ("{% for a in range(100000) %}{% for a in range(100000) %}{% endfor %}{% endfor %}", &["fuel"]),
        ("{{ raise_exception('two\nlines') }}", &["two lines"]),
        ("{{ strftime_now('%Q') }}", &["strftime_now", "%Q"]),
    ] {
        let result = ChatTemplate::new(source, "", "").and_then(|template| template.render(&[said("user", "x")], true));
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Template(_)), "{source}: {error}");
        let line = error.to_string();
        assert!(!line.contains('\n') && words.iter().all(|word| line.contains(word)), "{source}: {line}");
    }
}
