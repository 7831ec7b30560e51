//! `bulkhead`: the command line, and, re-executed under another argument, the user-space kernel.

fn main() -> std::process::ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == bulkhead_sandbox::boot::ARGUMENT) {
        bulkhead_sandbox::boot::main();
    }
    bulkhead::cli::main()
}
