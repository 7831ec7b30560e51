//! /sys: what programs read of it: processors, memory nodes, huge pages, network interfaces (sysfs(5)).
//!
//! The kernel process has no /sys of the host's. The few facts about the machine that are shown are read once, before it lets go of the host's tree
//! ([`remember`]); of what hangs on buses there is nothing, since no device of the host is the container's.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::synthetic::{self, Kind, Named, constant, directory, file, link};
use crate::net::proc as network;
use crate::vfs::node::{LinkTarget, NodeRef};

/// What is kept of the host's /sys: name here, path there.
const FACTS: [(&str, &str); 9] = [
    ("cpu/online", "devices/system/cpu/online"),
    ("cpu/possible", "devices/system/cpu/possible"),
    ("cpu/present", "devices/system/cpu/present"),
    ("cpu/kernel_max", "devices/system/cpu/kernel_max"),
    ("thp/enabled", "kernel/mm/transparent_hugepage/enabled"),
    ("thp/defrag", "kernel/mm/transparent_hugepage/defrag"),
    ("thp/shmem_enabled", "kernel/mm/transparent_hugepage/shmem_enabled"),
    ("thp/use_zero_page", "kernel/mm/transparent_hugepage/use_zero_page"),
    ("thp/hpage_pmd_size", "kernel/mm/transparent_hugepage/hpage_pmd_size"),
];

static REMEMBERED: OnceLock<HashMap<&'static str, String>> = OnceLock::new();

/// Reads the facts. Called once, while the host's tree is there.
pub fn remember() {
    let read = |(name, path): &(&'static str, &str)| Some((*name, std::fs::read_to_string(format!("/sys/{path}")).ok()?));
    let _ = REMEMBERED.set(FACTS.iter().filter_map(read).collect());
}

/// One of them; empty for what the host does not have.
pub fn fact(name: &str) -> &'static str {
    REMEMBERED.get().and_then(|facts| facts.get(name)).map_or("", String::as_str)
}

/// The tree's root.
pub fn root() -> NodeRef {
    let top = directory("", || {
        vec![
            directory("block", Vec::new),
            directory("bus", Vec::new),
            directory("class", || vec![directory("block", Vec::new), directory("net", interface_links)]),
            directory("dev", || vec![directory("block", Vec::new), directory("char", Vec::new)]),
            directory("devices", || {
                vec![
                    directory("system", || vec![directory("cpu", processors), directory("node", nodes)]),
                    directory("virtual", || vec![directory("net", interfaces)]),
                ]
            }),
            directory("firmware", Vec::new),
            directory("fs", || vec![directory("cgroup", Vec::new)]),
            directory("kernel", || vec![directory("mm", || vec![directory("transparent_hugepage", facts_of_huge_pages)])]),
            directory("module", Vec::new),
            directory("power", Vec::new),
        ]
    });
    synthetic::root(Kind { magic: 0x6265_6572, device: 0x15, strict: true }, top)
}

/// The facts under a heading.
fn facts(heading: &str) -> Vec<Named> {
    let below = |(name, _): &(&'static str, &str)| {
        let rest = name.strip_prefix(heading)?.strip_prefix('/')?;
        Some(constant(rest, fact(name))).filter(|_| !fact(name).is_empty())
    };
    FACTS.iter().filter_map(below).collect()
}

fn facts_of_huge_pages() -> Vec<Named> {
    facts("thp")
}

fn interface_links() -> Vec<Named> {
    let target = |name: String| {
        let path = format!("../../devices/virtual/net/{name}");
        link(&name, move || Ok(LinkTarget::Path(path.clone().into_bytes())))
    };
    network::interfaces().into_iter().map(target).collect()
}

fn interfaces() -> Vec<Named> {
    network::interfaces()
        .into_iter()
        .map(|interface| {
            let name = interface.clone();
            directory(&name, move || {
                let attribute = |attribute: &&'static str| {
                    let (interface, attribute) = (interface.clone(), *attribute);
                    file(attribute, move || network::interface_attribute(&interface, attribute))
                };
                network::INTERFACE_ATTRIBUTES.iter().map(attribute).collect()
            })
        })
        .collect()
}

/// One processor, by what /proc/cpuinfo says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Processor {
    number: usize,
    core: usize,
    package: usize,
}

