//! `bulkhead check` says what this machine can do, by trying it.

use std::process::Command;

use bulkhead_tests::Lab;
use serde_json::Value;

/// The reports, and the exit code.
fn check(lab: &Lab, isolation: &[&str]) -> (Vec<Value>, Option<i32>) {
    let output = Command::new(lab.bulkhead()).args(isolation).args(["check", "--json"]).output().expect("bulkhead check");
    (serde_json::from_slice(&output.stdout).expect("json"), output.status.code())
}

fn finding<'a>(report: &'a Value, what: &str) -> &'a Value {
    report["checks"].as_array().and_then(|checks| checks.iter().find(|check| check["check"] == what)).expect("a finding")
}

#[test]
fn the_sandbox_that_these_tests_use_is_usable() {
    let Some(lab) = Lab::open() else { return };
    let (reports, code) = check(&lab, &["--isolation", "sandbox"]);
    assert_eq!((reports.len(), code), (1, Some(0)), "{reports:?}");
    assert_eq!(reports[0]["usable"], true);
    assert!(finding(&reports[0], "starts")["detail"].as_str().is_some_and(|detail| detail.contains("served")));
}

#[test]
fn kvm_is_believed_where_a_guest_has_run() {
    let Some(lab) = Lab::open() else { return };
    let (reports, code) = check(&lab, &[]);
    assert_eq!(reports.len(), 2);
    let runs = finding(&reports[1], "KVM runs guests");
    // The lab's KVM runs guests; of another machine's nothing is known but that the answer has a reason.
    if std::env::var_os("BULKHEAD_IN_LAB").is_some() {
        assert_eq!(runs["ok"], true, "{runs}");
    }
    assert!(!runs["detail"].as_str().expect("a detail").is_empty());
    let usable = reports.iter().all(|report| report["usable"] == true);
    assert_eq!(code, Some(i32::from(!usable)));
    let unknown = Command::new(lab.bulkhead()).args(["--isolation", "jail", "check"]).output().expect("bulkhead check");
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("jail"));
}
