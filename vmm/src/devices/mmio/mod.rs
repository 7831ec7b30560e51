//! The transport between a guest's driver and a [`Device`]: a page of registers (virtio 1.3, 4.2).
//!
//! The registers are hostile input that comes one word at a time, from any processor, in any order. So the transport holds the driver to the order of
//! section 3.1.1 and ignores what comes out of turn:
//!
//! ```text
//! reset -> ACKNOWLEDGE -> DRIVER -> (features) -> FEATURES_OK -> (queues) -> DRIVER_OK
//! ```
//!
//! Bits of the status register are only ever added, a write of 0 excepted. Features are written between `DRIVER` and `FEATURES_OK`, which stays unset unless
//! they are a subset of those offered with `VERSION_1` among them; queues are described between `FEATURES_OK` and `DRIVER_OK`. With `DRIVER_OK` the ready
//! queues are checked and handed to the device; if one is no queue, or the device cannot start, the driver sees `DEVICE_NEEDS_RESET`.
//!
//! The two registers that are touched in operation cost no lock: a kick (`QueueNotify`) is an ioeventfd of KVM's, an interrupt an irqfd.
//!
//! Not here, because no device needs it: the legacy interface, shared memory regions, `VIRTIO_F_RING_RESET`, packed queues.

mod queue;
pub mod registers;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::Ordering;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue, Device, Interrupt, STATUS_NEEDS_RESET, VERSION_1};
use queue::Description;
use registers::*;

/// How much of the configuration space is watched for changes, bytes. virtio's longest of the devices here is shorter.
const WATCHED: usize = 256;

/// One device's registers.
pub struct Transport {
    device: Box<dyn Device>,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    /// One for each queue, for as long as the machine lives: KVM signals them.
    kicks: Vec<EventFd>,
    queues: Vec<Description>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    generation: u32,
    /// The configuration space as it was when the generation was last read.
    configuration: [u8; WATCHED],
    /// The device has been activated and not reset.
    active: bool,
}

