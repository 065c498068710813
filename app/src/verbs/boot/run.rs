//! Running the VM of `boot` and ending it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benchtop_control::runtime::{SCREEN, SOCKET};
use benchtop_control::screen::{Picture, ScreenWriter};
use benchtop_control::{Failure, FailureKind, RuntimeFolder, VmState};
use benchtop_machine::monitor::open::Opened;
use benchtop_machine::monitor::sandbox::{Allowed, lock_down};
use benchtop_machine::monitor::{About, Server, Session, listen};

use super::Boot;
use super::watch::{SerialWatch, Typist, Watched};
use crate::output::{Output, document};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::target::boot_key;
use crate::verbs::screenshot::write_png;

/// How often the screen is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while a text is typed.
const TYPE_EVERY: Duration = Duration::from_millis(10);
/// How often the user is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Files that take what comes out.
pub struct Outputs {
    pub serial: Option<Box<dyn Write + Send>>,
    pub screenshot: Option<File>,
    pub stats: Option<File>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Seen,
    PoweredOff,
    Timeout,
    /// With the reason.
    Interrupted(&'static str),
}

/// A socket in the runtime folder, removed with this.
struct Reachable {
    folder: RuntimeFolder,
    runtime: RuntimeFolder,
    key: String,
}

impl Drop for Reachable {
    fn drop(&mut self) {
        self.folder.remove(SOCKET);
        self.folder.remove(SCREEN);
        self.runtime.forget_vm(&self.key);
    }
}

/// Runs the VM until one of its ends.
pub fn run(boot: &Boot, output: &Output, opened: Opened, outputs: Outputs) -> Result<u8, Failure> {
    let signals = Signals::watch()?;
    let mut reachable = None;
    let mut listener = None;
    let mut screen = None;
    if let Some(name) = &boot.name {
        let runtime = RuntimeFolder::open()?;
        let key = boot_key(name);
        let folder = runtime.vm(&key)?;
        listener = Some(listen(&folder)?);
        let made = Reachable { folder, runtime, key };
        screen = Some(
            ScreenWriter::create(&made.folder).map_err(|error| Failure::from_io("can not share the screen", &error))?,
        );
        reachable = Some(made);
    }
    let allowed = Allowed { bundle: None, runtime: reachable.as_ref().map(|made| made.folder.as_fd()) };
    let sandbox = lock_down(&allowed);
    let watched = Watched::new(boot.until.as_deref());
    let serial = SerialWatch::new(watched.clone(), outputs.serial);
    let about = About { bundle: None, screen, serial: Some(Box::new(serial)), sandbox, started_at: Instant::now() };
    let session = Arc::new(Session::new(opened, about)?);
    let server = match listener {
        None => None,
        Some(listener) => {
            let server = Server::new(session.clone(), listener, None)
                .and_then(|server| std::thread::Builder::new().name("monitor".to_owned()).spawn(|| server.run()));
            Some(server.map_err(|error| Failure::from_io("can not serve the VM's socket", &error))?)
        }
    };
    let progress = Progress::begin(output, "running");
    session.resume()?;
    let end = follow(boot, &session, &watched, &signals, &progress);
    progress.end();
    if matches!(end, Ok(End::Seen)) && outputs.screenshot.is_some() {
        settle(&session);
    }
    // The picture and the figures of the moment it ended.
    let ended = finish(boot, &session, outputs.screenshot, outputs.stats);
    let reason = session.feed().state().1;
    session.power_off();
    if let Some(server) = server {
        // It ends by itself once the VM is off; a panic there was printed and changes nothing here.
        drop(server.join());
    }
    ended?;
    let end = end?;
    report(boot, output, &session, end, reason)
}

/// Waits for an end.
fn follow(
    boot: &Boot,
    session: &Session,
    watched: &Watched,
    signals: &Signals,
    progress: &Progress,
) -> Result<End, Failure> {
    let deadline = boot.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut typist = Typist::new(&boot.texts);
    let mut told = Instant::now();
    loop {
        if let Some(why) = signals.came() {
            return Ok(End::Interrupted(why));
        }
        let screen = session.machine().text_screen();
        if let Some(lines) = &screen {
            watched.look(lines);
        }
        if watched.is_seen() {
            return Ok(End::Seen);
        }
        if session.feed().state().0 == VmState::Off {
            return Ok(End::PoweredOff);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(End::Timeout);
        }
        typist.step(session, screen.as_deref())?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let (state, reason) = session.feed().state();
            progress.update(reason.as_deref().unwrap_or(state.name()));
        }
        let next = Instant::now() + if typist.is_typing() { TYPE_EVERY } else { LOOK_EVERY };
        let next = deadline.map_or(next, |deadline| next.min(deadline));
        if watched.wait(next) {
            continue;
        }
        session.feed().wait_off(Instant::now());
    }
}

