//! `state`, `list` and `ps`: what there is.
//!
//! **Which numbers `ps` shows.** A container's processes have three: on the host, in their wall, in their container. Clients get the host's, as from
//! runc:
//!
//! - `--format json` is for programs. containerd looks among them for the numbers it knows (those of its tasks and execs, which are their
//!   stand-ins'), so the first process of the container and of each exec appear by their stand-in, the rest by their own number. A process that is not the
//!   host's has none.
//! - The table is for people. With options for ps(1) it is ps(1)'s own, for the processes themselves; their user there is the one that the host knows them by,
//!   which is nobody. Without, it shows the user that the process has in its container.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use bulkhead_protocol::messages::{ProcessInfo, ProcessesRequest};
use clap::Args;
use serde_json::Value;

use super::say;
use crate::cgroup;
use crate::lifecycle::{self, Session, stand_in_of};
use crate::oci::id::Id;
use crate::state::Container;

/// Prints a container's state.
pub fn state(session: &Session, id: &str) -> anyhow::Result<i32> {
    let container = session.store.read(&Id::new(id)?)?;
    let state = lifecycle::state(&container, lifecycle::status(session, &container));
    say(&format!("{}\n", serde_json::to_string_pretty(&state)?))?;
    Ok(0)
}

#[derive(Args)]
pub struct List {
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Their ids alone
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        let containers = session.store.containers()?;
        let mut out = std::io::stdout().lock();
        if self.quiet {
            for container in containers {
                writeln!(out, "{}", container.id)?;
            }
            return Ok(0);
        }
        let states: Vec<Value> =
            containers.iter().map(|container| lifecycle::state(container, lifecycle::status(session, container))).collect();
        if self.format == "json" {
            writeln!(out, "{}", if states.is_empty() { String::from("null") } else { serde_json::to_string(&states)? })?;
            return Ok(0);
        }
        const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
        let text = |state: &Value, key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
        let mut rows = vec![COLUMNS.map(str::to_uppercase).to_vec()];
        rows.extend(states.iter().map(|state| COLUMNS.iter().map(|key| text(state, key)).collect()));
        write!(out, "{}", table(&rows, 12))?;
        Ok(0)
    }
}

/// Rows in columns as Go's tabwriter sets them: three blanks between, no column narrower than `minimum`.
fn table(rows: &[Vec<String>], minimum: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(minimum);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            match index + 1 == columns {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}", width = widths[index])),
            }
        }
        text.push('\n');
    }
    text
}

#[derive(Args)]
pub struct Ps {
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    id: String,
    /// Options for ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Ps {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        let (mut client, container) = lifecycle::client(session, &self.id)?;
        let mut request = ProcessesRequest::new();
        request.container_id.clone_from(&self.id);
        let processes = client.processes(&request)?.processes;
        let numbers = host_numbers(&container);
        if self.format == "json" {
            say(&format!("{}\n", serde_json::to_string(&for_programs(&container, &processes, &numbers))?))?;
            return Ok(0);
        }
        if self.options.is_empty() {
            say(&for_people(&processes, &numbers))?;
            return Ok(0);
        }
        if !container.host_cgroup {
            bail!("ps options: the container's processes are not processes of this machine");
        }
        let own: Vec<i32> = processes.iter().filter_map(|process| numbers.get(&process.pid).copied()).collect();
        say(&ps(&self.options, &own)?)?;
        Ok(0)
    }
}

/// From a process's number in its wall to its number on the host.
fn host_numbers(container: &Container) -> HashMap<i32, i32> {
    let Some(cgroup) = container.cgroup.as_ref().filter(|_| container.host_cgroup) else { return HashMap::new() };
    let numbers = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // proc_pid_status(5): one number for each namespace, from this one inwards.
        let inward = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        inward.split_whitespace().nth(1)?.parse().ok().map(|inner: i32| (inner, pid))
    };
    cgroup::processes(cgroup).into_iter().filter_map(numbers).collect()
}

fn for_programs(container: &Container, processes: &[ProcessInfo], numbers: &HashMap<i32, i32>) -> Vec<i32> {
    let shown = |process: &ProcessInfo| {
        if let Some(stand_in) = stand_in_of(&process.exec_id) {
            return Some(stand_in);
        }
        match container.stand_in {
            Some(stand_in) if process.container_pid == 1 && process.exec_id.is_empty() => Some(stand_in.pid),
            _ => numbers.get(&process.pid).copied(),
        }
    };
    processes.iter().filter_map(shown).collect()
}

fn for_people(processes: &[ProcessInfo], numbers: &HashMap<i32, i32>) -> String {
    let mut text = format!("{:<8} {:>7} {:>7} CMD\n", "UID", "PID", "PPID");
    let parents: HashMap<i32, i32> = processes.iter().map(|process| (process.container_pid, process.pid)).collect();
    let shown = |number: i32, otherwise: i32| numbers.get(&number).copied().unwrap_or(otherwise);
    for process in processes {
        let pid = shown(process.pid, process.container_pid);
        let parent = parents.get(&process.parent).map_or(0, |parent| shown(*parent, process.parent));
        // A workload chooses its arguments, and must not speak to the terminal of whoever looks at them.
        let command: String = process.command.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        text.push_str(&format!("{:<8} {pid:>7} {parent:>7} {command}\n", process.uid));
    }
    text
}

/// Runs ps(1) and keeps the lines of these processes, as runc does: those whose word in the column `PID` is one of them.
fn ps(options: &[String], pids: &[i32]) -> anyhow::Result<String> {
    // Without a selection of its own ps(1) shows what runs on our terminal; selections add up.
    let selected = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let selection = if pids.is_empty() { Vec::new() } else { vec!["-p", &selected] };
    let output = Command::new("ps").args(options).args(selection).stdin(Stdio::null()).output().context("ps(1)")?;
    if !output.status.success() {
        bail!("ps {}: {}: {}", options.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|word| word == "PID").context("ps(1): couldn't find PID field in ps output")?;
    let mut kept = format!("{header}\n");
    for line in lines {
        let number = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        if number.is_some_and(|number: i32| pids.contains(&number)) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |words: [&str; 3]| words.map(str::to_owned).to_vec();
        let rows = [row(["ID", "BUNDLE", "OWNER"]), row(["r1", "/srv/bundle/a/r1", "root"])];
        assert_eq!(table(&rows, 12), "ID          BUNDLE             OWNER\nr1          /srv/bundle/a/r1   root\n");
    }

    #[test]
    fn ps_is_narrowed_down_to_the_processes_that_are_asked_for() {
        let own = std::process::id() as i32;
        let options = ["-o", "pid,comm", "-p", &format!("{own},1")].map(str::to_owned);
        let shown = ps(&options, &[own]).unwrap();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(ps(&["-o".to_owned(), "comm".to_owned()], &[own]).unwrap_err().to_string().contains("couldn't find PID"));
        assert!(ps(&["--no-such-option".to_owned()], &[own]).is_err());
    }
}