impl Transport {
    /// Registers for a device that reaches `memory`.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(device: Box<dyn Device>, memory: GuestMemoryMmap) -> io::Result<Self> {
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let queues = device.queue_sizes().len();
        let kicks = (0..queues).map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)).collect::<io::Result<Vec<_>>>()?;
        let mut transport = Self {
            device,
            memory,
            interrupt,
            kicks,
            queues: vec![Description::default(); queues],
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            generation: 0,
            configuration: [0; WATCHED],
            active: false,
        };
        transport.device.read_configuration(0, &mut transport.configuration);
        Ok(transport)
    }

    /// The queues' eventfds, in order, for KVM.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The device's line, for KVM.
    pub fn line(&self) -> &EventFd {
        self.interrupt.line()
    }

    /// The guest reads `data.len()` bytes at `offset` in the page. What is no register reads as all ones.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            return self.device.read_configuration(offset, data);
        }
        data.fill(0xff);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    /// The guest writes `data` at `offset` in the page. What is no register, what is read-only and what comes out of turn is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            // A driver may not use the device before it has accepted features (3.1.1).
            if self.status() & FEATURES_OK != 0 {
                self.device.write_configuration(offset, data);
            }
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    fn status(&self) -> u8 {
        self.interrupt.status().load(Ordering::SeqCst)
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        let selected = usize::try_from(self.queue_select).ok().filter(|index| *index < self.queues.len());
        match offset {
            MAGIC => MAGIC_VALUE,
            VERSION => VERSION_VALUE,
            DEVICE => self.device.kind() as u32,
            VENDOR => VENDOR_VALUE,
            DEVICE_FEATURES => match self.device_features_select {
                0 => self.offered() as u32,
                1 => (self.offered() >> 32) as u32,
                _ => 0,
            },
            QUEUE_SIZE_MAX => selected.map_or(0, |index| self.device.queue_sizes()[index].into()),
            QUEUE_READY => selected.map_or(0, |index| self.queues[index].ready.into()),
            INTERRUPT_STATUS => self.interrupt.cause().load(Ordering::SeqCst),
            STATUS => self.status().into(),
            CONFIGURATION_GENERATION => self.read_generation(),
            _ => u32::MAX,
        }
    }

    /// The generation changes when the space is not what it was at the last look. A driver reads the generation, a field in parts, and the generation again: so
    /// it learns of every change in between.
    fn read_generation(&mut self) -> u32 {
        let mut now = [0; WATCHED];
        self.device.read_configuration(0, &mut now);
        if now != self.configuration {
            self.configuration = now;
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURES_SELECT => self.device_features_select = value,
            DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            DRIVER_FEATURES => self.write_features(value),
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_NOTIFY => self.kick(value),
            INTERRUPT_ACKNOWLEDGE => {
                self.interrupt.cause().fetch_and(!value, Ordering::SeqCst);
            }
            STATUS => self.write_status(value),
            _ => self.write_queue(offset, value),
        }
    }

    fn write_features(&mut self, value: u32) {
        if self.status() & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_select {
            0 => self.driver_features = self.driver_features >> 32 << 32 | value,
            1 => self.driver_features = self.driver_features & u64::from(u32::MAX) | value << 32,
            // There is nothing to accept: a driver that does is refused below, by a feature that nobody offers.
            _ if value != 0 => self.driver_features |= !self.offered(),
            _ => {}
        }
    }

    /// A kick that KVM did not take: of another width than its eventfd's, or where there is no KVM, in tests.
    fn kick(&self, index: u32) {
        if let Some(kick) = self.kicks.get(index as usize) {
            // It fails only where the counter would overflow: then the worker has been told.
            let _ = kick.write(1);
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        if self.status() & (FEATURES_OK | DRIVER_OK) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        if offset == QUEUE_READY {
            queue.ready = value == 1;
            return;
        }
        // A queue that is ready does not change (4.2.2.2).
        if queue.ready {
            return;
        }
        match offset {
            QUEUE_SIZE => queue.size = value,
            _ => {
                let halves = [(QUEUE_TABLE, &mut queue.table), (QUEUE_AVAILABLE, &mut queue.available), (QUEUE_USED, &mut queue.used)];
                for ([low, high], address) in halves {
                    if offset == low {
                        *address = *address >> 32 << 32 | u64::from(value);
                    } else if offset == high {
                        *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
                    }
                }
            }
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let Ok(value) = u8::try_from(value) else { return };
        let old = self.status();
        let ours = old & STATUS_NEEDS_RESET;
        let asked = value & !STATUS_NEEDS_RESET;
        // The driver never takes a bit back, nor does anything more once it has given up.
        if asked & old != old & !ours || old & FAILED != 0 {
            return;
        }
        let mut new = old & !ours;
        // Each step needs the one before it; DRIVER_OK even in an earlier write, for the driver has to read FEATURES_OK back.
        if asked & ACKNOWLEDGE != 0 {
            new |= ACKNOWLEDGE;
        }
        if asked & DRIVER != 0 && new & ACKNOWLEDGE != 0 {
            new |= DRIVER;
        }
        if asked & FEATURES_OK != 0 && new & DRIVER != 0 && self.features_are_good() {
            new |= FEATURES_OK;
        }
        if asked & DRIVER_OK != 0 && old & FEATURES_OK != 0 {
            new |= DRIVER_OK;
        }
        new |= asked & FAILED;
        // A worker may ask for a reset at the same time: its bit is added, never lost.
        self.interrupt.status().fetch_or(new, Ordering::SeqCst);
        if new & !old & DRIVER_OK != 0 {
            self.activate();
        }
    }

    fn features_are_good(&self) -> bool {
        self.driver_features & VERSION_1 != 0 && self.driver_features & !self.offered() == 0
    }

    /// Hands the ready queues to the device.
    fn activate(&mut self) {
        let described = self.queues.iter().zip(self.device.queue_sizes()).zip(&self.kicks).enumerate();
        let ready = described.filter(|(_, ((description, _), _))| description.ready);
        let queues = ready
            .map(|(index, ((description, most), kick))| {
                let queue = description.queue(*most, &self.memory)?;
                Some((index, ActiveQueue { queue, kick: kick.try_clone().ok()? }))
            })
            .collect::<Option<Vec<_>>>();
        let Some(queues) = queues else { return self.interrupt.needs_reset() };
        let activation =
            Activation { memory: self.memory.clone(), queues, interrupt: self.interrupt.clone(), features: self.driver_features };
        self.active = true;
        if self.device.activate(activation).is_err() {
            self.interrupt.needs_reset();
        }
    }

    /// Everything as it was at the beginning (2.4). When it returns no worker touches guest memory.
    fn reset(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
        }
        for kick in &self.kicks {
            // What was kicked before the reset is no kick after it. Non-blocking: there may have been none.
            let _ = kick.read();
        }
        self.queues.fill(Description::default());
        (self.device_features_select, self.driver_features_select, self.driver_features, self.queue_select) = (0, 0, 0, 0);
        self.interrupt.cause().store(0, Ordering::SeqCst);
        self.interrupt.status().store(0, Ordering::SeqCst);
    }
}
