//! The serial port: a 16550A at COM1, the guest's first console (`ttyS0`).
//!
//! It only speaks: what the guest writes goes to the host, and nothing comes back. vm-superio has the chip; here is its interrupt.

use std::io::{self, Write};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Chip, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Its interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A serial port.
pub struct Serial {
    chip: Chip<Line, NoEvents, Box<dyn Write + Send>>,
}

impl Serial {
    /// One that writes to `output`, on the thread of the processor that writes to it: an output that blocks stops the guest.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { chip: Chip::new(Line(line), output) })
    }

    /// Its line, for KVM.
    pub fn line(&self) -> &EventFd {
        &self.chip.interrupt_evt().0
    }

    /// The guest reads register `offset`, below 8.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.chip.read(offset)
    }

    /// The guest writes to register `offset`, below 8.
    pub fn write(&mut self, offset: u8, value: u8) {
        // What the output does not take is lost, as on a cable that nobody listens to.
        let _ = self.chip.write(offset, value);
    }
}
