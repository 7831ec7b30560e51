//! Event loops: threads that sleep until a descriptor of a worker's is ready.
//!
//! One loop serves every device that never waits for the host; a device that may (files, disks) has a loop of its own, so that a slow disk delays nobody else.
//! A worker is an [`event_manager::MutEventSubscriber`]: it names its descriptors in `init`, and `process` is called when one is ready, on the loop's thread.

use std::io;
use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId};

/// What runs on a loop.
pub type Worker = Box<dyn MutEventSubscriber + Send>;

/// A handle on a loop. The loop lives as long as the process.
#[derive(Clone)]
pub struct EventLoop {
    endpoint: Arc<RemoteEndpoint<Worker>>,
}

/// A worker on a loop.
#[derive(Debug, Clone, Copy)]
pub struct Running(SubscriberId);

impl EventLoop {
    /// Starts a thread of that name, which confines itself by `confine` before it does anything else.
    ///
    /// # Errors
    /// The host's; what `confine` says.
    pub fn start(name: &str, confine: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let mut manager = EventManager::<Worker>::new().map_err(io::Error::other)?;
        let endpoint = Arc::new(manager.remote_endpoint());
        let (ready, confined) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let result = confine();
            let stays = result.is_ok();
            let _ = ready.send(result);
            if !stays {
                return;
            }
            loop {
                // A worker handles its own errors; epoll_wait's are EINTR and misuse.
                let _ = manager.run();
            }
        })?;
        confined.recv().map_err(io::Error::other)??;
        Ok(Self { endpoint })
    }

    /// Puts a worker on the loop; returns when its descriptors are watched. Not to be called on the loop's own thread.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn add(&self, worker: Worker) -> io::Result<Running> {
        let added = self.endpoint.call_blocking(|manager| Ok::<_, event_manager::Error>(manager.add_subscriber(worker)));
        added.map(Running).map_err(io::Error::other)
    }

    /// Takes a worker off the loop; when it returns the worker runs no more. Not to be called on the loop's own thread.
    ///
    /// # Errors
    /// The loop has ended, or never had it.
    pub fn remove(&self, worker: Running) -> io::Result<Worker> {
        self.endpoint.call_blocking(move |manager| manager.remove_subscriber(worker.0)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager::{EventOps, EventSet, Events};
    use vmm_sys_util::eventfd::EventFd;

    struct Echo {
        kick: EventFd,
        answer: EventFd,
    }

    impl MutEventSubscriber for Echo {
        fn process(&mut self, _: Events, _: &mut EventOps) {
            let count = self.kick.read().unwrap();
            self.answer.write(count + 1).unwrap();
        }

        fn init(&mut self, operations: &mut EventOps) {
            operations.add(Events::new(&self.kick, EventSet::IN)).unwrap();
        }
    }

    #[test]
    fn a_worker_is_woken_until_it_is_taken_off() {
        let events = EventLoop::start("events", || Ok(())).unwrap();
        let (kick, answer) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        let worker = Echo { kick: kick.try_clone().unwrap(), answer: answer.try_clone().unwrap() };
        let running = events.add(Box::new(worker)).unwrap();
        kick.write(41).unwrap();
        assert_eq!(answer.read().unwrap(), 42);
        drop(events.remove(running).unwrap());
        assert!(events.remove(running).is_err());
        assert!(EventLoop::start("events", || Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
