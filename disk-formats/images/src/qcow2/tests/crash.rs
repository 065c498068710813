//! Power cuts: whatever the host made of what was not synced, the image opens, is sound, and holds what was flushed.

use benchtop_block::conformance::{Sequence, read, write};

use super::*;

/// What the guest did, by how many events the journal then had.
#[derive(Clone, Copy)]
enum Did {
    /// A sector got this tag, or 0 by a discard, at some time after the first count.
    Tagged(usize, u64, u32),
    /// A flush was complete.
    Flushed(usize),
}

/// Writes from a sector on so many, or discards them.
type Put<'a> = dyn FnMut(u64, u64, bool) + 'a;

struct Story {
    before: Vec<u8>,
    events: Vec<Event>,
    did: Vec<Did>,
    size_bytes: u64,
}

fn bytes_of(tag: u32) -> Vec<u8> {
    tag.to_be_bytes().repeat(128)
}

/// Runs a workload and records what it did to the file.
fn record(shape: &CreateOptions, mut work: impl FnMut(&mut Put<'_>, &mut dyn FnMut())) -> Story {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, shape).unwrap(), false).unwrap();
    let before = std::fs::read(&path).unwrap();
    recording::start();
    let count = recording::count;
    let did = std::cell::RefCell::new(Vec::new());
    let tag = std::cell::Cell::new(0);
    let mut put = |sector: u64, sectors: u64, discards: bool| {
        let at = count();
        let mut bytes = Vec::new();
        for sector in sector..sector + sectors {
            tag.set(tag.get() + 1);
            let value = if discards { 0 } else { tag.get() };
            did.borrow_mut().push(Did::Tagged(at, sector, value));
            bytes.extend(bytes_of(value));
        }
        match discards {
            true => disk.discard(sector * 512, sectors * 512).unwrap(),
            false => write(&disk, sector * 512, &bytes, &[], false).unwrap(),
        }
    };
    let mut flush = || {
        disk.flush().unwrap();
        did.borrow_mut().push(Did::Flushed(count()));
    };
    work(&mut put, &mut flush);
    let events = recording::take();
    Story { before, events, did: did.into_inner(), size_bytes: shape.size_bytes }
}

impl Story {
    /// The file after a cut before event `cut`: all that was synced, and by chance any sectors of the rest.
    fn image(&self, cut: usize, chance: &mut Sequence, honour_syncs: bool) -> Vec<u8> {
        let synced = self.events[..cut].iter().rposition(|event| honour_syncs && matches!(event, Event::Sync));
        let synced = synced.map_or(0, |at| at + 1);
        let mut image = self.before.clone();
        let odds = chance.below(5);
        for (index, event) in self.events[..cut].iter().enumerate() {
            let mut kept = || index < synced || chance.below(4) < odds;
            match event {
                Event::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let offset = *offset as usize + at;
                        let len = (512 - offset % 512).min(bytes.len() - at);
                        if kept() {
                            image.resize(image.len().max(offset + len), 0);
                            image[offset..offset + len].copy_from_slice(&bytes[at..at + len]);
                        }
                        at += len;
                    }
                }
                Event::SetLen(len) if kept() => image.resize(image.len().max(*len as usize), 0),
                Event::Zero(offset, len) if kept() => {
                    let end = image.len().min((offset + len) as usize);
                    image[(*offset as usize).min(end)..end].fill(0);
                }
                _ => {}
            }
        }
        image
    }

    /// What is wrong after a cut.
    fn judge(&self, cut: usize, image: &[u8]) -> Result<(), String> {
        let place = Place::new();
        let path = place.path("cut.qcow2");
        std::fs::write(&path, image).unwrap();
        let told = |error: BlockError| format!("cut {cut}: {error}");
        let report = check(&File::open(&path).unwrap()).map_err(told)?;
        if report.uncounted_clusters != 0 || report.wrong_marks != 0 {
            return Err(format!("cut {cut}: {report:?}"));
        }
        let disk = reopen(&path, false).map_err(told)?;
        let mut allowed = vec![vec![0u32]; (self.size_bytes / 512) as usize];
        for did in &self.did {
            match *did {
                Did::Tagged(at, sector, tag) if at <= cut => allowed[sector as usize].push(tag),
                Did::Flushed(at) if at <= cut => {
                    allowed.iter_mut().for_each(|tags| *tags = tags.split_off(tags.len() - 1));
                }
                _ => {}
            }
        }
        let bytes = read(&disk, 0, self.size_bytes as usize, &[]).map_err(told)?;
        for (sector, (got, tags)) in bytes.chunks(512).zip(&allowed).enumerate() {
            if !tags.iter().any(|tag| got == bytes_of(*tag)) {
                return Err(format!("cut {cut}: sector {sector} holds {:?}, may hold {tags:?}", &got[..4]));
            }
        }
        // And it can be used.
        write(&disk, 0, &[1; 4096], &[], true).map_err(told)?;
        drop(disk);
        let report = check(&File::open(&path).unwrap()).map_err(told)?;
        if report.uncounted_clusters != 0 { Err(format!("cut {cut}, then written: {report:?}")) } else { Ok(()) }
    }
}

