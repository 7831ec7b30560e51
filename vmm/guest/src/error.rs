//! Why an image can not be built.

use std::io;
use std::path::PathBuf;

use crate::cpio::CpioError;
use crate::elf::ElfError;

/// Why an image can not be built. Every message names the object, and where a person can do something, what.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file can not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too large to be what it should be.
    #[error("{}: longer than {longest} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest that is read.
        longest: u64,
    },
    /// No kernel was named, and none is there.
    #[error(
        "{}: no kernel of Linux 6 or later with its modules: install one (apt install linux-image-cloud-amd64), or name one (--kernel, --tree)",
        boot.display()
    )]
    NoKernel {
        /// Where it was looked for.
        boot: PathBuf,
    },
    /// The kernel that was named is not there.
    #[error("kernel {release}: no {}", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", no "))]
    NoSuchKernel {
        /// Its release.
        release: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A kernel without its modules.
    #[error("kernel {release}: no modules in {}", looked.display())]
    NoModules {
        /// Its release.
        release: String,
        /// Where they were looked for.
        looked: PathBuf,
    },
    /// A file in a kernel's place that is none.
    #[error("{}: not a Linux kernel for x86-64: {reason}", path.display())]
    NotKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel file of another release than its name says.
    #[error("{}: is of release {is}, not {named}", path.display())]
    OtherRelease {
        /// The file.
        path: PathBuf,
        /// What it says.
        is: String,
        /// What its name says.
        named: String,
    },
    /// A module that the guest can not do without.
    #[error("kernel {release}: no module {module}, neither built in nor in {}: {why}", directory.display())]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The module.
        module: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// What needs it.
        why: String,
    },
    /// A file that is no module of this kernel.
    #[error("{}: {reason}", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Modules that need each other: none can be loaded first.
    #[error("modules that need each other: {}", .0.join(" needs "))]
    Cycle(Vec<String>),
    /// The agent is not there.
    #[error("the agent: no {}: build it (hack/guest), or name it (--agent)", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", no "))]
    NoAgent {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The agent can not be a guest's first process.
    #[error("the agent {}: {reason}", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that should be an ELF file.
    #[error("{}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// A program that is needed is not installed.
    #[error("{what} needs {program}: apt install {package}")]
    NoProgram {
        /// What needs it.
        what: String,
        /// Its name.
        program: String,
        /// The package that has it.
        package: String,
    },
    /// A program failed.
    #[error("{program} on {what}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// What it was run on.
        what: String,
        /// Its exit status and its last words.
        reason: String,
    },
    /// What compiling a kernel needs and this host has not.
    #[error("compiling a kernel needs {}: apt install {}", missing.join(", "), packages.join(" "))]
    Tools {
        /// What is missing.
        missing: Vec<String>,
        /// The packages that have it.
        packages: Vec<String>,
    },
    /// The kernel's source is not there.
    #[error("{}: no such kernel source: apt install linux-source-6.12, or name one (--kernel)", .0.display())]
    NoSource(PathBuf),
    /// Something in place of a kernel's source that is none.
    #[error("{}: not a kernel's source: {reason}", path.display())]
    NotSource {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a kernel configuration that is none.
    #[error("{what}, line {line}: {text:?}: neither CONFIG_NAME=VALUE nor a comment")]
    ConfigurationLine {
        /// Which configuration.
        what: String,
        /// From 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// Options that the kernel's own rules have dropped or changed.
    #[error("options that did not survive this source's rules: {}: look for what each depends on (make menuconfig, /)", .0.join(", "))]
    Options(Vec<String>),
    /// The initramfs can not be written.
    #[error("initramfs")]
    Initramfs(#[from] CpioError),
    /// The image can not be put in its place.
    #[error("{}: another build is writing there", .0.display())]
    Busy(PathBuf),
}

impl BuildError {
    /// For `map_err`: a file's trouble.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BuildError {
        let path = path.into();
        move |source| BuildError::File { path, source }
    }
}
