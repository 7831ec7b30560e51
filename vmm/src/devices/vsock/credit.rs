//! Who may send how much (virtio 1.3, section 5.10.6.3).
//!
//! Each side tells in every packet how many bytes it holds at most for a connection (`buf_alloc`) and how many its program has taken so far
//! (`fwd_cnt`, modulo 2^32); the other may have sent the sum of both and no more. What the guest tells bounds only what it is sent, so it may lie; what it
//! sends is bounded by what it was told.

use super::CREDIT;
use super::packet::Header;

/// The guest sent more than it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Overrun;

/// A connection's account, both directions.
#[derive(Debug, Default)]
pub struct Credit {
    /// What the guest said last: bytes that it holds at most, bytes that its program has taken.
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Bytes sent to it.
    sent: u32,
    /// It has been asked for credit since it last had any.
    asked: bool,
    /// Bytes received from the guest.
    received: u32,
    /// Of which the host's end has taken.
    forwarded: u32,
    /// Of which the guest has been told.
    told: u32,
}

impl Credit {
    /// Believes what the guest says in a packet.
    pub fn update(&mut self, header: &Header) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = header.forwarded;
        self.asked &= self.available() == 0;
    }

    /// Bytes that the guest takes now. A guest that claims to have taken more than it was sent takes nothing.
    pub fn available(&self) -> usize {
        let travelling = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(travelling) as usize
    }

    /// Counts bytes sent to the guest, at most as many as were available.
    pub fn spend(&mut self, count: usize) {
        debug_assert!(count <= self.available());
        self.sent = self.sent.wrapping_add(count as u32);
    }

    /// Whether the guest should be asked for credit: once, until it gives some.
    pub fn must_ask(&self) -> bool {
        !self.asked && self.available() == 0
    }

    /// It was asked.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Counts bytes that the guest sent.
    ///
    /// # Errors
    /// It had not that much credit; nothing is counted.
    pub fn receive(&mut self, count: usize) -> Result<(), Overrun> {
        // `received - told` is at most CREDIT: that is what is kept here.
        let left = CREDIT - self.received.wrapping_sub(self.told);
        let count = u32::try_from(count).ok().filter(|count| *count <= left).ok_or(Overrun)?;
        self.received = self.received.wrapping_add(count);
        Ok(())
    }

    /// Counts bytes that the host's end took.
    pub fn forward(&mut self, count: usize) {
        self.forwarded = self.forwarded.wrapping_add(count as u32);
        debug_assert!(self.received.wrapping_sub(self.forwarded) <= CREDIT);
    }

    /// Whether the guest should hear of what was taken: at half of its credit, so that it seldom waits and is seldom told.
    pub fn must_tell(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= CREDIT / 2
    }

    /// What a packet that is now sent tells: `buf_alloc` and `fwd_cnt`.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (CREDIT, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Update(u32, u32),
        Send(u32),
        Receive(u32),
        Forward(u32),
        Tell,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let small = 0..2 * CREDIT;
        let step = prop_oneof![
            (any::<u32>(), any::<u32>()).prop_map(|(buffer, forwarded)| Step::Update(buffer, forwarded)),
            small.clone().prop_map(Step::Send),
            small.clone().prop_map(Step::Receive),
            small.prop_map(Step::Forward),
            Just(Step::Tell),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Checked with numbers that do not wrap.
        #[test]
        fn nobody_exceeds_credit(steps in steps()) {
            let mut credit = Credit::default();
            let (mut received, mut forwarded, mut told, mut sent, mut limit) = (0u64, 0u64, 0u64, 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Update(buffer, taken) => {
                        credit.update(&Header { buffer, forwarded: taken, ..Header::default() });
                        // An honest guest's numbers; a liar's limit is only that the arithmetic holds.
                        if u64::from(taken) <= sent && sent < u64::from(u32::MAX) {
                            limit = u64::from(taken) + u64::from(buffer);
                            prop_assert_eq!(credit.available() as u64, limit.saturating_sub(sent));
                        } else {
                            limit = sent + credit.available() as u64;
                        }
                    }
                    Step::Send(count) => {
                        let count = (count as usize).min(credit.available());
                        credit.spend(count);
                        sent += count as u64;
                        prop_assert!(count == 0 || sent <= limit);
                    }
                    Step::Receive(count) => {
                        let fits = received + u64::from(count) <= told + u64::from(CREDIT);
                        prop_assert_eq!(credit.receive(count as usize), if fits { Ok(()) } else { Err(Overrun) });
                        received += if fits { u64::from(count) } else { 0 };
                        prop_assert!(received - forwarded <= u64::from(CREDIT));
                    }
                    Step::Forward(count) => {
                        let count = u64::from(count).min(received - forwarded);
                        credit.forward(count as usize);
                        forwarded += count;
                    }
                    Step::Tell => {
                        let (buffer, taken) = credit.tell();
                        prop_assert_eq!((buffer, u64::from(taken)), (CREDIT, forwarded));
                        told = forwarded;
                        prop_assert!(!credit.must_tell());
                    }
                }
            }
        }
    }

    #[test]
    fn counters_wrap() {
        let mut credit = Credit { sent: u32::MAX - 1, guest_forwarded: u32::MAX - 5, guest_buffer: 10, ..Credit::default() };
        assert_eq!(credit.available(), 6);
        credit.spend(6);
        assert!(credit.must_ask());
        credit.ask();
        assert!(!credit.must_ask());
        credit.update(&Header { buffer: 10, forwarded: 2, ..Header::default() });
        assert_eq!(credit.available(), 8);
        let near = u32::MAX - 10;
        let mut credit = Credit { received: near, forwarded: near, told: near, ..Credit::default() };
        assert_eq!(credit.receive(CREDIT as usize), Ok(()));
        assert_eq!(credit.receive(1), Err(Overrun));
        credit.forward(CREDIT as usize);
        assert!(credit.must_tell());
        // What was taken counts only once the guest knows.
        assert_eq!(credit.receive(1), Err(Overrun));
        credit.tell();
        assert_eq!(credit.receive(1), Ok(()));
    }
}
