//! `debug`: the tables that the wall is made of, and what passes through it.

use bulkhead_protocol::messages::ContainerRequest;
use clap::Subcommand;

use crate::lifecycle::{self, Session};

#[derive(Subcommand)]
pub enum Debug {
    /// What a container called, how often, and what was refused
    Syscalls { id: String },
    /// What a workload may have the host execute
    DirectSet,
    /// What the kernel process may have the host execute
    KernelCalls,
    /// Which fields of config.json are honoured
    ConfigFields,
}

impl Debug {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        match self {
            Debug::Syscalls { id } => {
                let (mut client, _) = lifecycle::client(session, &id)?;
                let mut request = ContainerRequest::new();
                request.container_id = id;
                let mut counts = client.syscall_counts(&request)?.counts;
                counts.sort_by_key(|count| std::cmp::Reverse(count.calls));
                println!("{:>10} {:>10}  CALL", "CALLS", "REFUSED");
                for count in counts {
                    println!("{:>10} {:>10}  {}", count.calls, count.refused, count.name);
                }
            }
            Debug::DirectSet => {
                for row in bulkhead_sandbox::platform::direct::TABLE {
                    println!("{:>4} {:<24} direct: {}", row.number, row.name, row.reason);
                }
                for row in bulkhead_sandbox::platform::let_go::TABLE {
                    println!("{:>4} {:<24} let go: {}", row.number, row.name, row.reason);
                }
            }
            Debug::KernelCalls => {
                for row in bulkhead_sandbox::confine::CALLS {
                    println!("{:>4} {:<24} {}", row.number, row.name, row.reason);
                }
            }
            Debug::ConfigFields => print!("{}", crate::oci::fields::markdown()),
        }
        Ok(0)
    }
}
