//! /sys: what programs read of it: processors, memory, huge pages.

use super::synthetic::{self, Kind, Named, constant, directory};
use crate::vfs::node::NodeRef;

/// The tree's root.
pub fn root() -> NodeRef {
    synthetic::root(Kind { magic: 0x6265_6572, device: 0x15 }, || {
        vec![
            directory("block", Vec::new),
            directory("bus", Vec::new),
            directory("class", || vec![directory("net", Vec::new)]),
            directory("dev", Vec::new),
            directory("devices", || vec![directory("system", || vec![directory("cpu", processors), directory("node", nodes)])]),
            directory("firmware", Vec::new),
            directory("fs", || vec![directory("cgroup", Vec::new)]),
            directory("kernel", kernel),
            directory("module", Vec::new),
            directory("power", Vec::new),
        ]
    })
}

/// How many processors the host runs this process on.
fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn range() -> String {
    match count() {
        1 => String::from("0\n"),
        more => format!("0-{}\n", more - 1),
    }
}

fn processors() -> Vec<Named> {
    let mut items: Vec<Named> = ["online", "possible", "present"].iter().map(|name| constant(name, &range())).collect();
    items.push(constant("kernel_max", "8191\n"));
    for number in 0..count() {
        items.push(directory(&format!("cpu{number}"), move || {
            vec![directory("topology", move || {
                vec![
                    constant("core_id", &format!("{number}\n")),
                    constant("physical_package_id", "0\n"),
                    constant("thread_siblings_list", &format!("{number}\n")),
                ]
            })]
        }));
    }
    items
}

fn nodes() -> Vec<Named> {
    vec![constant("online", "0\n"), constant("possible", "0\n"), directory("node0", || vec![constant("cpulist", &range())])]
}

fn kernel() -> Vec<Named> {
    vec![directory("mm", || {
        vec![
            directory("transparent_hugepage", || {
                vec![constant("enabled", "always [madvise] never\n"), constant("hpage_pmd_size", "2097152\n")]
            }),
            directory("hugepages", Vec::new),
        ]
    })]
}
