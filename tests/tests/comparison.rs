//! Real programs give the same output and exit code behind every wall as under runc.
//!
//! One list of programs; a wall is a parameter.

use bulkhead_tests::{Lab, PROGRAMS, Runtime};

#[test]
fn programs_behave_as_under_runc() {
    let Some(lab) = Lab::open() else { return };
    let walls = lab.walls();
    let mut different = Vec::new();
    // An emulated machine has not the time for all of them.
    let only = std::env::var("BULKHEAD_ONLY").ok();
    let wanted = |program: &str| only.as_ref().is_none_or(|only| only.split_whitespace().any(|name| name == program));
    for (program, interpreter) in PROGRAMS.into_iter().filter(|(program, _)| wanted(program)) {
        let name = program.replace('.', "-");
        let path = format!("/programs/{program}");
        let expected = lab.run(Runtime::Runc, &name, &[interpreter, &path]);
        assert!(!expected.output.is_empty(), "{program} printed nothing under runc (exit code {})", expected.code);
        for wall in walls.iter().copied() {
            let found = lab.run(wall, &name, &[interpreter, &path]);
            println!("{program}: {}", if found == expected { "same" } else { "DIFFERENT" });
            if found != expected {
                println!("--- runc ({})\n{}\n--- {wall:?} ({})\n{}", expected.code, expected.output, found.code, found.output);
                different.push(program);
            }
        }
    }
    assert!(different.is_empty(), "different from runc: {different:?}");
}
