//! All the firmware there is: nine bytes that reset the machine.
//!
//! A kernel on hardware-reduced ACPI that is built for EFI as well (every distribution's) does not use ACPI's reset register: Linux resets such a machine by
//! EFI, and where there is no EFI, by a jump to the place where a PC's BIOS begins (arch/x86/kernel/reboot.c, `BOOT_EFI`, then `BOOT_BIOS`), in real mode. So
//! the instructions there use the register on its behalf. Without them the guest would execute zeros for ever instead of rebooting.

use vm_memory::{Bytes, GuestMemoryMmap};

use super::error::MachineError;
use super::layout;
use crate::devices::bus::{RESET, RESET_VALUE};

/// 16-bit instructions.
const RESET_CODE: [u8; 9] = [
    0xba,
    RESET.to_le_bytes()[0],
    RESET.to_le_bytes()[1], // mov dx, RESET
    0xb0,
    RESET_VALUE, // mov al, RESET_VALUE
    0xee,        // out dx, al
    0xf4,        // again: hlt
    0xeb,
    0xfd, // jmp again
];

/// Writes it.
///
/// # Errors
/// The memory is not what [`layout`] says.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), MachineError> {
    let failed = |error: vm_memory::GuestMemoryError| MachineError::Memory(RESET_CODE.len() as u64, error.to_string());
    memory.write_slice(&RESET_CODE, layout::RESET_VECTOR).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Address, GuestAddress};

    #[test]
    fn a_jump_to_the_bios_meets_the_reset() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory).unwrap();
        // ffff:0000, in real mode.
        let code: [u8; 9] = memory.read_obj(GuestAddress(0xffff << 4)).unwrap();
        assert_eq!(code[..6], [0xba, 0x02, 0x06, 0xb0, 1, 0xee]);
        // The jump leads back to the halt, and the code ends before 1 MiB.
        assert_eq!(code[6], 0xf4);
        assert_eq!(code.len() as i64 + i64::from(code[8] as i8), 6);
        assert!(layout::RESET_VECTOR.unchecked_add(code.len() as u64) <= layout::HIGH);
    }
}
