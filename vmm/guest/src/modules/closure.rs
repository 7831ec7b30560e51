//! The closure over what modules need, in the order in which they can be loaded.

use std::collections::BTreeMap;

use super::{Tree, WANTED};
use crate::BuildError;
use crate::modules::info::name;

/// A module as the initramfs gets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// The file's name: the module's, and `.ko`.
    pub file: String,
    /// The file, not packed.
    pub bytes: Vec<u8>,
}

/// What was collected.
#[derive(Debug, Default)]
pub struct Collected {
    /// In the order in which they can be loaded.
    pub modules: Vec<Module>,
    /// Useful ones that this kernel has not.
    pub absent: Vec<&'static str>,
}

/// Where a module is on the way into the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// What it needs is being looked at.
    Entered,
    /// It is in the list, or in the kernel.
    Done,
}

/// [`WANTED`] and `more`, with all that they need, from a kernel's tree.
///
/// # Errors
/// [`BuildError::NoModule`] for one that is required, asked for or needed by another; [`BuildError::Cycle`]; [`BuildError::Module`].
pub fn collect(tree: &Tree, more: &[String]) -> Result<Collected, BuildError> {
    let mut collection = Collection { tree, states: BTreeMap::new(), path: Vec::new(), collected: Collected::default() };
    for wanted in &WANTED {
        if !wanted.required && !tree.is_builtin(wanted.name) && tree.file(wanted.name).is_none() {
            collection.collected.absent.push(wanted.name);
            continue;
        }
        collection.add(wanted.name, &|| wanted.why.to_owned())?;
    }
    for module in more {
        collection.add(module, &|| String::from("--module asks for it"))?;
    }
    Ok(collection.collected)
}

struct Collection<'a> {
    tree: &'a Tree,
    states: BTreeMap<String, State>,
    /// What is entered, outermost first.
    path: Vec<String>,
    collected: Collected,
}

