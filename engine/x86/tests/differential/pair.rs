//! Both processors with the same memory.

use std::ops::Range;

use crate::compare::difference;
use crate::guest::Guest;
use crate::layout::{Bits, CODE, PAGE, State, Stop, WRITABLE, linear};
use crate::native::Host;
use crate::random::Random;
use crate::table::{Masks, comparable};

/// The instruction that ends code where nothing else does.
pub const INT3: u8 = 0xcc;

/// Ours and the host's.
pub struct Pair {
    host: Host,
    pub guest: Guest,
    /// Where code was put last.
    code: Range<usize>,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

/// What both did.
pub struct Outcome {
    pub stop: Stop,
    /// The host's state.
    pub theirs: State,
    /// How they differ.
    pub differs: Option<String>,
}

impl Pair {
    /// With data that is not all alike.
    pub fn new(random: &mut Random) -> Self {
        let host = Host::new();
        let mut pair =
            Self { host, guest: Guest::new(), code: CODE, ours: vec![0; PAGE * 4], theirs: vec![0; PAGE * 4] };
        for part in WRITABLE {
            let bytes: Vec<u8> = (0..part.len() / 16).flat_map(|_| random.vector().to_le_bytes()).collect();
            pair.write(part.start, &bytes);
        }
        pair.write(CODE.start, &[INT3; CODE.end - CODE.start]);
        pair
    }

    /// Puts bytes into both memories, as far as there are pages that can be written.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.host.write(offset, bytes);
        self.guest.write(offset, bytes);
    }

    /// Puts code, or as much of it as its pages hold, into both memories, and INT3 where the last was.
    pub fn write_code(&mut self, offset: usize, bytes: &[u8]) {
        let old = self.code.clone();
        self.write(old.start, &vec![INT3; old.len()]);
        let bytes = &bytes[..bytes.len().min(CODE.end - offset)];
        self.code = offset..offset + bytes.len();
        self.write(offset, bytes);
    }

    /// Runs the same on both. `masks` says what is compared, from how it ended.
    pub fn run(&mut self, bits: Bits, start: &State, masks: impl Fn(&Stop, &State) -> Masks) -> Outcome {
        let (mut ours, mut theirs) = (start.clone(), start.clone());
        let stop = self.host.run(&mut theirs, bits);
        let result = self.guest.run(&mut ours, bits);
        let masks = masks(&stop, &theirs);
        let differs = match result {
            Err(why) => Some(format!("{why}; host {stop:x?}")),
            Ok(found) if comparable(found) != comparable(stop) => {
                Some(format!("{found:x?} at RIP {:#x}, host {stop:x?} at RIP {:#x}", ours.rip, theirs.rip))
            }
            Ok(_) => difference(bits, &masks, &ours, &theirs),
        };
        let differs = match (differs, self.memory_differs(&masks.memory)) {
            (Some(differs), Some(memory)) => Some(format!("{differs}\n  {memory}")),
            (differs, memory) => differs.or(memory),
        };
        Outcome { stop, theirs, differs }
    }

    /// All that user code can write, but its code.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        let part = |part: Range<usize>| {
            let mut bytes = vec![0; part.len()];
            self.host.read(part.start, &mut bytes);
            bytes
        };
        WRITABLE.into_iter().map(part).collect()
    }

    /// Makes memory what it was.
    pub fn restore(&mut self, snapshot: &[Vec<u8>]) {
        for (part, bytes) in WRITABLE.into_iter().zip(snapshot) {
            self.write(part.start, bytes);
        }
    }

    /// The first difference of all memory but those parts. The next run begins with the same on both, whatever there is.
    fn memory_differs(&mut self, except: &[Range<u64>]) -> Option<String> {
        let mut found = None;
        for part in WRITABLE {
            let (ours, theirs) = (&mut self.ours[..part.len()], &mut self.theirs[..part.len()]);
            self.guest.read(part.start, ours);
            self.host.read(part.start, theirs);
            if ours == theirs {
                continue;
            }
            let differs = (0..part.len()).find(|at| {
                let address = linear(part.start + at);
                ours[*at] != theirs[*at] && !except.iter().any(|except| except.contains(&address))
            });
            if let Some(at) = differs {
                let end = (at + 16).min(part.len());
                found.get_or_insert(format!(
                    "memory at {:#x}: {:02x?}, host {:02x?}",
                    part.start + at,
                    &ours[at..end],
                    &theirs[at..end]
                ));
            }
            self.guest.write(part.start, theirs);
        }
        found
    }
}
