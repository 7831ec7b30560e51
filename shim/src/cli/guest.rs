//! `guest`: the image that microVMs boot, built and compared with its manifest.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use bulkhead_guest::small::{SOURCE, Small};
use bulkhead_guest::stock::Stock;
use bulkhead_guest::{BuildError, Built, Image};
use clap::{Args, Subcommand};

use super::say;

/// Where a distribution's package puts the agent.
const AGENT: &str = "/usr/libexec/bulkhead/bulkhead-agent";

#[derive(Subcommand)]
pub enum Guest {
    /// Build the image that microVMs boot
    Build(Build),
    /// Compare an image with its manifest, byte for byte
    Verify {
        /// The image; the configuration's guest_image unless it is named
        directory: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct Build {
    /// Where it goes; the configuration's guest_image unless it is named
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// A kernel's release, or the path of its vmlinuz; of the source with --small (a version, a tarball, a tree). Else the newest cloud kernel of Linux 6
    #[arg(long)]
    kernel: Option<String>,
    /// The agent; else the bulkhead-agent beside this program, or the package's
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Take kernel and modules from a tree where a package was unpacked
    #[arg(long, default_value = "/")]
    tree: PathBuf,
    /// One more module for the guest to load, with all that it needs; may be repeated
    #[arg(long = "module", conflicts_with = "small")]
    modules: Vec<String>,
    /// Compile a small kernel from the distribution's source
    #[arg(long)]
    small: bool,
    /// Where it is compiled; what is there already is used again
    #[arg(long, default_value = "/var/cache/bulkhead/kernel", requires = "small")]
    work: PathBuf,
    /// How many compilers run at once; else one for each processor
    #[arg(long, requires = "small")]
    jobs: Option<usize>,
}

impl Guest {
    /// Runs it; `image` is the configured place.
    pub fn run(self, image: &Path) -> anyhow::Result<i32> {
        match self {
            Guest::Build(build) => build.run(image),
            Guest::Verify { directory } => {
                say(&format!("{}\n", verify(directory.as_deref().unwrap_or(image))?))?;
                Ok(0)
            }
        }
    }
}

impl Build {
    fn run(self, image: &Path) -> anyhow::Result<i32> {
        let output = self.output.clone().unwrap_or_else(|| image.to_owned());
        // Before hours of compiling: whether it is there at all.
        let agent = find_agent(self.agent.as_deref()).context("guest build failed")?;
        let (built, mut text) = if self.small { self.small(agent) } else { self.stock(agent) }.context("guest build failed")?;
        built.install(&output).context("guest build failed")?;
        // As a pod's start will find it: a directory that others may write to is better refused now.
        text += &format!("image      {}\n", verify(&output).context("guest build: the image is there, and can not be used")?);
        say(&text)?;
        Ok(0)
    }

    fn stock(self, agent: PathBuf) -> Result<(Built, String), BuildError> {
        let outcome = Stock { root: self.tree, kernel: self.kernel, agent: agent.clone(), modules: self.modules }.build()?;
        let mut text = format!("kernel     {}\nagent      {}\n", outcome.kernel.display(), agent.display());
        text += &format!("modules    {}\n", outcome.modules.join(" "));
        if !outcome.absent.is_empty() {
            text += &format!("absent     {} (not in this kernel; guests do without)\n", outcome.absent.join(" "));
        }
        Ok((outcome.built, text))
    }

    fn small(self, agent: PathBuf) -> Result<(Built, String), BuildError> {
        let source = match self.kernel.as_deref() {
            None => self.tree.join(SOURCE.trim_start_matches('/')),
            Some(path) if path.contains('/') => PathBuf::from(path),
            Some(version) => self.tree.join(format!("usr/src/linux-source-{version}.tar.xz")),
        };
        let jobs = self.jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
        // make(1) runs elsewhere.
        let work = std::path::absolute(&self.work).map_err(|source| BuildError::File { path: self.work, source })?;
        let built = Small { source: source.clone(), work, jobs, agent: agent.clone() }.build()?;
        Ok((built, format!("source     {}\nagent      {}\n", source.display(), agent.display())))
    }
}

/// The agent that is named, or the first that is there.
fn find_agent(named: Option<&Path>) -> Result<PathBuf, BuildError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("bulkhead-agent"));
    let looked: Vec<PathBuf> = beside.into_iter().chain([PathBuf::from(AGENT)]).collect();
    looked.iter().find(|path| path.is_file()).cloned().ok_or(BuildError::NoAgent { looked })
}

/// Reads every byte of an image; says what it is.
pub(super) fn verify(directory: &Path) -> anyhow::Result<String> {
    let started = Instant::now();
    let image = Image::find(directory)?;
    image.open()?;
    Ok(format!("{}: {}, verified in {} ms", directory.display(), described(image.manifest()), started.elapsed().as_millis()))
}

fn described(manifest: &bulkhead_guest::manifest::Manifest) -> String {
    let megabytes = |size: u64| format!("{:.1} MB", size as f64 / 1e6);
    let kernel = &manifest.kernel;
    let mut text = format!("Linux {} ({}), initramfs {}", kernel.release, megabytes(kernel.size), megabytes(manifest.initramfs.size));
    if manifest.built_by != env!("CARGO_PKG_VERSION") {
        text += &format!(", built by Bulkhead {}, which this is not: build it again", manifest.built_by);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_nowhere_is_said_to_be_so() {
        let named = Path::new("/nowhere/agent");
        assert_eq!(find_agent(Some(named)).unwrap(), named, "whether it can be read is for the build to say");
        if let Err(error) = find_agent(None) {
            let text = error.to_string();
            assert!(text.contains("/deps/bulkhead-agent, no /usr/libexec/bulkhead/bulkhead-agent: build it"), "{text}");
        }
    }
}
