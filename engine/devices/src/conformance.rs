//! What every device must do alike, as functions that the tests of each device call. They assert, and so panic where
//! a device breaks a rule.

use crate::{Device, SavedState};

/// Save, restore and reset, for a device whose [`reset`](Device::reset) goes back to the state it was made in.
///
/// `make` must give a device in its power-on state, the same each time (its clock stopped at one time). `exercise`
/// should move as much of the state as it can.
///
/// # Panics
/// Where the device loses state, trusts a damaged one, or is not like new after a reset.
pub fn device_round_trip(make: impl Fn() -> Box<dyn Device>, exercise: impl FnOnce(&mut dyn Device)) {
    let exercised = save_restore_round_trip(&make, exercise);
    let new = make().save();
    let mut device = make();
    device.restore(&exercised).expect("its own state is accepted");
    device.reset();
    assert_eq!(device.save(), new, "reset leaves something of the state before it");
    for damaged in damaged_states(&exercised) {
        let mut device = make();
        if device.restore(&damaged).is_err() {
            device.reset();
            assert_eq!(device.save(), new, "a refused restore leaves what reset does not clear");
        }
    }
}

/// Save and restore alone, for a device that keeps something over a reset (battery-backed RAM, a tray).
/// Returns the exercised state.
///
/// # Panics
/// Where the device loses state or trusts a damaged one.
pub fn save_restore_round_trip(
    make: impl Fn() -> Box<dyn Device>,
    exercise: impl FnOnce(&mut dyn Device),
) -> SavedState {
    let mut device = make();
    exercise(&mut *device);
    let saved = device.save();
    assert_eq!(device.save(), saved, "saving changes the state");

    let mut twin = make();
    twin.restore(&saved).expect("its own state is accepted");
    assert_eq!(twin.save(), saved, "restore loses something");

    let mut other_kind = saved.clone();
    other_kind.kind.push('x');
    assert!(make().restore(&other_kind).is_err(), "the state of another kind of device is accepted");
    let mut other_version = saved.clone();
    other_version.version += 1;
    assert!(make().restore(&other_version).is_err(), "a state of an unknown version is accepted");

    for damaged in damaged_states(&saved) {
        let mut device = make();
        if device.restore(&damaged).is_ok() {
            // Accepted, so it must be a state this device can be in: it survives being used, saved and restored.
            let resaved = device.save();
            assert!(make().restore(&resaved).is_ok(), "a damaged state was accepted that can not be saved again");
        }
        touch(&mut *device);
        device.reset();
        touch(&mut *device);
    }
    saved
}

/// Cut short at every length, one byte too long, and with bytes changed one by one and at random.
fn damaged_states(saved: &SavedState) -> Vec<SavedState> {
    let with = |data: Vec<u8>| SavedState { data, ..saved.clone() };
    // Large states (video memory) are sampled, so that the suite stays quick.
    let step = (saved.data.len() / 256).max(1);
    let mut states = Vec::new();
    for at in (0..saved.data.len()).step_by(step) {
        states.push(with(saved.data[..at].to_vec()));
        for change in [0x00, 0x01, 0x7f, 0x80, 0xff, saved.data[at].wrapping_add(1)] {
            let mut data = saved.data.clone();
            data[at] = change;
            states.push(with(data));
        }
    }
    let mut longer = saved.data.clone();
    longer.push(0);
    states.push(with(longer));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..64 {
        let mut data = saved.data.clone();
        for _ in 0..4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [low, .., high] = random.to_le_bytes();
            let at = usize::try_from(random >> 20).unwrap_or(0) % data.len().max(1);
            if let Some(byte) = data.get_mut(at) {
                *byte = low ^ high;
            }
        }
        states.push(with(data));
    }
    states
}

/// Uses what can be used without knowing the device.
fn touch(device: &mut dyn Device) {
    if let Some(poll) = device.poll()
        && let Some(deadline_ns) = poll.deadline_ns()
    {
        poll.poll(deadline_ns);
    }
    if let Some(function) = device.pci() {
        for offset in (0..=0xfc).step_by(4) {
            let value = function.config_read(offset);
            function.config_write(offset, value, 0xffff_ffff);
            function.config_write(offset, !value, 0xffff_0000);
        }
        let _ = function.bars();
    }
}