/// Waits until the screen stands still: what was waited for is seldom the last thing drawn.
fn settle(session: &Session) {
    const STILL: Duration = Duration::from_millis(400);
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut last = session.machine().text_screen();
    let mut since = Instant::now();
    while since.elapsed() < STILL && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
        let now = session.machine().text_screen();
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
}

/// Writes the picture and the figures.
fn finish(boot: &Boot, session: &Session, screenshot: Option<File>, stats: Option<File>) -> Result<(), Failure> {
    if let (Some(file), Some(path)) = (screenshot, &boot.screenshot) {
        let screen = session.machine().screen();
        write_png(&file, &Picture { width: screen.width, height: screen.height, rgba: screen.rgba }, path)?;
    }
    if let (Some(mut file), Some(path)) = (stats, &boot.stats) {
        let text = document("stats", &session.stats())?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| Failure::from_io(format!("can not write {}", path.display()), &error))?;
    }
    Ok(())
}

/// Says how it ended.
fn report(boot: &Boot, output: &Output, session: &Session, end: End, reason: Option<String>) -> Result<u8, Failure> {
    let what = "the VM ended too early";
    match (end, &boot.until, reason) {
        (End::Interrupted(why), ..) => Err(Failure::new(FailureKind::Interrupted, "stopped", why, "Boot it again.")),
        (End::Timeout, until, _) => {
            let why = match until {
                Some(text) => format!("\"{text}\" was not seen in time."),
                None => "The guest was still running at the end of its time.".to_owned(),
            };
            Err(Failure::new(FailureKind::Timeout, "the time is over", why, "Give it more with --timeout."))
        }
        (End::PoweredOff, _, Some(reason)) => {
            let fix = "Try another guest, or look at its screen with --screenshot.";
            Err(Failure::new(FailureKind::Failed, what, format!("{reason}."), fix))
        }
        (End::PoweredOff, Some(text), None) => {
            let why = format!("The guest powered off before \"{text}\" was seen.");
            Err(Failure::new(FailureKind::Failed, what, why, "Look at its screen with --screenshot."))
        }
        (End::Seen | End::PoweredOff, ..) => {
            let stats = session.stats();
            let how = if end == End::Seen { "seen" } else { "powered_off" };
            let existing = |path: &Option<std::path::PathBuf>| path.as_deref().map(Path::to_path_buf);
            let fields = serde_json::json!({
                "end": how, "until": boot.until, "accel": stats.accel, "uptime_ns": stats.uptime_ns,
                "start_ns": stats.start_ns, "screenshot": existing(&boot.screenshot), "stats": existing(&boot.stats),
            });
            if boot.serial.as_deref() == Some("-") {
                return Ok(0);
            }
            output.done("boot", &fields, || match (&boot.until, end) {
                (Some(text), End::Seen) => format!("seen: {text}"),
                _ => "the guest powered off".to_owned(),
            })?;
            Ok(0)
        }
    }
}
