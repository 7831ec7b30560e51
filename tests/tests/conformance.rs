//! System calls, call by call: the programs of `tests/conformance` print what came of each, and print the same behind every wall as under runc.
//!
//! Where `comparison` runs what people run, these ask for the corners: limits, bad arguments, exact errors. `BULKHEAD_ONLY=name` runs one of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_tests::{Lab, Runtime};

/// The walls that are compared with runc.
const WALLS: [Runtime; 1] = [Runtime::Sandbox];

fn sources() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let entries = std::fs::read_dir(directory).expect("tests/conformance");
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.extension() == Some("c".as_ref())).collect();
    let only = std::env::var("BULKHEAD_ONLY").unwrap_or_default();
    found.retain(|path| only.is_empty() || path.file_stem().is_some_and(|stem| stem == only.as_str()));
    found.sort();
    found
}

/// The lines in which two outputs differ, with the heading above each.
fn differences(expected: &str, found: &str) -> Vec<String> {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let mut section = "";
    let mut lines = Vec::new();
    for index in 0..expected.len().max(found.len()) {
        let (left, right) = (expected.get(index).copied().unwrap_or("(nothing)"), found.get(index).copied().unwrap_or("(nothing)"));
        if left.starts_with("== ") {
            section = left;
        }
        if left != right {
            lines.push(format!("{section}\n  runc: {left}\n  here: {right}"));
        }
    }
    lines
}

#[test]
fn calls_answer_as_linux_does() {
    let Some(lab) = Lab::open() else { return };
    let programs = lab.path().join("conformance");
    std::fs::create_dir_all(&programs).expect("a directory");
    let mut different = Vec::new();
    for source in sources() {
        let name = source.file_stem().expect("a name").to_string_lossy().into_owned();
        let compiled = Command::new("gcc").args(["-static", "-O1", "-w", "-pthread", "-o"]).arg(programs.join(&name)).arg(&source).status();
        assert!(compiled.expect("gcc").success(), "{}", source.display());
        let mount = serde_json::json!({ "destination": "/conformance", "type": "bind", "source": programs, "options": ["rbind", "ro"] });
        let path = format!("/conformance/{name}");
        let run = |runtime: Runtime| {
            // A directory of the host's, for programs about files; a fresh one for each run.
            let volume = lab.path().join(format!("volume-{name}-{runtime:?}"));
            std::fs::create_dir_all(&volume).expect("a directory");
            let volume = serde_json::json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"] });
            lab.run_with(runtime, &format!("conform-{name}"), &[&path], |configuration| {
                configuration["mounts"].as_array_mut().expect("mounts").extend([mount.clone(), volume]);
            })
        };
        let expected = run(Runtime::Runc);
        assert!(expected.output.lines().count() > 5, "{name} printed next to nothing under runc: {expected:?}");
        for wall in WALLS {
            let found = run(wall);
            let lines = differences(&expected.output, &found.output);
            println!(
                "{name}: {}",
                if found == expected {
                    String::from("same")
                } else {
                    format!("{} lines differ, exit code {} and {}", lines.len(), expected.code, found.code)
                }
            );
            if found != expected {
                lines.iter().take(40).for_each(|line| println!("{line}"));
                different.push(name.clone());
            }
        }
    }
    assert!(different.is_empty(), "different from runc: {different:?}");
}