fn known_processors() -> Vec<Processor> {
    parse(&std::fs::read_to_string(crate::boot::tree::fact("cpuinfo")).unwrap_or_default())
}

/// Takes /proc/cpuinfo apart. A processor without a core number (a machine that tells none) is a core of its own.
fn parse(text: &str) -> Vec<Processor> {
    let mut found: Vec<Processor> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let number = value.trim().parse::<usize>();
        match (key.trim(), number, found.last_mut()) {
            ("processor", Ok(number), _) => found.push(Processor { number, core: number, package: 0 }),
            ("core id", Ok(core), Some(last)) => last.core = core,
            ("physical id", Ok(package), Some(last)) => last.package = package,
            _ => {}
        }
    }
    found
}

/// Numbers as sysfs lists them: `0-3,8`.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let shown = |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(shown).collect::<Vec<_>>().join(",") + "\n"
}

/// The same as a mask: groups of 32 bits, the highest first.
fn mask(numbers: &[usize], most: usize) -> String {
    let groups = most.div_ceil(32).max(1);
    let group = |index: usize| numbers.iter().filter(|number| *number / 32 == index).fold(0u32, |bits, number| bits | 1 << (number % 32));
    let width = if most < 32 { most.div_ceil(4).max(1) } else { 8 };
    let shown = (0..groups).rev().map(|index| format!("{:0width$x}", group(index)));
    shown.collect::<Vec<_>>().join(",") + "\n"
}

fn processors() -> Vec<Named> {
    let mut items = facts("cpu");
    items.push(constant("isolated", "\n"));
    for processor in known_processors() {
        items.push(directory(&format!("cpu{}", processor.number), move || vec![directory("topology", move || topology(processor))]));
    }
    items
}

fn topology(of: Processor) -> Vec<Named> {
    let all = known_processors();
    let such = |alike: &dyn Fn(&Processor) -> bool| all.iter().filter(|other| alike(other)).map(|other| other.number).collect::<Vec<_>>();
    let core = such(&|other| (other.core, other.package) == (of.core, of.package));
    let package = such(&|other| other.package == of.package);
    let mut items = vec![constant("core_id", &format!("{}\n", of.core)), constant("physical_package_id", &format!("{}\n", of.package))];
    for (names, numbers) in [(["core_cpus", "thread_siblings"], &core), (["package_cpus", "core_siblings"], &package)] {
        for name in names {
            items.push(constant(name, &mask(numbers, all.len())));
            items.push(constant(&format!("{name}_list"), &ranges(numbers)));
        }
    }
    items
}

/// Memory is shown as one node: where a page lies is the host's to know.
fn nodes() -> Vec<Named> {
    let one = || {
        let numbers: Vec<usize> = known_processors().iter().map(|processor| processor.number).collect();
        vec![
            constant("cpulist", &ranges(&numbers)),
            constant("cpumap", &mask(&numbers, numbers.len())),
            constant("distance", "10\n"),
            file("meminfo", node_memory),
        ]
    };
    let mut items: Vec<Named> =
        ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"].iter().map(|name| constant(name, "0\n")).collect();
    items.push(directory("node0", one));
    items
}

/// The machine's memory as that of node 0.
fn node_memory() -> crate::errno::Result<Vec<u8>> {
    let text = std::fs::read_to_string(crate::boot::tree::fact("meminfo"))?;
    let wanted = ["MemTotal", "MemFree", "Active", "Inactive", "Dirty", "FilePages", "AnonPages", "HugePages_Total", "HugePages_Free"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))));
    Ok(lines.map(|line| format!("Node 0 {line}\n")).collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks() {
        assert_eq!(ranges(&[0, 1, 2, 8]), "0-2,8\n");
        assert_eq!(ranges(&[]), "\n");
        assert_eq!(mask(&[0, 1], 2), "3\n");
        assert_eq!(mask(&[0, 33], 64), "00000002,00000001\n");
    }

    #[test]
    fn processors_of_cpuinfo() {
        let text =
            "processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 2\n";
        let expected = [(0, 0, 0), (1, 0, 0), (2, 2, 0)].map(|(number, core, package)| Processor { number, core, package });
        assert_eq!(parse(text), expected);
    }
}