impl Collection<'_> {
    /// Puts a module into the list, after what it needs.
    fn add(&mut self, module: &str, why: &dyn Fn() -> String) -> Result<(), BuildError> {
        let module = name(module);
        match self.states.get(&module) {
            Some(State::Done) => return Ok(()),
            Some(State::Entered) => {
                let first = self.path.iter().position(|entered| *entered == module).unwrap_or(0);
                return Err(BuildError::Cycle([&self.path[first..], &[module]].concat()));
            }
            None => {}
        }
        // A module may be both, where the host's builder has the file from an older build: what is in the kernel counts.
        if self.tree.is_builtin(&module) {
            self.states.insert(module, State::Done);
            return Ok(());
        }
        let Some(path) = self.tree.file(&module) else {
            return Err(BuildError::NoModule {
                release: self.tree.release.clone(),
                module,
                directory: self.tree.directory.clone(),
                why: why(),
            });
        };
        let (bytes, info) = self.tree.load(path)?;
        self.states.insert(module.clone(), State::Entered);
        self.path.push(module.clone());
        // What should be loaded first and is neither here nor in the kernel may be an alias of something that is, or nothing: modprobe(8) goes on too.
        for soft in info.before.iter().filter(|soft| self.tree.file(soft).is_some()) {
            self.add(soft, &|| format!("{module} wants it"))?;
        }
        for needed in &info.depends {
            self.add(needed, &|| format!("{module} needs it"))?;
        }
        self.path.pop();
        self.states.insert(module.clone(), State::Done);
        self.collected.modules.push(Module { file: format!("{module}.ko"), bytes });
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::elf::tests::file;
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;

    /// A kernel's directory of modules: built-in names, and files with what each says of itself.
    pub(crate) fn write(directory: &Path, builtin: &[&str], modules: &[(&str, &str)]) {
        fs::create_dir_all(directory.join("kernel/drivers/net")).unwrap();
        let builtin: String = builtin.iter().map(|module| format!("kernel/x/{module}.ko\n")).collect();
        fs::write(directory.join("modules.builtin"), builtin).unwrap();
        fs::write(directory.join("modules.builtin.modinfo"), "crc32c_generic.alias=crypto-crc32c\0").unwrap();
        for (module, strings) in modules {
            let text: String = strings.split('|').map(|string| format!("{string}\0")).collect();
            fs::write(directory.join(format!("kernel/drivers/net/{module}.ko")), file(1, &[], text.as_bytes())).unwrap();
        }
    }

    fn collected(builtin: &[&str], modules: &[(&str, &str)], more: &[&str]) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let required: Vec<&str> = WANTED.iter().filter(|wanted| wanted.required).map(|wanted| wanted.name).collect();
        let builtin: Vec<&str> = required
            .into_iter()
            .filter(|name| !modules.iter().any(|(module, _)| module.replace('-', "_") == *name))
            .chain(builtin.iter().copied())
            .collect();
        write(directory.path(), &builtin, modules);
        let tree = Tree::read(directory.path(), "6.12.1").unwrap();
        let more: Vec<String> = more.iter().map(|module| (*module).to_owned()).collect();
        let collected = collect(&tree, &more).map_err(|error| error.to_string().replace(directory.path().to_str().unwrap(), "DIR"))?;
        Ok(collected.modules.into_iter().map(|module| module.file.trim_end_matches(".ko").to_owned()).collect())
    }

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let modules = [
            ("virtio_net", "depends=net_failover|vermagic=6.12.1 SMP"),
            ("net-failover", "depends=failover"),
            ("failover", "depends="),
            ("erofs", "depends=libcrc32c,failover|softdep=pre: lz4 nowhere"),
            ("libcrc32c", "softdep=pre: crypto-crc32c"),
            ("lz4", "depends="),
            ("unused", "depends="),
        ];
        assert_eq!(collected(&[], &modules, &[]).unwrap(), ["failover", "net_failover", "virtio_net", "lz4", "libcrc32c", "erofs"]);
        assert_eq!(
            collected(&["failover"], &modules, &["unused"]).unwrap(),
            ["net_failover", "virtio_net", "lz4", "libcrc32c", "erofs", "unused"]
        );
    }

    #[test]
    fn what_is_missing_is_named_with_who_wants_it() {
        assert_eq!(
            collected(&[], &[("virtio_net", "depends=failover")], &[]).unwrap_err(),
            "kernel 6.12.1: no module failover, neither built in nor in DIR: virtio_net needs it"
        );
        assert_eq!(
            collected(&[], &[], &["nf-tables"]).unwrap_err(),
            "kernel 6.12.1: no module nf_tables, neither built in nor in DIR: --module asks for it"
        );
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &[], &[]);
        let error = collect(&Tree::read(directory.path(), "6.12.1").unwrap(), &[]).unwrap_err().to_string();
        assert!(error.contains("no module virtio_mmio") && error.contains("every one is a virtio-mmio page"), "{error}");
    }

    #[test]
    fn modules_of_another_kernel_and_other_files_are_refused() {
        let error = collected(&[], &[("tun", "vermagic=6.1.0 SMP")], &[]).unwrap_err();
        assert_eq!(error, "DIR/kernel/drivers/net/tun.ko: a module for 6.1.0, not for 6.12.1");
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &WANTED.map(|wanted| wanted.name), &[]);
        fs::write(directory.path().join("kernel/x.ko"), "text").unwrap();
        let error = collect(&Tree::read(directory.path(), "6.12.1").unwrap(), &["x".into()]).unwrap_err().to_string();
        assert!(error.ends_with("x.ko: not an ELF file"), "{error}");
    }

    #[test]
    fn a_cycle_is_named() {
        let modules = [("tun", "depends=a"), ("a", "depends=b"), ("b", "depends=a")];
        assert_eq!(collected(&[], &modules, &[]).unwrap_err(), "modules that need each other: a needs b needs a");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Whatever needs what, as long as it goes one way: everything that is needed comes first, and once.
        #[test]
        fn any_order_can_be_loaded(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..16)) {
            let needs = |module: usize| {
                let needed: Vec<String> = edges.iter().filter(|(a, b)| *a == module && b < a).map(|(_, b)| format!("m{b}")).collect();
                format!("depends={}", needed.join(","))
            };
            let modules: Vec<(String, String)> = (0..8).map(|module| (format!("m{module}"), needs(module))).collect();
            let borrowed: Vec<(&str, &str)> = modules.iter().map(|(module, text)| (module.as_str(), text.as_str())).collect();
            let order = collected(&[], &borrowed, &["m7", "m6", "m5", "m4", "m3", "m2", "m1", "m0"]).unwrap();
            prop_assert_eq!(order.len(), 8);
            let place = |module: usize| order.iter().position(|name| *name == format!("m{module}")).unwrap();
            for (a, b) in edges.into_iter().filter(|(a, b)| b < a) {
                prop_assert!(place(b) < place(a));
            }
        }
    }
}
