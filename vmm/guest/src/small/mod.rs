//! The image with a kernel of our own configuration: everything built in that a guest needs, and nothing else. It boots faster and takes less memory than a
//! distribution's, at the price of compiling it, again for every update.
//!
//! 1. [`tools`]: what compiling needs, looked for first and named all at once.
//! 2. [`source`]: the distribution's source package, unpacked.
//! 3. [`options`]: `allnoconfig` with `kernel.config` on top. Kconfig drops options whose dependencies are not met without a word; so every option is
//!    looked up in the result, and those that are not as asked are an error.
//! 4. `make vmlinux`, with the names and dates that it would put in fixed; of it, what is loaded. Its initramfs is the agent alone.

pub mod options;
pub mod source;
pub mod tools;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::elf::Elf;
use crate::install::Built;
use crate::kernel::{LARGEST, read_file};
use crate::manifest::Format;
use crate::{BuildError, initramfs, stock};

/// The configuration of the kernel, as it is in the source tree.
pub const CONFIGURATION: &str = include_str!("../../kernel.config");

/// The source that is taken where none is named.
pub const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// What to build it from.
#[derive(Debug, Clone)]
pub struct Small {
    /// The source: a tarball, or a tree.
    pub source: PathBuf,
    /// Where it is unpacked and compiled: about 3 GB. What is there of an earlier build of the same source is used.
    pub work: PathBuf,
    /// How many compilers at once.
    pub jobs: usize,
    /// The agent.
    pub agent: PathBuf,
}

impl Small {
    /// Builds it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(&self) -> Result<Built, BuildError> {
        let agent = initramfs::read_agent(&self.agent)?;
        let tree = self.configure()?;
        let objects = self.objects();
        self.make(&tree, &["vmlinux"])?;
        let release = objects.join("include/config/kernel.release");
        let release = String::from_utf8_lossy(&read_file(&release, 1 << 10)?).trim().to_owned();
        let path = objects.join("vmlinux");
        let bytes = read_file(&path, LARGEST)?;
        let elf = Elf::parse(&bytes).map_err(|source| BuildError::Elf { path: path.clone(), source })?;
        if !elf.has_pvh_entry() {
            return Err(BuildError::NotKernel { path, reason: String::from("no PVH entry, though CONFIG_PVH was set") });
        }
        stock::built(&path, &release, Format::Vmlinux, elf.loaded_alone(), initramfs::write(&agent, &[])?, &agent)
    }

    /// The first three steps; gives the source tree.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn configure(&self) -> Result<PathBuf, BuildError> {
        let asked = options::parse("kernel.config", CONFIGURATION)?;
        tools::check()?;
        let tree = source::prepare(&self.source, &self.work)?;
        let objects = self.objects();
        fs::create_dir_all(&objects).map_err(BuildError::file(&objects))?;
        let wanted = self.work.join("wanted.config");
        fs::write(&wanted, CONFIGURATION).map_err(BuildError::file(&wanted))?;
        self.make(&tree, &["allnoconfig"])?;
        let path = objects.join(".config");
        let text = read_file(&path, LARGEST)?;
        let is = options::parse(&path.display().to_string(), &String::from_utf8_lossy(&text))?;
        match options::lost(&asked, &is) {
            lost if lost.is_empty() => Ok(tree),
            lost => Err(BuildError::Options(lost)),
        }
    }

    fn objects(&self) -> PathBuf {
        self.work.join("objects")
    }

    /// Runs make in the tree. What it says goes to a file; its end is in the error.
    fn make(&self, tree: &Path, targets: &[&str]) -> Result<(), BuildError> {
        let log = self.work.join("make.log");
        let mut words = File::options().read(true).write(true).create(true).truncate(true).open(&log).map_err(BuildError::file(&log))?;
        let [out, err] = [words.try_clone(), words.try_clone()];
        let mut make = Command::new("make");
        make.arg("-C").arg(tree).arg(format!("O={}", self.objects().display())).arg(format!("-j{}", self.jobs)).args(targets);
        // allnoconfig takes options from there instead of "no" (Documentation/kbuild/kconfig.rst).
        make.env("KCONFIG_ALLCONFIG", self.work.join("wanted.config"));
        // What `uname -v` says. Two builds of the same source give the same kernel (Documentation/kbuild/reproducible-builds.rst).
        make.envs([
            ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
            ("KBUILD_BUILD_USER", "bulkhead"),
            ("KBUILD_BUILD_HOST", "guest"),
        ]);
        make.envs([("KBUILD_BUILD_VERSION", "1"), ("LC_ALL", "C")]);
        make.stdin(Stdio::null()).stdout(out.map_err(BuildError::file(&log))?).stderr(err.map_err(BuildError::file(&log))?);
        let failed = |reason: String| BuildError::Program {
            program: format!("make {}", targets.join(" ")),
            what: tree.display().to_string(),
            reason,
        };
        let status = make.status().map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let mut text = Vec::new();
        let end = words.seek(SeekFrom::End(0)).unwrap_or(0);
        let _ = words.seek(SeekFrom::Start(end.saturating_sub(1500))).and_then(|_| words.read_to_end(&mut text));
        Err(failed(format!("{status} ({}):\n{}", log.display(), String::from_utf8_lossy(&text).trim())))
    }
}