fn mixed(sectors: u64, seed: u64, steps: u64) -> impl FnMut(&mut Put<'_>, &mut dyn FnMut()) {
    move |put, flush| {
        let mut sequence = Sequence::new(seed);
        for step in 0..steps {
            let sector = sequence.below(sectors);
            let count = 1 + sequence.below((sectors - sector).min(if step % 5 == 0 { 100 } else { 9 }));
            match sequence.below(9) {
                0..5 => put(sector, count, false),
                5..7 => put(sector, count, true),
                _ => flush(),
            }
        }
        flush();
    }
}

#[test]
fn every_cut_leaves_a_sound_image_with_what_was_flushed() {
    for (number, shape) in [
        options(192 << 10, 512, 16, false),
        options(192 << 10, 512, 64, false),
        options(192 << 10, 4096, 1, false),
        options(192 << 10, 16384, 16, true),
    ]
    .into_iter()
    .enumerate()
    {
        let story = record(&shape, mixed(384, number as u64, 50));
        let mut chance = Sequence::new(number as u64 + 100);
        // Every cut takes too long in every run; a different third of them for each shape does not.
        for cut in (number % 3..=story.events.len()).step_by(3) {
            let image = story.image(cut, &mut chance, true);
            story.judge(cut, &image).unwrap_or_else(|wrong| panic!("{shape:?}: {wrong}"));
        }
    }
}

/// A table of 64 blocks of 64 counts is full after 2 MiB.
#[test]
fn a_cut_while_the_refcount_table_grows_is_survived() {
    let shape = options(3 << 20, 512, 64, false);
    let work = |put: &mut Put<'_>, flush: &mut dyn FnMut()| {
        for chunk in 0..46 {
            put(chunk * 128, 128, false);
            if chunk % 8 == 7 {
                flush();
            }
        }
        flush();
    };
    let story = record(&shape, work);
    let switch = |event: &Event| matches!(event, Event::Write(48, _));
    let grown = story.events.iter().position(switch).expect("the table grew");
    let mut chance = Sequence::new(7);
    for cut in grown - 20..(grown + 40).min(story.events.len()) {
        let image = story.image(cut, &mut chance, true);
        story.judge(cut, &image).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let image = story.image(story.events.len(), &mut chance, true);
    story.judge(story.events.len(), &image).unwrap();
}

/// The negative control: on a host whose syncs do nothing, the same judge finds damage.
#[test]
fn without_syncs_the_judge_finds_damage() {
    let story = record(&options(192 << 10, 512, 16, false), mixed(384, 1, 50));
    let mut chance = Sequence::new(5);
    let wrong = (0..story.events.len()).step_by(9).filter(|cut| {
        let image = story.image(*cut, &mut chance, false);
        story.judge(*cut, &image).is_err()
    });
    assert!(wrong.count() > 5);
}
