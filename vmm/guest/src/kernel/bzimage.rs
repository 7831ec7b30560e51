//! The wrapping of a kernel: the setup header (`Documentation/arch/x86/boot.rst`, protocol 2.08 and later).

/// Why a file is no bzImage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    /// The header does not fit into it.
    #[error("too short for a bzImage")]
    Short,
    /// The header's signatures are not there.
    #[error("no setup header")]
    NoHeader,
    /// A header from before the payload could be found.
    #[error("boot protocol {}.{:02}, where 2.08 is needed", .0 >> 8, .0 & 0xff)]
    Old(u16),
    /// The release is not where the header says.
    #[error("no release in it")]
    NoRelease,
    /// The payload is not where the header says.
    #[error("cut short: its payload ends beyond the file")]
    Truncated,
}

/// A bzImage's parts.
#[derive(Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// The first word of its version string: the release.
    pub release: String,
    /// The packed kernel; `None` for one without.
    pub payload: Option<&'a [u8]>,
}

/// Offsets in the setup header, by its documentation's names.
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const END: usize = 0x250;

/// Finds release and payload.
///
/// # Errors
/// [`BzImageError`].
pub fn parse(file: &[u8]) -> Result<BzImage<'_>, BzImageError> {
    let header = file.get(..END).ok_or(BzImageError::Short)?;
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    if u16_at(BOOT_FLAG) != 0xaa55 || &header[HEADER..HEADER + 4] != b"HdrS" {
        return Err(BzImageError::NoHeader);
    }
    if u16_at(VERSION) < 0x208 {
        return Err(BzImageError::Old(u16_at(VERSION)));
    }
    // The version string is 0x200 less than where it is from the file's beginning; its first word is the release, the rest says who built it.
    let text = file.get(usize::from(u16_at(KERNEL_VERSION)) + 0x200..).unwrap_or_default();
    let release = text.split(|byte| [0, b' '].contains(byte)).next().unwrap_or_default();
    let release = std::str::from_utf8(release).ok().filter(|release| (1..=64).contains(&release.len())).ok_or(BzImageError::NoRelease)?;
    // "If setup_sects is 0, it is 4"; the payload's offset is from the end of the setup, which has one sector more.
    let sectors = if header[SETUP_SECTS] == 0 { 4 } else { usize::from(header[SETUP_SECTS]) };
    let start = (sectors + 1) * 512 + u32_at(PAYLOAD_OFFSET);
    let length = u32_at(PAYLOAD_LENGTH);
    let payload = file.get(start..start + length).ok_or(BzImageError::Truncated)?;
    // Formats other than gzip's do not end in their unpacked size, which the decompressor wants: the kernel's build appends it, four bytes
    // (scripts/Makefile.lib: size_append), and programs take it for garbage.
    let packed = if payload.starts_with(b"\x1f\x8b") { payload } else { &payload[..payload.len().saturating_sub(4)] };
    Ok(BzImage { release: release.to_owned(), payload: (!packed.is_empty()).then_some(packed) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bzImage around a payload.
    pub(crate) fn wrap(version: &str, payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * 512];
        file[SETUP_SECTS] = 2;
        file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&0xaa55u16.to_le_bytes());
        file[HEADER..HEADER + 4].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
        file[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100u16.to_le_bytes());
        file[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&7u32.to_le_bytes());
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(&[0xcc; 7]);
        file.extend_from_slice(payload);
        file
    }

    #[test]
    fn release_and_payload_are_found() {
        let file = wrap("6.12.1-x (a@b) #1", b"\x28\xb5\x2f\xfdpacked\x01\x02\x03\x04");
        let expected = BzImage { release: "6.12.1-x".into(), payload: Some(b"\x28\xb5\x2f\xfdpacked") };
        assert_eq!(parse(&file).unwrap(), expected);
        assert_eq!(parse(&wrap("6.1", b"\x1f\x8b1234")).unwrap().payload, Some(&b"\x1f\x8b1234"[..]));
        assert_eq!(parse(&wrap("6.1", b"")).unwrap().payload, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = wrap("6.1", b"payload");
        assert_eq!(parse(&good[..END - 1]), Err(BzImageError::Short));
        assert_eq!(parse(&good[..good.len() - 1]), Err(BzImageError::Truncated));
        let changed = |at: usize, byte: u8| {
            let mut file = good.clone();
            file[at] = byte;
            parse(&file).map(|_| ()).unwrap_err()
        };
        assert_eq!(changed(HEADER, b'h'), BzImageError::NoHeader);
        assert_eq!(changed(BOOT_FLAG, 0), BzImageError::NoHeader);
        assert_eq!(changed(VERSION, 7).to_string(), "boot protocol 2.07, where 2.08 is needed");
        assert_eq!(changed(KERNEL_VERSION + 1, 0xff), BzImageError::NoRelease);
        assert_eq!(changed(0x300, 0), BzImageError::NoRelease);
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(at in 0usize..END, bytes in any::<[u8; 4]>()) {
            let mut file = wrap("6.1", b"payload");
            file[at..at + 4].copy_from_slice(&bytes);
            if let Ok(image) = parse(&file) {
                prop_assert!(!image.release.is_empty());
            }
        }
    }
}
