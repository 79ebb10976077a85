//! The project's own rules, as a test.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file of source code.
const MOST_LINES: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with this ending, with their text.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let (mut found, mut folders) = (vec![], vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            if path.is_dir() && !name.ends_with("node_modules") {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {folder}");
    found
}

fn code() -> Vec<(String, String)> {
    [files("src", ".rs"), files("shaders", ".wgsl"), files("www/src", ".ts"), files("www/demo", ".ts")].concat()
}

/// The text without its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

#[test]
fn every_rust_file_says_what_it_is_for() {
    for (name, text) in files("src", ".rs") {
        assert!(text.starts_with("//! "), "{name} does not begin with //!");
    }
    for (name, text) in files("shaders", ".wgsl") {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("// ") && first.len() > 40, "{name} does not say what it is for");
    }
}

#[test]
fn files_are_short() {
    for (name, text) in code() {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= MOST_LINES, "{name} has {lines} lines");
    }
}

#[test]
fn every_kernel_stands_in_its_places() {
    for (name, text) in files("shaders", ".wgsl") {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap().to_owned();
        let is_shared = name.contains("shared");
        let stem = ["_split", "_tiled"].iter().find_map(|suffix| stem.strip_suffix(suffix)).unwrap_or(&stem).to_owned(); // a variant
        let is_kernel = sinkstream::kernels::ALL.iter().any(|kernel| kernel.name == stem);
        assert_ne!(is_shared, is_kernel, "{name} is a kernel or shared");
        assert_eq!(text.contains(&format!("fn {stem}(")) && text.contains("@compute"), is_kernel, "{name}");
        if is_kernel {
            assert!(root().join(format!("src/kernels/{stem}.rs")).exists(), "{name} has no twin");
        }
    }
}

#[test]
fn every_binding_says_what_it_holds() {
    for (name, text) in files("shaders", ".wgsl") {
        for line in text.lines().filter(|line| line.contains("@binding(")) {
            let comment = line.split_once("; // ").map_or("", |(_, comment)| comment);
            let is_struct = line.contains(": Params;") || line.contains(": Settings;");
            assert!(line.starts_with("@group(0)") && (comment.contains('[') || is_struct), "{name}: {line}");
        }
    }
}

#[test]
fn platforms_differ_in_one_place() {
    for (name, text) in files("src", ".rs") {
        let is_allowed = name == "src/lib.rs" || name.starts_with("src/platform");
        assert!(is_allowed || !without_tests(&text).contains("target_arch"), "{name} asks for the platform");
    }
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    let todo = ["TO", "DO"].concat();
    let paths = ["/ro", "ot/|/ho", "me/|/wo", "rk/"].concat();
    let texts = [code(), files("tests", ".rs"), files("scripts", ""), files("models", ".py"), files("models", ".md")];
    for (name, text) in texts.concat() {
        for (n, line) in text.lines().enumerate() {
            let has_number = line.contains(&format!("{todo}(#"));
            assert!(has_number || !line.contains(&todo), "{name}:{}: {line}", n + 1);
            for path in paths.split('|') {
                assert!(!line.contains(path), "{name}:{}: {line}", n + 1);
            }
        }
    }
}

#[test]
fn the_readme_names_commands_that_exist() {
    let (readme, makefile) =
        (fs::read_to_string(root().join("README.md")).unwrap(), fs::read_to_string(root().join("Makefile")).unwrap());
    let targets: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("make ")?.split_whitespace().next()).collect();
    assert!(targets.len() >= 2, "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
    for path in readme.split('`').filter(|word| word.ends_with(".rs") || word.ends_with(".md")) {
        let exists = root().join(path).exists() || root().join("src").join(path).exists();
        assert!(exists, "README names {path}");
    }
}
