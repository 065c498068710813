//! [`Session`]: a machine and every command on it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use benchtop_control::command::{DeviceInfo, SandboxInfo, TYPE_BYTES_MAX, VmInfo};
use benchtop_control::screen::ScreenWriter;
use benchtop_control::stats::VmStats;
use benchtop_control::{Bundle, Command, Event, Failure, FailureKind, Reply, VmState};
use parking_lot::Mutex;
use uuid::Uuid;

use super::feed::{Feed, SerialFeed, SerialPump};
use super::identity::Recorder;
use super::open::{self, Opened, Parts};
use super::trouble::machine_failure;
use crate::{Machine, MachineError, MachineEvent};

/// What a session is made with besides the machine's parts.
pub struct About {
    /// The locked bundle, whose configuration follows changes of discs. A throw-away VM has none.
    pub bundle: Option<Bundle>,
    /// Where the screen is shown to clients.
    pub screen: Option<ScreenWriter>,
    /// Where COM1's output goes besides consoles.
    pub serial: Option<Box<dyn Write + Send>>,
    /// What was done to this process.
    pub sandbox: SandboxInfo,
    /// When this process began.
    pub started_at: Instant,
}

/// A running VM.
pub struct Session {
    machine: Machine,
    feed: Arc<Feed>,
    serial: Arc<SerialPump>,
    bundle: Option<Bundle>,
    recorder: Option<Recorder>,
    screen: Mutex<Option<ScreenWriter>>,
    devices: Mutex<Vec<DeviceInfo>>,
    /// Pause and resume, with the state they lead to, one at a time.
    power: Mutex<()>,
    name: String,
    uuid: Uuid,
    memory_bytes: u64,
    cpus: u32,
    accel: &'static str,
    sandbox: SandboxInfo,
    started_at: Instant,
}

impl Session {
    /// Puts the machine together; it stands still.
    ///
    /// # Errors
    /// What the host or the accelerator refused.
    pub fn new(opened: Opened, about: About) -> Result<Self, Failure> {
        let what = format!("can not start the VM `{}`", opened.name);
        let feed = Feed::new().map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let (name, uuid, memory_bytes, cpus) = (opened.name.clone(), opened.uuid, opened.memory.bytes(), opened.cpus);
        let devices = Mutex::new(opened.devices.clone());
        let serial = SerialPump::start(SerialFeed::new(feed.clone(), about.serial))
            .map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let (told, pump) = (feed.clone(), serial.clone());
        let on_event = move |event| match event {
            MachineEvent::Serial(bytes) => pump.take(bytes),
            event => told.machine_event(event),
        };
        let Parts { hypervisor, machine, strata } = opened.into_parts(Arc::new(on_event))?;
        let recorder = match &about.bundle {
            Some(bundle) => {
                let bundle = bundle.try_clone().map_err(|error| Failure::from_io(what.as_str(), &error))?;
                Some(Recorder::start(bundle, strata).map_err(|error| machine_failure(&what, &error))?)
            }
            None => None,
        };
        let accel = hypervisor.name();
        let machine = Machine::new(hypervisor.as_ref(), machine).map_err(|error| machine_failure(&what, &error))?;
        Ok(Self {
            machine,
            feed,
            serial,
            bundle: about.bundle,
            recorder,
            screen: Mutex::new(about.screen),
            devices,
            power: Mutex::new(()),
            name,
            uuid,
            memory_bytes,
            cpus,
            accel,
            sandbox: about.sandbox,
            started_at: about.started_at,
        })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What happens in it.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts, or goes on.
    ///
    /// # Errors
    /// What the host or the accelerator refused.
    pub fn resume(&self) -> Result<(), Failure> {
        let _one = self.power.lock();
        // First, so that what the machine says by itself right after is not overwritten.
        let before = self.feed.state();
        self.feed.set_state(VmState::Running, None);
        self.machine.resume().map_err(|error| {
            self.feed.set_state(before.0, before.1);
            self.failed("resume", &error)
        })
    }

    /// Pulls the plug.
    pub fn power_off(&self) {
        self.machine.power_off();
        self.serial.end();
        self.feed.set_state(VmState::Off, None);
    }

    /// Makes the disks of a machine that is off durable, and records in the bundle how old they are.
    pub fn record_end(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.end();
        }
    }

    /// The figures, with what only this process knows.
    pub fn stats(&self) -> VmStats {
        let mut stats = self.machine.stats();
        if stats.accel.is_empty() {
            self.accel.clone_into(&mut stats.accel);
        }
        if let Some(first) = self.machine.first_run_at() {
            let took = first.saturating_duration_since(self.started_at);
            stats.start_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        }
        stats
    }

    /// About the VM.
    pub fn info(&self) -> VmInfo {
        let (state, reason) = self.feed.state();
        VmInfo {
            name: self.name.clone(),
            uuid: self.uuid,
            state,
            reason,
            accel: Some(self.accel.to_owned()),
            pid: Some(std::process::id()),
            memory_bytes: self.memory_bytes,
            cpus: self.cpus,
            devices: self.devices.lock().clone(),
            sandbox: Some(self.sandbox.clone()),
        }
    }

