//! Watching for a text, and typing when the guest is ready for it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use benchtop_control::failure::chain;
use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::Session;
use benchtop_machine::{MachineError, Typing};

use crate::verbs::keyboard::unescape;

/// The longest piece of serial output a text is looked for in.
const TAIL_BYTES: usize = 64 << 10;
/// How long the guest may look away from one character. A boot loader that loads modules does for long.
const PATIENCE: Duration = Duration::from_secs(120);
const FIX: &str = "Look at its screen with --screenshot, or type later with `type`.";
/// How long the screen must stand still before something is typed.
const SETTLED: Duration = Duration::from_secs(1);

/// Whether a text was seen.
#[derive(Debug)]
pub struct Watched {
    text: Option<String>,
    seen: Mutex<bool>,
    changed: Condvar,
}

impl Watched {
    /// Watches for `text`.
    pub fn new(text: Option<&str>) -> Arc<Self> {
        let text = text.map(str::to_owned);
        Arc::new(Self { text, seen: Mutex::new(false), changed: Condvar::new() })
    }

    /// Whether it was seen.
    pub fn is_seen(&self) -> bool {
        *self.lock()
    }

    /// Looks for it on the screen: in a line, or over the ends of lines as the guest wrapped it.
    pub fn look(&self, lines: &[String]) {
        let Some(text) = &self.text else { return };
        if lines.iter().any(|line| line.contains(text)) || lines.concat().contains(text) {
            self.see();
        }
    }

    /// Waits until it is seen, at most until `deadline`.
    pub fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), left, |seen| !*seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn see(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// COM1's output, watched on its way.
pub struct SerialWatch {
    watched: Arc<Watched>,
    also: Option<Box<dyn Write + Send>>,
    /// The latest output without escape sequences.
    tail: VecDeque<u8>,
    escape: Escape,
}

/// Where in an ECMA-48 escape sequence the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Began,
    Control,
}

impl SerialWatch {
    /// Watches, and writes to `also`.
    pub fn new(watched: Arc<Watched>, also: Option<Box<dyn Write + Send>>) -> Self {
        Self { watched, also, tail: VecDeque::new(), escape: Escape::No }
    }

    fn keep(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (_, 0x1b) => Escape::Began,
            (Escape::Began, b'[') => Escape::Control,
            (Escape::Began, _) => Escape::No,
            (Escape::Control, 0x40..=0x7e) => Escape::No,
            (Escape::Control, _) => Escape::Control,
            (Escape::No, _) => {
                if self.tail.len() == TAIL_BYTES {
                    self.tail.pop_front();
                }
                self.tail.push_back(byte);
                Escape::No
            }
        };
    }

    fn look(&mut self, fresh: usize) {
        let Some(text) = self.watched.text.as_deref() else { return };
        // What came now, and as much before it as the text could begin in.
        let from = self.tail.len().saturating_sub(fresh.saturating_add(text.len()));
        let found = self
            .tail
            .make_contiguous()
            .get(from..)
            .is_some_and(|tail| tail.windows(text.len().max(1)).any(|window| window == text.as_bytes()));
        if found {
            self.watched.see();
        }
    }
}

impl Write for SerialWatch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.watched.text.is_some() {
            bytes.iter().for_each(|byte| self.keep(*byte));
            self.look(bytes.len());
        }
        if let Some(also) = &mut self.also {
            also.write_all(bytes)?;
            also.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Types texts, one after the other, each when the guest seems to wait for it.
#[derive(Debug)]
pub struct Typist {
    texts: VecDeque<String>,
    /// The one being typed.
    typing: Option<Typing>,
    seen: Option<(Vec<String>, u64)>,
    since: Instant,
}

impl Typist {
    /// Will type these.
    pub fn new(texts: &[String]) -> Self {
        let texts = texts.iter().map(|text| unescape(text)).collect();
        Self { texts, typing: None, seen: None, since: Instant::now() }
    }

    /// Looks at the screen, and types the next text if it has stood still while no disk was read. Digits do not
    /// count: a boot menu counts seconds down.
    ///
    /// # Errors
    /// A character is on no key, or the guest stopped reading keys.
    pub fn step(&mut self, session: &Session, screen: Option<&[String]>) -> Result<(), Failure> {
        let failed = |error: MachineError| Failure::new(FailureKind::Failed, "can not type", chain(&error), FIX);
        if let Some(typing) = &mut self.typing {
            if session.machine().type_on(typing).map_err(failed)? {
                self.typing = None;
                self.since = Instant::now();
            }
            return Ok(());
        }
        if self.texts.is_empty() {
            return Ok(());
        }
        let requests =
            session.stats().devices.iter().fold(0u64, |sum, device| {
                sum.saturating_add(device.requests.read).saturating_add(device.requests.write)
            });
        let shown = screen.map(masked).unwrap_or_default();
        let blank = screen.is_some() && shown.iter().all(String::is_empty);
        let now = Some((shown, requests));
        if now != self.seen {
            self.seen = now;
            self.since = Instant::now();
            return Ok(());
        }
        // Firmware alone has read nothing yet; it would not know what to do with the text.
        if blank || requests == 0 || self.since.elapsed() < SETTLED {
            return Ok(());
        }
        self.since = Instant::now();
        if let Some(text) = self.texts.pop_front() {
            self.typing = Some(Typing::new(&text, PATIENCE).map_err(failed)?);
        }
        Ok(())
    }

    /// Whether the next step is wanted soon.
    pub fn is_typing(&self) -> bool {
        self.typing.is_some()
    }
}

fn masked(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_seen_across_writes_and_colours() {
        let watched = Watched::new(Some("GNU GRUB"));
        let mut serial = SerialWatch::new(watched.clone(), None);
        serial.write_all(b"xx\x1b[0;37mGNU").unwrap();
        assert!(!watched.is_seen());
        serial.write_all(b"\x1b[1m GRUB").unwrap();
        assert!(watched.is_seen());
    }

    #[test]
    fn a_text_is_seen_where_the_screen_wraps() {
        let watched = Watched::new(Some("abcdef"));
        watched.look(&["xxabc".to_owned(), "dxx".to_owned()]);
        assert!(!watched.is_seen());
        watched.look(&["xxabc".to_owned(), "defxx".to_owned()]);
        assert!(watched.is_seen());
    }

    #[test]
    fn output_without_end_is_bounded() {
        let watched = Watched::new(Some("never"));
        let mut serial = SerialWatch::new(watched, None);
        for _ in 0..100 {
            serial.write_all(&[b'x'; 10_000]).unwrap();
        }
        assert_eq!(serial.tail.len(), TAIL_BYTES);
    }

    #[test]
    fn a_countdown_stands_still() {
        assert_eq!(masked(&["in 5s".to_owned()]), masked(&["in 4s".to_owned()]));
    }
}
