//! What a monitor and the agent in its guest say to each other beside the control protocol.
//!
//! All of it is over vsock. The guest dials first: until the agent has said [`READY`] nothing else works.
//!
//! | port | listens | carries |
//! |---|---|---|
//! | [`BOOT_PORT`] | the monitor | [`Boot`] to the agent, framed by [`write_message`]; back one byte [`READY`], or [`FAILED`] and a framed text. The connection then stays open |
//! | [`CONTROL_PORT`] | the agent | ttrpc, exactly as on a wall's Unix socket; one connection for each client's |
//! | [`STREAMS_PORT`] | the agent | one connection for each byte stream that a request names: its identifier (32 bits, little endian), one byte [`READY`] back, then bytes |
//!
//! A stream that is a process's standard input ends for the process when the monitor shuts its direction down. A stream that is a console
//! carries what is typed and what is shown; the terminal itself is in the guest.
//!
//! Directories of the host do not travel: the tree attached as stream N is the entry named N (decimal) of the file system with the tag
//! [`SHARED_TAG`], which the agent mounts at [`SHARED`].

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The guest's own address (`VMADDR_CID_HOST` is 2; a guest's begin at 3).
pub const GUEST_CID: u64 = 3;
/// Where the monitor waits for the agent.
pub const BOOT_PORT: u32 = 1024;
/// Where the agent serves the control protocol.
pub const CONTROL_PORT: u32 = 1025;
/// Where the agent takes streams.
pub const STREAMS_PORT: u32 = 1026;
/// The agent serves; a stream is attached.
pub const READY: u8 = 1;
/// The agent can not serve; why follows.
pub const FAILED: u8 = 2;
/// The tag of the file system that holds trees.
pub const SHARED_TAG: &str = "bulkhead";
/// Where the agent mounts it.
pub const SHARED: &str = "/run/bulkhead/shared";
/// The longest message, bytes.
const LONGEST: u32 = 4 << 20;

/// What the guest is told when it boots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// Random bytes for the guest's own source of them.
    pub entropy: Vec<u8>,
    /// Nanoseconds since the epoch.
    pub time: i64,
    /// The pod's network: its interfaces, as they are in the pod's network namespace on the host.
    pub network: Network,
    /// Log more.
    pub debug: bool,
}

/// A network namespace's configuration. Addresses are text: `10.0.0.2/24`, `fd00::2/64`, `10.0.0.1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// In their order; the loopback interface aside.
    pub interfaces: Vec<Interface>,
    /// In the order in which they can be added.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Sysctls below `net.` that config.json sets: names with dots, values.
    pub sysctls: Vec<(String, String)>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the pod, which it gets in the guest too.
    pub name: String,
    /// By which the guest finds its card.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// With prefix lengths, in the order in which they are added; `10.0.0.1 peer 10.0.0.2/32` on a link with two ends.
    pub addresses: Vec<String>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// With its prefix length; `0.0.0.0/0` and `::/0` are defaults.
    pub destination: String,
    /// None: on the link.
    pub gateway: Option<String>,
    /// The interface's name.
    pub interface: String,
    /// The address to send from.
    pub source: Option<String>,
    /// Its priority; 0 where there is none.
    pub metric: u32,
    /// `RTN_UNICAST` and the like, `RT_SCOPE_LINK` and the like, and flags as `RTNH_F_ONLINK` (rtnetlink(7)).
    pub kind: u8,
    /// The scope.
    pub scope: u8,
    /// The flags.
    pub flags: u32,
    /// `RTAX_MTU` and the like, with their values (`RTA_METRICS`).
    #[serde(default)]
    pub options: Vec<(u16, u32)>,
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: String,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The interface's name.
    pub interface: String,
}

/// Writes a message: its length (32 bits, little endian), then JSON.
///
/// # Errors
/// The connection's.
pub fn write_message(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST).ok_or(io::ErrorKind::InvalidInput)?;
    to.write_all(&[&length.to_le_bytes()[..], &text].concat())
}

/// Reads what [`write_message`] wrote.
///
/// # Errors
/// The connection's; `InvalidData` for anything else.
pub fn read_message<T: for<'a> Deserialize<'a>>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut text = Vec::new();
    from.take(length.into()).read_to_end(&mut text)?;
    if text.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let interface = Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], mtu: 1450, addresses: vec!["10.0.0.2/24".into()] };
        let network = Network { interfaces: vec![interface], ..Network::default() };
        let boot = Boot { entropy: vec![1, 2], time: 3, network, debug: true };
        let mut wire = Vec::new();
        write_message(&mut wire, &boot).unwrap();
        assert_eq!(read_message::<Boot>(wire.as_slice()).unwrap(), boot);
        assert_eq!(read_message::<Boot>(&wire[..wire.len() - 1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(read_message::<Boot>([0xff, 0xff, 0xff, 0xff].as_slice()).unwrap_err().to_string().contains("4294967295 bytes"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_message::<Boot>(bytes.as_slice()).is_err());
        }
    }
}