    /// Does what a client asks.
    ///
    /// # Errors
    /// What failed.
    pub fn execute(&self, command: Command, descriptor: Option<OwnedFd>) -> Result<Reply, Failure> {
        if self.feed.state().0 == VmState::Off && !matches!(command, Command::Show | Command::Stats) {
            return Err(self.refused(FailureKind::WrongState, "It has just gone off.", "Start it again."));
        }
        match command {
            Command::Show => return Ok(Reply::Vm(Box::new(self.info()))),
            Command::Stats => return Ok(Reply::Stats(Box::new(self.stats()))),
            // These two are the poll loop's: it answers them before they come here.
            Command::Subscribe | Command::Console => {}
            Command::Pause => {
                let _one = self.power.lock();
                self.machine.pause().map_err(|error| self.failed("pause", &error))?;
                self.feed.set_state(VmState::Paused, None);
            }
            Command::Resume => self.resume()?,
            Command::Reset => {
                self.machine.reset().map_err(|error| self.failed("reset", &error))?;
                self.feed.tell(Event::Reset);
            }
            Command::PowerButton => self.machine.power_button(),
            Command::PowerOff => self.power_off(),
            Command::Type { text } => {
                self.check_reads_keys()?;
                if text.len() > TYPE_BYTES_MAX {
                    return Err(self.refused(FailureKind::Usage, "The text is too long.", "Type it in parts."));
                }
                self.machine.type_text(&text).map_err(|error| self.failed("type into", &error))?;
            }
            Command::Keys { chord } => {
                self.check_reads_keys()?;
                self.machine.send_keys(&chord).map_err(|error| self.failed("press keys in", &error))?;
            }
            Command::Screen => return self.show_screen(),
            Command::TextScreen => return Ok(Reply::Text { lines: self.machine.text_screen() }),
            Command::CdInsert { device, path, force } => {
                return self.cd_insert(device.as_deref(), path, force, descriptor);
            }
            Command::CdEject { device, force } => return self.cd_eject(device.as_deref(), force),
        }
        Ok(Reply::Done)
    }

    /// Keys for a guest that stands still would be lost, or come all at once when it goes on.
    fn check_reads_keys(&self) -> Result<(), Failure> {
        if self.feed.state().0 == VmState::Paused {
            let fix = "Let it go on with `benchtop resume`.";
            return Err(self.refused(FailureKind::WrongState, "It is paused: its guest reads no keys.", fix));
        }
        Ok(())
    }

    fn show_screen(&self) -> Result<Reply, Failure> {
        let picture = self.machine.screen();
        let (width, height) = (picture.width, picture.height);
        match self.screen.lock().as_mut() {
            None => return Err(self.refused(FailureKind::Failed, "It shares no screen.", "Start it with a name.")),
            Some(writer) => writer
                .draw(width, height, &picture.rgba)
                .map_err(|error| Failure::from_io(format!("can not draw the screen of `{}`", self.name), &error))?,
        }
        self.feed.tell(Event::Damage { x: 0, y: 0, width, height });
        Ok(Reply::Screen { width, height })
    }

    fn cd_insert(
        &self,
        device: Option<&str>,
        path: PathBuf,
        force: bool,
        descriptor: Option<OwnedFd>,
    ) -> Result<Reply, Failure> {
        let device = self.drive(device)?;
        let Some(descriptor) = descriptor else {
            return Err(self.refused(
                FailureKind::Usage,
                "No file came with the request.",
                "Use `benchtop cd insert`.",
            ));
        };
        // What the configuration will name must be something that a start accepts.
        let open = if self.bundle.is_some() { open::bundle_medium } else { open::medium };
        let medium = open(File::from(descriptor), &path)?;
        let size_bytes = Some(medium.info().size_bytes);
        self.machine.cd_insert(&device, medium, force).map_err(|error| self.failed("insert a disc into", &error))?;
        self.medium_changed(&device, Some(path), size_bytes);
        Ok(Reply::Drive { device })
    }

    fn cd_eject(&self, device: Option<&str>, force: bool) -> Result<Reply, Failure> {
        let device = self.drive(device)?;
        self.machine.cd_eject(&device, force).map_err(|error| self.failed("eject the disc of", &error))?;
        self.medium_changed(&device, None, None);
        Ok(Reply::Drive { device })
    }

    /// Notes what is in a drive now, for clients and for the next start.
    fn medium_changed(&self, device: &str, path: Option<PathBuf>, size_bytes: Option<u64>) {
        for info in self.devices.lock().iter_mut().filter(|info| info.name == device) {
            info.file.clone_from(&path);
            info.size_bytes = size_bytes;
        }
        self.feed.tell(Event::Medium { device: device.to_owned(), present: path.is_some() });
        let Some(bundle) = &self.bundle else { return };
        // The guest has the disc already; a configuration that can not follow is worth a warning and no more.
        let saved = bundle.config().and_then(|mut config| {
            let iso = path.filter(|path| Path::is_absolute(path));
            for cd in config.cds.iter_mut().filter(|cd| cd.name == device) {
                cd.iso.clone_from(&iso);
            }
            bundle.save(&config)
        });
        if let Err(failure) = saved {
            tracing::warn!(%failure, device, "the configuration still names the old disc");
        }
    }

    /// The drive that is meant: the one named, or the only one.
    fn drive(&self, device: Option<&str>) -> Result<String, Failure> {
        let devices = self.devices.lock();
        let mut drives = devices.iter().filter(|info| info.kind == "cd").map(|info| info.name.as_str());
        let found = match device {
            Some(device) => drives.find(|name| *name == device),
            None => drives.next().filter(|_only| drives.next().is_none()),
        };
        found.map(str::to_owned).ok_or_else(|| {
            let why = match device {
                Some(device) => format!("It has no drive `{device}`."),
                None => "It does not have exactly one drive.".to_owned(),
            };
            self.refused(FailureKind::NotFound, &why, "`benchtop show` lists its drives; name one as VM:cd0.")
        })
    }

    fn refused(&self, kind: FailureKind, why: &str, fix: &str) -> Failure {
        Failure::new(kind, format!("can not do that with the VM `{}`", self.name), why, fix)
    }

    fn failed(&self, verb: &str, error: &MachineError) -> Failure {
        machine_failure(&format!("can not {verb} `{}`", self.name), error)
    }
}
