//! `do`: a bundle made in memory, over this machine's own root.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::start_and_wait;
use crate::foreground::Signals;
use crate::lifecycle::{self, CreateOptions, Session};
use crate::oci::{self, template};
use crate::wall::Isolation;

/// What its containers' names begin with; our own number follows.
const PREFIX: &str = "do-";

#[derive(Args)]
pub struct Do {
    /// No writes to the root file system
    #[arg(long)]
    ro: bool,
    /// Where the command starts
    #[arg(long, default_value = "/")]
    cwd: PathBuf,
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Do {
    pub fn run(self, mut session: Session) -> anyhow::Result<i32> {
        if session.overlay == "none" && !self.ro {
            session.overlay = String::from("memory");
        }
        // One of ours that was killed can not be deleted by who started it: nobody knows its name.
        lifecycle::sweep(&session, PREFIX);
        let mut config = template::spec(true);
        let process = &mut config["process"];
        process["args"] = json!(self.command);
        process["cwd"] = json!(self.cwd);
        process["terminal"] = json!(nix::unistd::isatty(std::io::stdin()).unwrap_or(false));
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        process["env"] = json!(variables.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>());
        config["root"] = json!({ "path": "/", "readonly": self.ro });
        config["hostname"] = json!(nix::unistd::gethostname()?.to_string_lossy());
        if session.isolation == Isolation::Sandbox
            && let Some(namespaces) = config["linux"]["namespaces"].as_array_mut()
        {
            // The host's own network, as a command on this machine expects; a virtual machine can not have it.
            namespaces.retain(|namespace| namespace["type"] != "network");
        }
        let config = oci::parse(config)?;
        let signals = Signals::block()?;
        let id = oci::id::Id::new(&format!("{PREFIX}{}", std::process::id()))?;
        let started = lifecycle::create_from(&session, &id, Path::new("/"), &config, &CreateOptions::default(), true)?;
        start_and_wait(&session, id.as_str(), started, &signals, false, false)
    }
}
