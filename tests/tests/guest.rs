//! The guest image: built by the binary from Debian's own kernel, compared, tampered with, and booted.
//!
//! The kernel is the lab's, which is unpacked and not installed (`hack/lab`, or `BULKHEAD_KERNEL` for another tree). In the agent's place is a static program that loads
//! the modules as the agent does and says how it went: what is tested is the image, not the agent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A first process: loads `/modules/*` in the order of `/modules/order`, looks at what it has, and switches the machine off.
const INIT: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void)
{
    char line[256], path[300];
    struct utsname names;
    struct stat console;
    uname(&names);
    stat("/dev/console", &console);
    printf("init: process %d of Linux %s, console %o\n", getpid(), names.release, console.st_mode);
    FILE *order = fopen("/modules/order", "r");
    int loaded = 0;
    while (order && fgets(line, sizeof line, order)) {
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "/modules/%s", line);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0) printf("init: %s: %m\n", path);
        else loaded++;
        close(file);
    }
    printf("init: %d modules loaded\n", loaded);
    mount("proc", "/proc", "proc", 0, "");
    mount("dev", "/dev", "devtmpfs", 0, "");
    FILE *systems = fopen("/proc/filesystems", "r");
    while (systems && fgets(line, sizeof line, systems))
        if (strstr(line, "virtiofs") || strstr(line, "overlay") || strstr(line, "erofs") || strstr(line, "ext4")) printf("init: has %s", strrchr(line, '\t') + 1);
    printf("init: done\n");
    fflush(stdout);
    sync();
    reboot(RB_AUTOBOOT);
    return 1;
}
"#;

struct Place {
    directory: tempfile::TempDir,
    bulkhead: PathBuf,
    tree: PathBuf,
    agent: PathBuf,
}

