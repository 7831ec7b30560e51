//! The register page of virtio-mmio, version 2 (virtio 1.3, 4.2.2): offsets and fixed values. Every register is 32 bits wide.

/// `MagicValue`: "virt".
pub const MAGIC: u64 = 0x000;
/// What it reads as.
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
/// `Version`.
pub const VERSION: u64 = 0x004;
/// What it reads as: 1 is the legacy interface, which is not here.
pub const VERSION_VALUE: u32 = 2;
/// `DeviceID`.
pub const DEVICE: u64 = 0x008;
/// `VendorID`.
pub const VENDOR: u64 = 0x00c;
/// What it reads as. No driver looks at it.
pub const VENDOR_VALUE: u32 = u32::from_le_bytes(*b"blkh");
/// `DeviceFeatures`: 32 of the features that the device offers.
pub const DEVICE_FEATURES: u64 = 0x010;
/// `DeviceFeaturesSel`: which 32.
pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
/// `DriverFeatures`: 32 of the features that the driver accepts.
pub const DRIVER_FEATURES: u64 = 0x020;
/// `DriverFeaturesSel`: which 32.
pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
/// `QueueSel`: which queue the queue registers speak of.
pub const QUEUE_SELECT: u64 = 0x030;
/// `QueueNumMax` (later `QueueSizeMax`): its largest size; 0: there is no such queue.
pub const QUEUE_SIZE_MAX: u64 = 0x034;
/// `QueueNum` (later `QueueSize`).
pub const QUEUE_SIZE: u64 = 0x038;
/// `QueueReady`.
pub const QUEUE_READY: u64 = 0x044;
/// `QueueNotify`: the driver kicks the queue of that index. KVM answers it, by an eventfd.
pub const QUEUE_NOTIFY: u64 = 0x050;
/// `InterruptStatus`.
pub const INTERRUPT_STATUS: u64 = 0x060;
/// `InterruptACK`: clears bits of it.
pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
/// `Status`.
pub const STATUS: u64 = 0x070;
/// `QueueDescLow` and `QueueDescHigh`: the descriptor table.
pub const QUEUE_TABLE: [u64; 2] = [0x080, 0x084];
/// `QueueDriverLow` and `QueueDriverHigh`: the available ring.
pub const QUEUE_AVAILABLE: [u64; 2] = [0x090, 0x094];
/// `QueueDeviceLow` and `QueueDeviceHigh`: the used ring.
pub const QUEUE_USED: [u64; 2] = [0x0a0, 0x0a4];
/// `SHMLenLow`, `SHMLenHigh`, `SHMBaseLow`, `SHMBaseHigh`. Of a region that does not exist, length and base read as all ones; no device has any.
pub const SHARED_MEMORY: [u64; 4] = [0x0b0, 0x0b4, 0x0b8, 0x0bc];
/// `ConfigGeneration`.
pub const CONFIGURATION_GENERATION: u64 = 0x0fc;
/// `Config`: the device's configuration space, to the end of the page.
pub const CONFIGURATION: u64 = 0x100;

/// Device status (2.1): the guest has seen the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The guest has a driver for it.
pub const DRIVER: u8 = 2;
/// The driver is ready: the device lives.
pub const DRIVER_OK: u8 = 4;
/// The driver has accepted features, and the device these.
pub const FEATURES_OK: u8 = 8;
/// The driver has given up.
pub const FAILED: u8 = 128;
