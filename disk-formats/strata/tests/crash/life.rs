//! One life of a disk: work, a cut, a look at what is left.

use std::sync::Arc;

use benchtop_block::conformance::Sequence;
use benchtop_strata::{CreateOptions, Medium, StrataDisk};

use crate::fault::{Bytes, Fault, Lie, PAGE};
use crate::guest::{COST, Kind, PASSWORD, work};
use crate::model::{BLOCKS, Model, content};

/// What went wrong.
#[derive(Debug)]
pub struct Lost(pub String);

/// States that could be returned to and are looked at again, at most.
const MARKED_MAX: usize = 6;

/// The bytes of a new disk.
pub fn create(kind: &Kind) -> Bytes {
    let options = CreateOptions {
        size_bytes: BLOCKS * PAGE,
        retention: kind.retention,
        password: kind.encrypted.then(|| (PASSWORD.to_vec().into(), COST)),
    };
    let fault = Fault::kind(Bytes::default());
    drop(StrataDisk::create(fault.clone(), &options).expect("a disk is made"));
    fault.seen()
}

/// Opens what a cut left, and compares it with what there was. `thins`: points may have gone by themselves.
pub fn look(bytes: Bytes, model: &mut Model, thins: bool) -> Result<Bytes, Lost> {
    let fault = Fault::kind(bytes);
    let disk = StrataDisk::open(fault.clone(), Some(PASSWORD), false)
        .map_err(|error| Lost(format!("it does not open: {error}")))?;
    let report = disk.check();
    if report.damages > 0 {
        return Err(Lost(format!("{report:?}")));
    }
    let found = content(&disk).map_err(Lost)?;
    if !model.allows(&found) {
        return Err(Lost(format!("{found:?}\nis nothing that was there since\n{:?}", model.flushed)));
    }
    model.settle(found);
    let points = disk.points().map_err(|error| Lost(error.to_string()))?;
    drop(disk);
    let past = StrataDisk::open(fault.clone(), Some(PASSWORD), true);
    let mut past = past.map_err(|error| Lost(format!("it does not open for reading: {error}")))?;
    let mut gone = Vec::new();
    for marked in &model.marked {
        let what = marked.name.clone().unwrap_or_else(|| format!("point {}", marked.seq));
        let Some(point) = points.iter().find(|point| point.seq == marked.seq && point.name == marked.name) else {
            if marked.dropped || (thins && marked.name.is_none()) {
                gone.push(marked.seq);
                continue;
            }
            return Err(Lost(format!("{what} is gone")));
        };
        past.rewind(point.seq).map_err(|error| Lost(format!("{what}: {error}")))?;
        let then = content(&past).map_err(|why| Lost(format!("{what}: {why}")))?;
        if then != marked.content {
            return Err(Lost(format!("{what} has changed")));
        }
    }
    model.marked.retain(|marked| !gone.contains(&marked.seq));
    let keep = model.marked.len().saturating_sub(MARKED_MAX);
    model.marked.drain(..keep);
    Ok(fault.seen())
}

/// Opens what is there, if the host lets it: it is what there was at some moment, and durable from here on.
fn reopened(fault: &Arc<Fault>, model: &mut Model) -> Result<Option<StrataDisk>, Lost> {
    let Ok(disk) = StrataDisk::open(fault.clone(), Some(PASSWORD), false) else { return Ok(None) };
    let found = content(&disk).map_err(Lost)?;
    if !model.allows(&found) {
        return Err(Lost(format!("{found:?}\nis nothing that was there since\n{:?}", model.flushed)));
    }
    model.settle(found);
    Ok(Some(disk))
}

/// One life: work, cut, look.
fn life(before: Bytes, model: &mut Model, random: &mut Sequence, kind: &Kind, lie: Lie) -> Result<Bytes, Lost> {
    let cut_at = 1 + random.below(260);
    let fault = Arc::new(Fault::new(before, cut_at, lie));
    if kind.failing && random.below(2) == 0 {
        fault.fail(random.below(260), random.below(260));
    }
    if random.below(3) == 0 {
        // Before the power goes the process is killed: what it wrote is in the host's cache, durable or not.
        fault.cut_after(random.below(260));
        if let Ok(mut disk) = StrataDisk::open(fault.clone(), Some(PASSWORD), false) {
            work(&mut disk, &fault, kind, model, random, 200).map_err(Lost)?;
            fault.cut();
            disk.abandon();
        }
        // What a failed sync left in the host's cache looks clean to the next process, which can not know. Whoever saw the
        // sync fail has it dropped; that a kill came in between is not in reach.
        fault.forget().map_err(|error| Lost(error.to_string()))?;
        fault.cut_after(cut_at);
        if let Some(disk) = reopened(&fault, model)? {
            fault.cut_after(cut_at);
            disk.abandon();
        }
    }
    if let Some(mut disk) = reopened(&fault, model)? {
        let result = work(&mut disk, &fault, kind, model, random, 200);
        fault.cut();
        drop(disk);
        result.map_err(Lost)?;
    }
    look(fault.after_cut(random), model, kind.thins)
}

/// Lives of one seed's disk, one after the other.
pub fn crash(seed: u64, cuts: u64, lie: Lie) -> Result<(), Lost> {
    let mut random = Sequence::new(seed);
    let kind = Kind::of(seed);
    let mut bytes = create(&kind);
    let mut model = Model::new(BLOCKS as usize, 0);
    for cut in 0..cuts {
        bytes = life(bytes, &mut model, &mut random, &kind, lie)
            .map_err(|Lost(why)| Lost(format!("seed {seed}, cut {cut}, {kind:?}: {why}")))?;
    }
    Ok(())
}