impl Place {
    /// A directory with a static program in the agent's place; or says why there is none.
    fn open(programs: &[&str]) -> Option<Place> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = std::env::var_os("BULKHEAD_KERNEL").map_or_else(|| repository.join("target/lab/kernel"), PathBuf::from);
        let executable = std::env::current_exe().ok()?;
        let bulkhead = std::env::var_os("BULKHEAD").map_or_else(|| executable.ancestors().nth(2).unwrap().join("bulkhead"), PathBuf::from);
        let there =
            |program: &str| std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|place| place.join(program).is_file());
        let mut missing = vec![
            (!tree.join("boot").exists(), "an unpacked kernel (hack/guest)"),
            (!bulkhead.exists(), "the bulkhead binary (cargo build)"),
        ];
        missing.extend(programs.iter().chain(&["gcc"]).map(|program| (!there(program), *program)));
        if let Some((_, what)) = missing.iter().find(|(absent, _)| *absent) {
            assert!(std::env::var_os("BULKHEAD_TESTS_COMPLETE").is_none(), "this test needs {what}");
            println!("not run: it needs {what}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("bulkhead-guest-").tempdir().expect("a temporary directory");
        let (source, agent) = (directory.path().join("init.c"), directory.path().join("agent"));
        fs::write(&source, INIT).expect("the source");
        let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&agent).arg(&source).status().expect("gcc");
        assert!(compiled.success(), "gcc: {compiled}");
        Some(Place { directory, bulkhead, tree: tree.canonicalize().expect("the kernel's tree"), agent })
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("guest")
    }

    fn bulkhead(&self, arguments: &[&str]) -> Output {
        Command::new(&self.bulkhead).args(arguments).stdin(Stdio::null()).output().expect("bulkhead")
    }

    /// `guest build` from the tree; gives what it printed.
    fn build(&self, output: &Path, more: &[&str]) -> String {
        let [tree, agent, output] = [&self.tree, &self.agent, output].map(|path| path.to_str().expect("text"));
        let built = self.bulkhead(&[&["guest", "build", "--tree", tree, "--agent", agent, "--output", output], more].concat());
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        String::from_utf8(built.stdout).expect("text")
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.bulkhead(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn manifest(image: &Path) -> Value {
    serde_json::from_slice(&fs::read(image.join("manifest.json")).expect("manifest.json")).expect("json")
}

/// The path of a part of the image.
fn part(image: &Path, name: &str) -> PathBuf {
    let checksum = manifest(image)[name]["sha256"].as_str().expect("a checksum").to_owned();
    image.join(format!("{name}-{}", &checksum[..16]))
}

#[test]
fn an_image_is_built_the_same_every_time_and_verified() {
    let Some(place) = Place::open(&[]) else { return };
    let image = place.image();
    let said = place.build(&image, &[]);
    assert!(said.contains("virtio_mmio.ko") && said.contains(&format!("image      {}: Linux 6", image.display())), "{said}");
    let first = fs::read(image.join("manifest.json")).unwrap();
    place.build(&place.directory.path().join("again"), &[]);
    assert_eq!(fs::read(place.directory.path().join("again/manifest.json")).unwrap(), first);
    assert_eq!(fs::read_dir(&image).unwrap().count(), 3);
    // What modules need comes before them; what is asked for comes with what it needs.
    let said = place.build(&image, &["--module", "nf_tables"]);
    let order: Vec<&str> = said.lines().find(|line| line.starts_with("modules")).unwrap().split_whitespace().skip(1).collect();
    let at = |module: &str| order.iter().position(|name| *name == module).unwrap_or_else(|| panic!("{module} in {order:?}"));
    assert!(at("vsock.ko") < at("vmw_vsock_virtio_transport_common.ko") && at("libcrc32c.ko") < at("nf_tables.ko"));
    assert_eq!(fs::read_dir(&image).unwrap().count(), 4, "the old initramfs stays for who has just found it");
    place.build(&image, &["--module", "veth"]);
    assert_eq!(fs::read_dir(&image).unwrap().count(), 4, "and is gone with the next build");

    let verified = place.bulkhead(&["guest", "verify", image.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && text.contains("verified in"), "{text}");
}

#[test]
fn what_is_wrong_with_an_image_is_named() {
    let Some(place) = Place::open(&[]) else { return };
    let image = place.image();
    let path = image.to_str().unwrap();
    assert!(place.refused(&["guest", "verify", path]).contains(": there is none: bulkhead guest build makes one"));
    place.build(&image, &[]);
    let configuration = place.directory.path().join("config.toml");
    fs::write(&configuration, format!("guest_image = {path:?}\n")).unwrap();
    let check = || {
        let output = place.bulkhead(&["--config", configuration.to_str().unwrap(), "--isolation", "microvm", "check", "--json"]);
        let reports: Value = serde_json::from_slice(&output.stdout).expect("json");
        reports[0]["checks"].as_array().unwrap().iter().find(|row| row["check"] == "guest image").expect("a row").clone()
    };
    let row = check();
    assert_eq!(row["ok"], true, "{row}");
    assert!(row["detail"].as_str().unwrap().contains(manifest(&image)["kernel"]["release"].as_str().unwrap()), "{row}");

    let kernel = part(&image, "kernel");
    let bytes = fs::read(&kernel).unwrap();
    let mut tampered = bytes.clone();
    tampered[bytes.len() / 2] ^= 1;
    fs::write(&kernel, tampered).unwrap();
    assert!(place.refused(&["guest", "verify", path]).contains(": SHA-256 "));
    let row = check();
    assert!(row["ok"] == false && row["detail"].as_str().unwrap().contains("kernel-"), "{row}");
    fs::write(&kernel, &bytes[..1000]).unwrap();
    assert!(place.refused(&["guest", "verify", path]).contains(": 1000 bytes, where manifest.json says"));
    fs::remove_file(&kernel).unwrap();
    std::os::unix::fs::symlink("/dev/null", &kernel).unwrap();
    assert!(place.refused(&["guest", "verify", path]).contains(": a symbolic link"));
    // What is built again is whole again.
    place.build(&image, &[]);
    assert_eq!(check()["ok"], true);
}

#[test]
fn what_can_not_be_built_is_refused_by_name() {
    let Some(place) = Place::open(&[]) else { return };
    let (tree, agent) = (place.tree.to_str().unwrap(), place.agent.to_str().unwrap());
    let (image, empty) = (place.image(), place.directory.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    let refused = |arguments: &[&str]| place.refused(&[&["guest", "build", "--output", image.to_str().unwrap()], arguments].concat());
    let with_agent = |arguments: &[&str]| refused(&[&["--agent", agent], arguments].concat());
    assert!(with_agent(&["--tree", empty.to_str().unwrap()]).contains("no kernel of Linux 6 or later"));
    assert!(with_agent(&["--tree", tree, "--kernel", "6.99"]).contains("kernel 6.99: no "));
    assert!(with_agent(&["--tree", tree, "--kernel", agent]).contains("not a Linux kernel for x86-64"));
    assert!(with_agent(&["--tree", tree, "--module", "no_such"]).contains("no module no_such, neither built in nor in"));
    assert!(refused(&["--tree", tree, "--agent", "/bin/true"]).contains("/bin/true: linked dynamically (/lib64/ld-linux"));
    assert!(refused(&["--tree", tree, "--agent", "/nowhere"]).contains("/nowhere: No such file"));
    assert!(!image.exists(), "nothing is written before everything is there");
    // What others may write to is no place for an image, and that is said now, not at a pod's start.
    fs::set_permissions(&empty, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let exposed = place.refused(&["guest", "build", "--output", empty.to_str().unwrap(), "--agent", agent, "--tree", tree]);
    assert!(exposed.contains("mode 0777: others than root could change what every guest runs"), "{exposed}");
    // Compiling: the source is looked for when what compiles it is there.
    let small = with_agent(&["--small", "--kernel", "/nowhere.tar.xz", "--work", empty.to_str().unwrap()]);
    assert!(small.contains("/nowhere.tar.xz: no such kernel source") || small.contains("compiling a kernel needs"), "{small}");
}

/// QEMU enters the very file of the image through its PVH note, as the monitor does, and gives it the very initramfs.
#[test]
fn the_image_boots_and_its_modules_load() {
    let Some(place) = Place::open(&["qemu-system-x86_64"]) else { return };
    let image = place.image();
    place.build(&image, &[]);
    assert_eq!(manifest(&image)["kernel"]["format"], "vmlinux");
    let mut machine = Command::new("timeout");
    machine.args([
        "-k",
        "5",
        "240",
        "qemu-system-x86_64",
        "-M",
        "q35",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "512",
        "-nographic",
        "-nodefaults",
    ]);
    machine.args(["-no-reboot", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1", "-kernel"]).arg(part(&image, "kernel"));
    let mut machine =
        machine.arg("-initrd").arg(part(&image, "initramfs")).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu");
    let mut said = Vec::new();
    for line in BufReader::new(machine.stdout.take().unwrap()).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let _ = writeln!(std::io::stdout(), "{line}");
        said.push(line);
    }
    let status = machine.wait().expect("qemu");
    assert!(status.success(), "{status}: {said:?}");
    let has = |text: &str| said.iter().any(|line| line.ends_with(text));
    let release = manifest(&image)["kernel"]["release"].as_str().unwrap().to_owned();
    assert!(has(&format!("init: process 1 of Linux {release}, console 20600")), "{said:?}");
    let failed: Vec<&String> = said.iter().filter(|line| line.contains("init: /modules/")).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for system in ["virtiofs", "overlay", "erofs", "ext4"] {
        assert!(has(&format!("init: has {system}")), "{system}: {said:?}");
    }
    assert!(has("init: done"), "{said:?}");
}
