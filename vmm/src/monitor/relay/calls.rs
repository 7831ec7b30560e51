//! A calling client: frames from it to the agent and back, and what an answer means for the streams and trees that its call named.

use std::time::Instant;

use bulkhead_launch::log;
use bulkhead_protocol::call::{Code, Refusal, decode_call};
use bulkhead_protocol::frame::Frame;

use super::attach::Needs;
use super::client::{Attaching, Calls, Client, ClientKind, Pending, settle};
use super::held::{GRACE, Held};
use super::{Entry, Outcome, Relay};

impl Relay<'_> {
    /// Carries frames. `guest`: which side has become ready; none where something else has changed. False: the connection is over.
    pub(super) fn calls(&mut self, entry: u64, client: &mut Client, guest: Option<bool>) -> bool {
        let ClientKind::Calls(calls) = &mut client.kind else { return false };
        match guest {
            Some(false) if !calls.gone && !calls.read_client(client.socket.get()) => self.client_has_gone(calls),
            Some(true) if !calls.read_agent() => calls.agent = None,
            _ => {}
        }
        loop {
            let answered = self.answers(entry, calls);
            let asked = answered.is_some() && !calls.gone && self.requests(entry, calls);
            if answered.is_none() || !calls.flush(client.socket.get()) {
                return false;
            }
            if self.book.is_over() {
                self.outcome = Some(Outcome::Over);
            }
            // What has been sent makes room for what waits in the decoders.
            if !asked && answered != Some(true) {
                break;
            }
        }
        calls.watch(&mut client.socket).is_ok()
    }

    /// Something has changed for a client that calls.
    pub(super) fn resume(&mut self, entry: u64, mut client: Client) {
        if self.calls(entry, &mut client, None) {
            self.entries.insert(entry, Entry::Client(client));
        } else {
            self.end_client(client);
        }
    }

    /// Passes the agent's frames on. Whether there were any; none where they are no frames.
    fn answers(&mut self, entry: u64, calls: &mut Calls) -> Option<bool> {
        let mut any = false;
        loop {
            match calls.answer() {
                Ok(None) => return Some(any),
                Ok(Some(frame)) => {
                    any = true;
                    match calls.pending.remove(&frame.stream) {
                        Some(Pending::Wait(process)) if self.outputs(&process).next().is_some() => {
                            let bytes = settle(&Pending::Wait(process.clone()), &frame).1;
                            self.held.push(Held { client: entry, process, bytes, until: Instant::now() + GRACE });
                        }
                        Some(pending) => {
                            let (outcome, bytes) = settle(&pending, &frame);
                            self.settled(pending, outcome);
                            calls.to_client.push(&bytes);
                        }
                        None => calls.to_client.push(&frame.encode().ok()?),
                    }
                }
                Err(error) => {
                    log::error(&format!("control: from the guest: {error}"));
                    return None;
                }
            }
        }
    }

    /// Passes the client's frames on, up to one that waits for its streams. Whether there were any.
    fn requests(&mut self, entry: u64, calls: &mut Calls) -> bool {
        let mut any = false;
        loop {
            match calls.request() {
                Ok(None) => return any,
                Ok(Some(frame)) => {
                    any = true;
                    if let Err(refusal) = self.request(entry, calls, &frame) {
                        calls.refuse(frame.stream, &refusal);
                    }
                }
                Err(error) => {
                    log::error(&format!("control: {error}"));
                    self.client_has_gone(calls);
                    return any;
                }
            }
        }
    }

    fn request(&mut self, entry: u64, calls: &mut Calls, frame: &Frame) -> Result<(), Refusal> {
        let bytes = frame.encode().map_err(|error| Refusal::new(Code::InvalidArgument, error.to_string()))?;
        // What is no call of the service is the agent's to refuse.
        let Ok(call) = decode_call(frame) else {
            calls.to_agent.push(&bytes);
            return Ok(());
        };
        let (streams, mut pending) = match Needs::of(&call, &mut |identifier| self.attached.remove(&identifier))? {
            Needs::Create { container, streams, trees } => {
                let trees = self.book.begin(&container, trees).map_err(|(name, error)| {
                    Refusal::new(Code::Internal, format!("showing tree {name} of container {container} to the guest: {error}"))
                })?;
                (streams, Pending::Create { container, trees, pumps: Vec::new() })
            }
            Needs::Exec { streams } => (streams, Pending::Exec { pumps: Vec::new() }),
            Needs::Start(process) => {
                self.announce_sizes(&process);
                calls.to_agent.push(&bytes);
                return Ok(());
            }
            Needs::Wait(process) => (Vec::new(), Pending::Wait(process)),
            Needs::Delete { container } => (Vec::new(), Pending::Delete { container }),
            Needs::Nothing => {
                calls.to_agent.push(&bytes);
                return Ok(());
            }
        };
        let left = streams.len();
        for stream in streams {
            let identifier = stream.identifier;
            match self.attach(entry, stream) {
                Ok(pump) => pending.pumps_mut().into_iter().for_each(|pumps| pumps.push(pump)),
                Err(error) => {
                    let refusal = Refusal::new(Code::Internal, format!("attaching stream {identifier}: {error}"));
                    self.settled(pending, Err(refusal.clone()));
                    return Err(refusal);
                }
            }
        }
        let attaching = Attaching { stream: frame.stream, frame: bytes, left, pending };
        if left == 0 {
            forward(calls, attaching)
        } else {
            calls.attaching = Some(attaching)
        }
        Ok(())
    }

    /// An answer has come.
    pub(super) fn settled(&mut self, pending: Pending, outcome: Result<(), Refusal>) {
        for &entry in pending.pumps() {
            let Some(Entry::Pump(mut pump)) = self.entries.remove(&entry) else { continue };
            if outcome.is_ok() && pump.begin().is_ok() && self.carry(&mut pump) {
                self.entries.insert(entry, Entry::Pump(pump));
            }
        }
        match (pending, outcome) {
            (Pending::Create { container, .. }, Ok(())) => self.book.created(&container),
            (Pending::Create { container, trees, .. }, Err(_)) => self.book.refused(&container, &trees),
            (Pending::Delete { container }, Ok(())) => self.book.deleted(&container, true),
            (Pending::Delete { container }, Err(refusal)) if refusal.code == Code::NotFound => self.book.deleted(&container, false),
            (Pending::Delete { .. } | Pending::Exec { .. } | Pending::Wait(_), _) => {}
        }
    }

    /// A client has gone: what it has asked is still delivered, what it waits for is not.
    pub(super) fn client_has_gone(&mut self, calls: &mut Calls) {
        calls.gone = true;
        if let Some(attaching) = calls.attaching.take() {
            let refusal = Refusal::new(Code::Internal, "the client has gone");
            self.settled(attaching.pending, Err(refusal));
        }
        for (_, pending) in calls.pending.drain() {
            for pump in pending.pumps() {
                self.entries.remove(pump);
            }
            if let Pending::Create { container, .. } = pending {
                self.book.abandoned(&container);
            }
        }
    }
}

/// Sends a request whose streams have all been taken.
pub(super) fn forward(calls: &mut Calls, attaching: Attaching) {
    calls.to_agent.push(&attaching.frame);
    calls.pending.insert(attaching.stream, attaching.pending);
}
