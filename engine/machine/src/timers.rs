//! The timer thread: polls devices when the virtual clock reaches the deadline they named.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use benchtop_devices::VirtualClock;
use benchtop_devices::bus::DeadlineObserver;
use parking_lot::{Condvar, Mutex};

/// Deadlines of all devices, and the thread's sleep.
#[derive(Default)]
struct Queue {
    by_time: BTreeSet<(u64, usize)>,
    by_device: HashMap<usize, u64>,
    running: bool,
    stopping: bool,
}

/// Collects deadlines and says which device is due.
pub struct Timers {
    queue: Mutex<Queue>,
    changed: Condvar,
    clock: VirtualClock,
}

impl Timers {
    /// No deadlines, not running.
    pub fn new(clock: VirtualClock) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), changed: Condvar::new(), clock })
    }

    /// Starts or stops firing: a paused machine's devices are not polled.
    pub fn set_running(&self, running: bool) {
        self.queue.lock().running = running;
        self.changed.notify_all();
    }

    /// Makes [`run`](Self::run) return.
    pub fn stop(&self) {
        self.queue.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The thread's body: calls `fire(device, now_ns)` for each device that is due, until [`stop`](Self::stop).
    pub fn run(&self, fire: impl Fn(usize, u64)) {
        let mut queue = self.queue.lock();
        while !queue.stopping {
            let next = if queue.running { queue.by_time.first().copied() } else { None };
            let Some((deadline_ns, device)) = next else {
                self.changed.wait(&mut queue);
                continue;
            };
            let now_ns = self.clock.now_ns();
            if now_ns < deadline_ns {
                self.changed.wait_for(&mut queue, Duration::from_nanos(deadline_ns - now_ns));
                continue;
            }
            queue.by_time.remove(&(deadline_ns, device));
            queue.by_device.remove(&device);
            drop(queue);
            fire(device, now_ns);
            queue = self.queue.lock();
        }
    }
}

impl DeadlineObserver for Timers {
    fn deadline_changed(&self, id: usize, deadline_ns: Option<u64>) {
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        let first = queue.by_time.first().copied();
        let old = match deadline_ns {
            Some(deadline_ns) => queue.by_device.insert(id, deadline_ns),
            None => queue.by_device.remove(&id),
        };
        if let Some(old) = old {
            queue.by_time.remove(&(old, id));
        }
        if let Some(deadline_ns) = deadline_ns {
            queue.by_time.insert((deadline_ns, id));
        }
        // A later first deadline needs no wake-up: the thread looks again when it wakes for the old one.
        let sooner =
            queue.by_time.first().copied().is_some_and(|now_first| first.is_none_or(|first| now_first < first));
        if sooner && queue.running {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_fire_in_order_and_only_at_their_last_deadline() {
        let clock = VirtualClock::stopped();
        let timers = Timers::new(clock.clone());
        timers.deadline_changed(1, Some(500));
        timers.deadline_changed(2, Some(300));
        timers.deadline_changed(1, Some(100));
        timers.deadline_changed(3, Some(50));
        timers.deadline_changed(3, None);
        clock.set_ns(1000);
        timers.set_running(true);
        let fired = Mutex::new(Vec::new());
        timers.run(|device, now_ns| {
            assert_eq!(now_ns, 1000);
            fired.lock().push(device);
            if fired.lock().len() == 2 {
                timers.stop();
            }
        });
        assert_eq!(*fired.lock(), [1, 2]);
    }
}
