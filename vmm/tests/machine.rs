//! Machines whose guests are a few instructions each, started as a kernel is: by an ELF file with a PVH note. They need a KVM that runs guests (`hack/lab`);
//! elsewhere each test says that it was left out.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bulkhead_vmm::devices::device::{Activation, Device, Kind};
use bulkhead_vmm::vm::probe::{self, ProbeError};
use bulkhead_vmm::vm::{self, Configuration, End, Machine, MachineError, Running};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where the guest's code is.
const START: u32 = 16 << 20;

/// `out 0x64, 0xfe; hlt`: reset. `SLEEP_CONTROL <- 5 << 2 | 0x20; hlt`: off.
const RESET: [u8; 5] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4];
const OFF: [u8; 8] = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4];

/// A kernel of that code, in 32-bit mode.
fn kernel(code: &[u8]) -> File {
    let mut file = vec![0; 64 + 2 * 56];
    let note = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), START].map(u32::to_le_bytes).concat();
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01");
    // Machine, program headers: where, of what size, how many.
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    for (at, kind, offset, length) in [(64, 4u32, 176, note.len()), (120, 1, 176 + note.len(), code.len())] {
        put(at, &kind.to_le_bytes());
        put(at + 8, &(offset as u64).to_le_bytes());
        put(at + 24, &u64::from(START).to_le_bytes());
        put(at + 32, &(length as u64).to_le_bytes());
        put(at + 40, &(length as u64).to_le_bytes());
    }
    file.extend([&note[..], code].concat());
    let mut kernel = tempfile::tempfile().unwrap();
    kernel.write_all(&file).unwrap();
    kernel
}

/// Counts what the serial port says.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(data.len(), Ordering::SeqCst);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn build(code: &[u8], vcpus: u8, devices: Vec<Box<dyn Device>>) -> Option<(Machine, Count)> {
    static PROBE: LazyLock<Result<Duration, ProbeError>> = LazyLock::new(probe::run);
    if let Err(why) = &*PROBE {
        eprintln!("left out: {why}");
        return None;
    }
    let count = Count::default();
    let configuration = Configuration {
        vcpus,
        memory: 64 << 20,
        kernel: kernel(code),
        initramfs: None,
        command_line: String::new(),
        devices,
        serial: Box::new(count.clone()),
    };
    Some((Machine::build(vm::open().unwrap(), configuration).unwrap(), count))
}

fn start(code: &[u8], vcpus: u8) -> Option<(Running, Count)> {
    let (machine, count) = build(code, vcpus, Vec::new())?;
    Some((machine.start(Arc::new(|| Ok(()))).unwrap(), count))
}

/// Waits for the end, for a minute at most.
fn end(running: &Running) -> End {
    assert_eq!(poll(&mut [PollFd::new(running.ended(), PollFlags::POLLIN)], PollTimeout::from(60_000u16)).unwrap(), 1, "no end");
    running.end().expect("an end has a reason")
}

#[test]
fn a_guest_ends_as_it_asks_to() {
    for (code, expected) in [(&OFF[..], End::Shutdown), (&RESET, End::Reset)] {
        // With others that wait for a start that never comes.
        let Some((mut running, _)) = start(code, 3) else { return };
        assert_eq!(end(&running), expected);
        running.stop();
        assert_eq!(running.end(), Some(expected));
    }
}

#[test]
fn a_triple_fault_is_a_crash() {
    // int3, where no interrupt table is.
    let Some((running, _)) = start(&[0xcc], 1) else { return };
    assert_eq!(end(&running), End::Crash("virtual processor 0: triple fault".into()));
}

#[test]
fn a_paused_guest_does_nothing_until_it_goes_on() {
    // mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
    let Some((mut running, count)) = start(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd], 2) else { return };
    let spoken = || count.0.load(Ordering::SeqCst);
    let more_than = |before| {
        (0..600).any(|_| {
            spoken() > before || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        })
    };
    for _ in 0..3 {
        assert!(more_than(spoken()));
        running.pause();
        let before = spoken();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(spoken(), before);
        running.resume();
    }
    running.stop();
    let before = spoken();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((spoken(), running.end()), (before, None));
    // Nothing wakes it again, nor waits for it.
    running.resume();
    running.pause();
}

#[test]
fn a_guest_that_never_leaves_is_taken_out() {
    // again: jmp again
    let Some((mut running, _)) = start(&[0xeb, 0xfe], 2) else { return };
    for _ in 0..50 {
        running.pause();
        running.resume();
    }
    running.stop();
    assert_eq!(running.end(), None);
}

#[test]
fn no_instruction_runs_unconfined() {
    let Some((machine, count)) = build(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd], 4, Vec::new()) else { return };
    let threads = Arc::new(AtomicUsize::default());
    let counted = threads.clone();
    let confine = move || match counted.fetch_add(1, Ordering::SeqCst) {
        2 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    };
    let Err(MachineError::Confine(_, error)) = machine.start(Arc::new(confine)) else { panic!("started") };
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!((threads.load(Ordering::SeqCst), count.0.load(Ordering::SeqCst)), (4, 0));
}

/// A device that nobody drives.
struct Idle;

impl Device for Idle {
    fn kind(&self) -> Kind {
        Kind::Balloon
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_configuration(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _: Activation) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) {}
}

/// `code` leaves the zero flag set if all is well: then off, else reset.
fn judge(code: &[u8]) -> Vec<u8> {
    [code, &[0x74, RESET.len() as u8], &RESET, &OFF].concat()
}

#[test]
fn the_guest_finds_devices_and_nothing_beside_them() {
    let checks: [&[u8]; 4] = [
        // mov eax, [0xd0000000]; cmp eax, "virt"
        &[0xa1, 0, 0, 0, 0xd0, 0x3d, b'v', b'i', b'r', b't'],
        // mov eax, [0xd0000008]; cmp eax, 5
        &[0xa1, 8, 0, 0, 0xd0, 0x83, 0xf8, 5],
        // mov eax, [0xd0001000]; cmp eax, -1
        &[0xa1, 0, 0x10, 0, 0xd0, 0x83, 0xf8, 0xff],
        // in al, 0x80; cmp al, 0xff
        &[0xe4, 0x80, 0x3c, 0xff],
    ];
    for code in checks {
        let Some((machine, _)) = build(&judge(code), 1, vec![Box::new(Idle)]) else { return };
        let running = machine.start(Arc::new(|| Ok(()))).unwrap();
        assert_eq!(end(&running), End::Shutdown, "{code:x?}");
    }
}
