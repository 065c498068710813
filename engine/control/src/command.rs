//! What a client asks of a monitor, and what it hears.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{CacheMode, DiskBus};
use crate::failure::Failure;
use crate::stats::VmStats;

/// The schema of requests and messages.
pub const SCHEMA: &str = "benchtop.control/1";
/// The most text one `type` takes, in bytes.
pub const TYPE_BYTES_MAX: usize = 64 << 10;

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// No monitor, or one whose guest has gone.
    Off,
    /// vCPUs run.
    Running,
    /// vCPUs stand still, memory is kept.
    Paused,
    /// There is a monitor, and it can not be asked. Only clients say so.
    Unreachable,
}

impl VmState {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One thing to do. Descriptors it needs travel beside the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Tell about yourself.
    Show,
    /// The figures.
    Stats,
    /// Send events from now on.
    Subscribe,
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// The reset button.
    Reset,
    /// The power button.
    PowerButton,
    /// Pull the plug.
    PowerOff,
    /// Type text on the keyboard.
    Type {
        /// What; `\n` is Enter.
        text: String,
    },
    /// Press a chord and let go.
    Keys {
        /// Such as `ctrl-alt-del`.
        chord: String,
    },
    /// Bring the shared screen file up to date.
    Screen,
    /// The characters on the screen.
    TextScreen,
    /// Connect COM1 to the socket that comes with the message. Its latest output is sent first.
    Console,
    /// Put the disc whose file comes with the message into a drive.
    CdInsert {
        /// The drive; the only one where it is not said.
        device: Option<String>,
        /// Where the file is, for the configuration.
        path: PathBuf,
        /// Even if the guest locks the tray.
        force: bool,
    },
    /// Take the disc out.
    CdEject {
        /// The drive; the only one where it is not said.
        device: Option<String>,
        /// Even if the guest locks the tray.
        force: bool,
    },
}

impl Command {
    /// How many descriptors must come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Console | Self::CdInsert { .. } => 1,
            _ => 0,
        }
    }
}

/// A command on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`SCHEMA`].
    pub schema: String,
    /// The client's number for it.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// About the VM.
    Vm(Box<VmInfo>),
    /// The figures.
    Stats(Box<VmStats>),
    /// The screen file holds a picture of this size.
    Screen {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// The lines of a text screen; `None` in a graphics mode.
    Text {
        /// The lines.
        lines: Option<Vec<String>>,
    },
    /// The drive a CD command worked on.
    Drive {
        /// Its name.
        device: String,
    },
}

/// What a VM does by itself or for another client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It changed its state; why, where it did so by itself.
    State {
        /// The new state.
        state: VmState,
        /// A sentence.
        reason: Option<String>,
    },
    /// The guest reset the machine.
    Reset,
    /// A disc went in or out.
    Medium {
        /// The drive.
        device: String,
        /// Whether one is in.
        present: bool,
    },
    /// The shared screen file changed within this rectangle.
    Damage {
        /// Left.
        x: u32,
        /// Top.
        y: u32,
        /// Across.
        width: u32,
        /// Down.
        height: u32,
    },
}

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer.
        result: Result<Reply, Failure>,
    },
    /// News.
    Event(Event),
}

/// A disk or drive, as `show` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// `disk0`, `cd0`, ….
    pub name: String,
    /// `disk` or `cd`.
    pub kind: String,
    /// Controller.
    pub bus: DiskBus,
    /// The image, or the disc in the drive.
    pub file: Option<PathBuf>,
    /// The format of a disk's image, as the CLI spells it.
    #[serde(default)]
    pub format: Option<String>,
    /// The user's cache mode; a drive has none.
    pub cache: Option<CacheMode>,
    /// The disk's size, where it could be read.
    pub size_bytes: Option<u64>,
}

/// What the monitor did to itself before the guest ran, and what a test of it showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxInfo {
    /// The host's kernel confines which files can be opened.
    pub landlock: bool,
    /// The host's kernel filters system calls.
    pub seccomp: bool,
    /// Neither it nor its children can gain privileges.
    pub no_new_privileges: bool,
    /// Paths outside the bundle it tried to open, and could not.
    pub refused: Vec<PathBuf>,
    /// Those it could.
    pub opened: Vec<PathBuf>,
}

/// A VM, as `show` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// What it is called.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// What it is doing.
    pub state: VmState,
    /// Why, where it came to that by itself.
    pub reason: Option<String>,
    /// The accelerator, while it runs.
    pub accel: Option<String>,
    /// The monitor's process, while it runs.
    pub pid: Option<u32>,
    /// RAM.
    pub memory_bytes: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Disks and drives.
    pub devices: Vec<DeviceInfo>,
    /// The monitor's lock-down, while it runs.
    pub sandbox: Option<SandboxInfo>,
}
