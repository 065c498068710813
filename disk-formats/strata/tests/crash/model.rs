//! What a disk may be after a cut: what it was at some moment since the last flush.

use benchtop_block::conformance::read;
use benchtop_strata::StrataDisk;

use crate::fault::PAGE;

/// Blocks of a disk that are looked at.
pub const BLOCKS: u64 = 200;

/// What each block holds: the number of its write, or 0 for zeroes.
pub type Content = Vec<u64>;

/// One block's change.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub block: usize,
    pub value: u64,
    /// The next one comes with it, or neither.
    pub joined: bool,
}

/// A state that can be returned to.
#[derive(Clone, Debug)]
pub struct Marked {
    /// A snapshot's; else it is a flush.
    pub name: Option<String>,
    pub seq: u64,
    pub content: Content,
    /// It may be gone: somebody dropped it.
    pub dropped: bool,
}

/// What the disk may be: the content at the last flush, and the changes since, in order.
#[derive(Clone)]
pub struct Model {
    pub flushed: Content,
    pub now: Content,
    pub since: Vec<Change>,
    pub marked: Vec<Marked>,
    pub counter: u64,
}

impl Model {
    /// Of a new disk, or of some blocks of one.
    pub fn new(blocks: usize, counter: u64) -> Self {
        let zero = vec![0; blocks];
        Self { flushed: zero.clone(), now: zero, since: Vec::new(), marked: Vec::new(), counter }
    }

    pub fn change(&mut self, block: u64, value: u64) {
        self.now[block as usize] = value;
        self.since.push(Change { block: block as usize, value, joined: false });
    }

    /// All of it becomes `content`, or nothing does.
    pub fn change_all(&mut self, content: &Content) {
        let joined = (0..).zip(content).map(|(block, value)| Change { block, value: *value, joined: true });
        self.since.extend(joined);
        if let Some(last) = self.since.last_mut() {
            last.joined = false;
        }
        self.now.clone_from(content);
    }

    pub fn flush(&mut self) {
        self.flushed.clone_from(&self.now);
        self.since.clear();
    }

    /// Whether `found` is what the disk held at some moment since the flush.
    pub fn allows(&self, found: &[u64]) -> bool {
        let mut content = self.flushed.clone();
        let mut wrong = content.iter().zip(found).filter(|(a, b)| a != b).count();
        let mut whole = true;
        for Change { block, value, joined } in &self.since {
            if wrong == 0 && whole {
                return true;
            }
            let was = content[*block] == found[*block];
            content[*block] = *value;
            let is = *value == found[*block];
            wrong = wrong + usize::from(was) - usize::from(is);
            whole = !joined;
        }
        wrong == 0
    }

    /// A flush made restore point `seq`, if it is newer than the newest `before` it.
    pub fn mark_flush(&mut self, before: u64, seq: u64, content: Content) {
        if seq > before {
            self.marked.push(Marked { name: None, seq, content, dropped: false });
        }
    }

    /// From here on the disk is what was found.
    pub fn settle(&mut self, found: Content) {
        self.now = found;
        self.flush();
    }
}

pub fn block_of(value: u64) -> Vec<u8> {
    // Every word is another, so that no sector of one block could be another's.
    let word = |index: u64| if index == 0 { value } else { value.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ index << 32) };
    (0..PAGE / 8).flat_map(|index| word(index).to_le_bytes()).collect()
}

/// What the disk holds, or what is half-written.
pub fn content(disk: &StrataDisk) -> Result<Content, String> {
    let all = read(disk, 0, (BLOCKS * PAGE) as usize, &[]).map_err(|error| format!("it can not be read: {error}"))?;
    let block = |(block, bytes): (usize, &[u8])| {
        let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if bytes == block_of(value) { Ok(value) } else { Err(format!("block {block} is half-written")) }
    };
    all.chunks(PAGE as usize).enumerate().map(block).collect()
}
