//! What the guest can touch: every port and every address beside memory, and who answers.
//!
//! | where | what |
//! |---|---|
//! | port 0x3f8 to 0x3ff | [`Serial`] |
//! | port 0x64 | the keyboard controller's command register, of which only "pulse the reset line" is here |
//! | port [`SLEEP_CONTROL`], [`SLEEP_STATUS`], [`RESET`] | ACPI's sleep registers (4.8.3.7) and reset register (4.8.3.6) |
//! | a page each from [`layout::DEVICES`] on | the virtio devices ([`Transport`]) |
//!
//! Anything else reads as all ones, as a PC's empty bus does, and swallows what is written. (Local and I/O APICs are KVM's, and never come here.)
//!
//! Processors call this concurrently. Each device has its own lock, and no lock is taken under another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::{Address, GuestAddress};

use super::mmio::Transport;
use super::serial::Serial;
use crate::vm::layout;

/// COM1: eight registers from here on.
pub const COM1: u16 = 0x3f8;
/// The keyboard controller's command (write) and status (read) register.
const KEYBOARD_CONTROLLER: u16 = 0x64;
/// Its command "pulse output line 0", which is the processor's reset.
const PULSE_RESET: u8 = 0xfe;
/// ACPI's `SLEEP_CONTROL_REG`. The ports are in a range that no PC device has by custom.
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI's `SLEEP_STATUS_REG`. The machine never wakes, so it never says that it did.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI's `RESET_REG`.
pub const RESET: u16 = 0x602;
/// The value that resets ([`RESET`]).
pub const RESET_VALUE: u8 = 1;
/// What `\_S5` says is the type of sleep that is "off" ([`SLEEP_CONTROL`], bits 2 to 4).
pub const SLEEP_TYPE_OFF: u8 = 5;
/// Bit 5 of the sleep control register: now.
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest asks of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To be switched off.
    PowerOff,
    /// To begin again.
    Reset,
}

/// All devices.
pub struct Bus {
    serial: Mutex<Serial>,
    transports: Vec<Mutex<Transport>>,
}

/// A device behind its lock. A panic under it would be a mistake here, and ends the process where panics abort; its state is no worse for it.
fn lock<T>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// A bus with these devices, the virtio ones in the order of their pages.
    pub fn new(serial: Serial, transports: Vec<Transport>) -> Self {
        Self { serial: Mutex::new(serial), transports: transports.into_iter().map(Mutex::new).collect() }
    }

    /// The guest reads `data.len()` bytes from a port. A string instruction reads the same register again and again.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match port {
            COM1..=0x3ff => {
                let mut serial = lock(&self.serial);
                data.fill_with(|| serial.read((port - COM1) as u8));
            }
            // Neither output nor input is pending: a kernel that waits before its command need not.
            KEYBOARD_CONTROLLER | SLEEP_STATUS => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// The guest writes to a port. What it asks of the machine is for the caller to grant.
    #[must_use]
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Request> {
        match (port, data) {
            (COM1..=0x3ff, _) => {
                let mut serial = lock(&self.serial);
                data.iter().for_each(|byte| serial.write((port - COM1) as u8, *byte));
                None
            }
            (KEYBOARD_CONTROLLER, [PULSE_RESET, ..]) | (RESET, [RESET_VALUE, ..]) => Some(Request::Reset),
            (SLEEP_CONTROL, [value, ..]) if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF => Some(Request::PowerOff),
            _ => None,
        }
    }

    /// The guest reads memory that is not there.
    pub fn read(&self, address: GuestAddress, data: &mut [u8]) {
        match self.find(address) {
            Some((transport, offset)) => lock(transport).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes to memory that is not there.
    pub fn write(&self, address: GuestAddress, data: &[u8]) {
        if let Some((transport, offset)) = self.find(address) {
            lock(transport).write(offset, data);
        }
    }

    fn find(&self, address: GuestAddress) -> Option<(&Mutex<Transport>, u64)> {
        let offset = address.checked_offset_from(layout::DEVICES)?;
        let transport = self.transports.get(usize::try_from(offset / layout::PAGE).ok()?)?;
        Some((transport, offset % layout::PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn bus() -> (Bus, Output) {
        let output = Output::default();
        (Bus::new(Serial::new(Box::new(output.clone())).unwrap(), Vec::new()), output)
    }

    #[test]
    fn the_serial_port_speaks_and_interrupts() {
        let (bus, output) = bus();
        // Transmitter empty: the guest may write. Interrupts on when it is.
        let mut status = [0];
        bus.port_read(COM1 + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
        assert_eq!(bus.port_write(COM1 + 1, &[2]), None);
        assert_eq!(bus.port_write(COM1, b"hello"), None);
        assert_eq!(*output.0.lock().unwrap(), b"hello");
        assert!(lock(&bus.serial).line().read().is_ok());
    }

    #[test]
    fn a_guest_switches_itself_off_or_begins_again() {
        let (bus, _) = bus();
        let off = SLEEP_TYPE_OFF << 2 | SLEEP_ENABLE;
        assert_eq!(bus.port_write(SLEEP_CONTROL, &[off]), Some(Request::PowerOff));
        assert_eq!(bus.port_write(SLEEP_CONTROL, &[off & !SLEEP_ENABLE]), None);
        assert_eq!(bus.port_write(SLEEP_CONTROL, &[3 << 2 | SLEEP_ENABLE]), None);
        assert_eq!(bus.port_write(RESET, &[RESET_VALUE]), Some(Request::Reset));
        assert_eq!(bus.port_write(0x64, &[0xfe]), Some(Request::Reset));
        assert_eq!(bus.port_write(0x64, &[0xff]), None);
        assert_eq!(bus.port_write(0x64, &[]), None);
    }

    proptest! {
        /// What is not in the table reads as ones and changes nothing; nothing panics, at the ends of the address space either.
        #[test]
        fn nobody_is_all_ones(port in any::<u16>(), address in prop_oneof![any::<u64>(), 0xd000_0000..0xd002_0000u64], mut data in prop::collection::vec(any::<u8>(), 0..9)) {
            let (bus, _) = bus();
            bus.write(GuestAddress(address), &data);
            bus.read(GuestAddress(address), &mut data);
            prop_assert!(data.iter().all(|byte| *byte == 0xff));
            let known = (COM1..COM1 + 8).contains(&port) || [KEYBOARD_CONTROLLER, SLEEP_STATUS, SLEEP_CONTROL, RESET].contains(&port);
            let request = bus.port_write(port, &data);
            bus.port_read(port, &mut data);
            if !known {
                prop_assert_eq!(request, None);
                prop_assert!(data.iter().all(|byte| *byte == 0xff));
            }
        }
    }
}
