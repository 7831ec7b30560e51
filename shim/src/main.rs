//! `bulkhead`: the command line, and, re-executed under another argument, the process of a wall.

fn main() -> std::process::ExitCode {
    match std::env::args_os().nth(1).as_ref().and_then(|argument| argument.to_str()) {
        Some(bulkhead_sandbox::boot::ARGUMENT) => bulkhead_sandbox::boot::main(),
        Some(bulkhead_vmm::monitor::ARGUMENT) => bulkhead_vmm::monitor::main(),
        _ => bulkhead::cli::main(),
    }
}
