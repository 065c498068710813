//! The vCPU threads: running, parked, and asked to do something while parked.
//!
//! ```text
//!   Parked ──run()──▶ Running ──park()──▶ Parked ──stop()──▶ gone
//!     └─ on_each(work): runs on the vCPU's own thread
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use benchtop_hypervisor::{CpuIo, HypervisorError, StopReason, Vcpu, VcpuHandle, VcpuSeed};
use parking_lot::{Condvar, Mutex};

use crate::cpu_io::BoardIo;

/// What happened on a vCPU that the machine must decide about.
#[derive(Debug)]
pub enum VcpuNews {
    /// Triple fault.
    Shutdown,
    /// It can not go on.
    Failed(HypervisorError),
}

/// Work done on a parked vCPU's thread.
type Work = Arc<dyn Fn(usize, &mut dyn Vcpu) -> Result<(), HypervisorError> + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Parked,
    Running,
    Stopping,
}

struct State {
    phase: Phase,
    parked: usize,
    work: Option<Work>,
    /// Raised with each `on_each`, so that a thread does each piece of work once.
    work_number: u64,
    work_left: usize,
    work_error: Option<HypervisorError>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Mirrors `phase != Running`, to be looked at without the lock after every exit.
    leave: AtomicBool,
    handles: Vec<Arc<dyn VcpuHandle>>,
}

impl Shared {
    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.leave.store(phase != Phase::Running, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn kick_all(&self) {
        self.handles.iter().for_each(|handle| handle.kick());
    }
}

/// All vCPU threads of one machine.
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Vcpus {
    /// Starts one thread a seed, all parked, each with its own way to the board. `news` is called on a vCPU's thread just before it parks itself.
    ///
    /// # Errors
    /// The host's, when a thread can not be started.
    pub fn spawn(
        seeds: Vec<Box<dyn VcpuSeed>>,
        ios: &[Arc<BoardIo>],
        news: Arc<dyn Fn(usize, VcpuNews) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let handles: Vec<_> = seeds.iter().map(|seed| seed.handle()).collect();
        let state =
            State { phase: Phase::Parked, parked: 0, work: None, work_number: 0, work_left: 0, work_error: None };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            leave: AtomicBool::new(true),
            handles,
        });
        let vcpus = Self { shared: shared.clone(), threads: Mutex::default() };
        for (index, (seed, io)) in seeds.into_iter().zip(ios).enumerate() {
            let (shared, io, news) = (shared.clone(), io.clone(), news.clone());
            let thread = std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || match seed.bind() {
                Ok(mut vcpu) => thread_body(index, &mut *vcpu, &shared, &*io, &*news),
                Err(error) => {
                    news(index, VcpuNews::Failed(error));
                    park_without_vcpu(&shared);
                }
            })?;
            vcpus.threads.lock().push(thread);
        }
        vcpus.wait_parked();
        Ok(vcpus)
    }

    /// How to reach the vCPUs, in order.
    pub fn handles(&self) -> &[Arc<dyn VcpuHandle>] {
        &self.shared.handles
    }

    /// Asks all to leave guest mode and park, without waiting: safe on a vCPU's own thread.
    pub fn ask_to_park(&self) {
        let mut state = self.shared.state.lock();
        if state.phase == Phase::Running {
            self.shared.enter(&mut state, Phase::Parked);
        }
        drop(state);
        self.shared.kick_all();
    }

    /// Parks all and returns when they are. Never on a vCPU's own thread.
    pub fn park(&self) {
        self.ask_to_park();
        self.wait_parked();
    }

    fn wait_parked(&self) {
        let mut state = self.shared.state.lock();
        while state.parked < self.shared.handles.len() && state.phase != Phase::Stopping {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Lets all run.
    pub fn run(&self) {
        let mut state = self.shared.state.lock();
        if state.phase == Phase::Parked {
            self.shared.enter(&mut state, Phase::Running);
        }
    }

    /// Runs `work` on every parked vCPU's thread and returns when all are done. They must be parked.
    ///
    /// # Errors
    /// The first error of any.
    pub fn on_each(
        &self,
        work: impl Fn(usize, &mut dyn Vcpu) -> Result<(), HypervisorError> + Send + Sync + 'static,
    ) -> Result<(), HypervisorError> {
        let mut state = self.shared.state.lock();
        state.work = Some(Arc::new(work));
        state.work_number += 1;
        state.work_left = self.shared.handles.len();
        state.work_error = None;
        self.shared.changed.notify_all();
        while state.work_left > 0 && state.phase != Phase::Stopping {
            self.shared.changed.wait(&mut state);
        }
        state.work = None;
        state.work_error.take().map_or(Ok(()), Err)
    }

    /// Ends all threads and waits for them. Never on a vCPU's own thread.
    pub fn stop(&self) {
        self.shared.enter(&mut self.shared.state.lock(), Phase::Stopping);
        self.shared.kick_all();
        for thread in self.threads.lock().drain(..) {
            // A vCPU thread that panicked is gone too; the panic was printed where it happened.
            drop(thread.join());
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
    }
}

fn thread_body(
    index: usize,
    vcpu: &mut dyn Vcpu,
    shared: &Shared,
    io: &dyn CpuIo,
    news: &(dyn Fn(usize, VcpuNews) + Send + Sync),
) {
    let mut work_done = 0;
    loop {
        let mut state = shared.state.lock();
        state.parked += 1;
        shared.changed.notify_all();
        loop {
            if state.work_number > work_done
                && let Some(work) = state.work.clone()
            {
                work_done = state.work_number;
                drop(state);
                let result = work(index, vcpu);
                state = shared.state.lock();
                state.work_left = state.work_left.saturating_sub(1);
                if let Err(error) = result {
                    state.work_error.get_or_insert(error);
                }
                shared.changed.notify_all();
                continue;
            }
            match state.phase {
                Phase::Stopping => return,
                Phase::Running => break,
                Phase::Parked => shared.changed.wait(&mut state),
            }
        }
        state.parked -= 1;
        drop(state);
        while !shared.leave.load(Ordering::SeqCst) {
            let bad = match vcpu.run(io) {
                Ok(StopReason::Kicked | StopReason::Halted) => continue,
                Ok(StopReason::Shutdown) => VcpuNews::Shutdown,
                Err(error) => VcpuNews::Failed(error),
            };
            // The listener stops the machine; until then this vCPU must not run on.
            news(index, bad);
            let mut state = shared.state.lock();
            while state.phase == Phase::Running {
                shared.changed.wait(&mut state);
            }
        }
    }
}

/// A thread whose vCPU could not be bound counts as parked, so that nobody waits for it.
fn park_without_vcpu(shared: &Shared) {
    let mut work_done = 0;
    let mut state = shared.state.lock();
    state.parked += 1;
    shared.changed.notify_all();
    while state.phase != Phase::Stopping {
        if state.work_number > work_done {
            work_done = state.work_number;
            state.work_left = state.work_left.saturating_sub(1);
            shared.changed.notify_all();
        }
        shared.changed.wait(&mut state);
    }
}
